"""A training run: coarse, shared, independent and correlated nets, one after the other; each stage resumes.

The run folder holds ``train.csv`` (the log), ``stages/`` (finished nets and the state of the one in work) and,
once all is done, the checkpoint.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from trt_landmarks.data.checks import CheckedCase, check_training_data
from trt_landmarks.data.dataset import Case
from trt_landmarks.errors import CheckpointError, DatasetError
from trt_landmarks.files import make_folder, write_text
from trt_landmarks.geometry import AXES, Floats
from trt_landmarks.nets.coarse import CoarseNet
from trt_landmarks.nets.model import build_nets
from trt_landmarks.nets.refine import CorrelatedRefiner, IndependentRefiner, Millimetres
from trt_landmarks.nets.unet import UNets, stack
from trt_landmarks.task.graphs import COARSE, INDEPENDENT, group_graph
from trt_landmarks.task.task import Group, Task
from trt_landmarks.training.checkpoint import Checkpoint, save_checkpoint
from trt_landmarks.training.coarse import coarse_batch, coarse_loss, mean_radial_error, predict_coarse
from trt_landmarks.training.fine import (
    centred_patches,
    grow,
    heatmap_loss,
    random_patches,
    shared_loss,
    single_from_shared,
    slice_loss,
)
from trt_landmarks.training.loop import Log, Progress, State, fit, write_weights
from trt_landmarks.training.record import claimed
from trt_landmarks.training.scans import TrainingScan, load_training_scans, mean_shape
from trt_landmarks.training.settings import Settings
from trt_landmarks.training.validation import validate_checkpoint


@dataclass
class Run:
    """One training run; :meth:`execute` does or resumes it.

    Attributes:
        task: what is learned.
        training, validation: annotated scans; validation may be empty.
        settings: how it is learned.
        folder: the run folder.
        progress: called after every step.
        device: where to train.
        notify: receives what a person should know of the data, line by line.
        data_notes: what was left out of the data, for the checkpoint.
    """

    task: Task
    training: Sequence[Case]
    validation: Sequence[Case]
    settings: Settings
    folder: Path
    progress: Progress
    device: torch.device
    notify: Callable[[str], None] = lambda line: None
    data_notes: Sequence[str] = ()

    def execute(self) -> Checkpoint:
        """Train whatever is not trained yet and write the checkpoint."""
        self._check_annotations()
        self.stages = self.folder / "stages"
        make_folder(self.stages, CheckpointError)
        with claimed(self.folder, self._record(), (*self.training, *self.validation)):
            write_text(self.folder / "task.yaml", self.task.to_yaml(), CheckpointError)
            with tempfile.TemporaryDirectory(prefix="scans-", dir=self.stages) as large:
                return self._execute(Path(large))

    def _execute(self, large: Path) -> Checkpoint:
        """Train; ``large`` is a folder for scans that memory does not hold."""
        self.log = Log(self.folder / "train.csv")
        self.scans = load_training_scans(self.training, self.task, self.device, large)
        self.checks = load_training_scans(self.validation, self.task, self.device, large)
        report = check_training_data(self.task, *(_checked(scans) for scans in (self.scans, self.checks)))
        for line in report.lines():
            self.notify(line)
        axis = None if self.task.symmetry is None else AXES[self.task.symmetry.axis]
        self.shape = mean_shape(self.scans, self.task.mirror, axis)
        torch.manual_seed(self.settings.seed)  # the nets' initial weights
        nets = build_nets(self.task)
        coarse = nets[COARSE]
        assert isinstance(coarse, CoarseNet)
        coarse.mean_shape.copy_(torch.from_numpy(self.shape))
        self._stage(COARSE, coarse, self._train_coarse)
        self.centres = predict_coarse(coarse.to(self.device).eval(), self.checks, self.task)
        shared = self._shared_net()
        self._stage("shared", shared, self._train_shared)
        independent = nets.get(INDEPENDENT)
        if isinstance(independent, IndependentRefiner):
            singles = [self._single(shared, landmark) for landmark in self.task.independent]
            independent.nets.load_state_dict(stack(singles))
        for group in self.task.groups:
            refiner = nets[group_graph(group.name)]
            assert isinstance(refiner, CorrelatedRefiner)
            grow(refiner.net, [self._from_shared(shared, n) for n in self.task.members(group)])
            self._stage(
                group_graph(group.name), refiner.net, lambda net, name, g=group: self._train_group(net, name, g)
            )
        for net in nets.values():
            net.to("cpu").eval()
        data = {"left_out": list(self.data_notes), "warnings": list(report.warnings)}
        checkpoint = Checkpoint(self.task, nets, {**self._record(), "data": data})
        if self.validation:
            checkpoint.record["metrics"] = validate_checkpoint(checkpoint, self.validation)
        save_checkpoint(checkpoint, self.folder)
        return checkpoint

    def _check_annotations(self) -> None:
        """Refuse to train what no training case shows, even if a validation case does."""
        points = np.stack([case.points for case in self.training])
        never = [name for n, name in enumerate(self.task.landmarks) if np.isnan(points[:, n]).any(axis=-1).all()]
        if never:
            raise DatasetError(
                f"no training case is annotated with {', '.join(never)}.",
                "Annotate them, train with other cases, or remove them from the task file.",
            )

    def _record(self) -> dict[str, Any]:
        return {
            "task": self.task.model_dump(mode="json", exclude={"measurements"}),  # these train nothing
            "seed": self.settings.seed,
            "settings": self.settings.to_dict(),
            "split": {"train": [c.id for c in self.training], "val": [c.id for c in self.validation]},
        }

    def _stage(self, name: str, net: nn.Module, train: Any) -> None:
        """Load a finished net, or train it and keep it."""
        path = self.stages / f"{name}.safetensors"
        if path.exists():
            try:
                net.load_state_dict(load_file(path))
            except (SafetensorError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise CheckpointError(
                    f"{path}: is damaged or does not fit the task: {reason}.", "Remove it: the stage is trained again."
                ) from None
            return
        net.to(self.device)
        started = time.monotonic()
        if self.device.type == "cpu":
            net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        weights: State = train(net, name)
        write_weights(path, weights)
        (self.stages / f"{name}.state.pt").unlink(missing_ok=True)
        self.progress(name, -1, -1, f"{time.monotonic() - started:.0f} s")

    def _train_coarse(self, net: nn.Module, name: str) -> State:
        settings, task = self.settings, self.task

        def loss(net: nn.Module, rng: np.random.Generator) -> Tensor:
            batch = coarse_batch(self.scans, task, settings.coarse_augmentation, rng, settings.coarse.batch)
            return coarse_loss(net, *batch)

        def check(net: nn.Module) -> float:
            return mean_radial_error(predict_coarse(net, self.checks, task), self.checks)

        return self._fit(name, net, loss, settings.coarse, check)

    def _shared_net(self) -> UNets:
        torch.manual_seed(self.settings.seed)
        fine = self.task.fine
        return UNets(1, fine.width, fine.levels, heads=len(self.task.landmarks))

    def _train_shared(self, net: nn.Module, name: str) -> State:
        settings = self.settings

        def loss(net: nn.Module, rng: np.random.Generator) -> Tensor:
            return shared_loss(
                net, self.scans, self.task, self.shape, self._noise(), settings.fine_augmentation, rng,
                settings.shared.batch,
            )  # fmt: skip

        return self._fit(name, net, loss, settings.shared, None)

    def _from_shared(self, shared: nn.Module, landmark: int) -> State:
        return single_from_shared(shared.state_dict(), landmark)

    def _single(self, shared: nn.Module, landmark: int) -> State:
        """The U-Net of one independent landmark."""
        fine = self.task.fine
        net = UNets(1, fine.width, fine.levels)
        net.load_state_dict(self._from_shared(shared, landmark))
        name = f"landmark-{landmark + 1:03d}"
        self._stage(name, net, lambda net, name: self._train_single(net, name, landmark))
        return dict(net.to("cpu").state_dict())

    def _train_single(self, net: nn.Module, name: str, landmark: int) -> State:
        settings, task = self.settings, self.task

        def loss(net: nn.Module, rng: np.random.Generator) -> Tensor:
            patches = random_patches(
                self.scans, task, [landmark], self.shape, self._noise(), settings.fine_augmentation, rng,
                settings.independent.batch,
            )  # fmt: skip
            return heatmap_loss(net(patches.images), patches.offsets, task)

        return self._fit(name, net, loss, settings.independent, self._fine_check([landmark]))

    def _train_group(self, net: nn.Module, name: str, group: Group) -> State:
        settings, task = self.settings, self.task
        members, axis = task.members(group), group.axis_index

        def loss(net: nn.Module, rng: np.random.Generator) -> Tensor:
            patches = random_patches(
                self.scans, task, members, self.shape, self._noise(), settings.fine_augmentation, rng,
                settings.correlated.batch, axis,
            )  # fmt: skip
            heatmaps, slices = net(patches.images)
            total = heatmap_loss(heatmaps, patches.offsets, task)
            if slices is not None:
                total = total + task.correlated.slice_weight * slice_loss(slices, patches.offsets, axis, task)
            return total

        return self._fit(name, net, loss, settings.correlated, self._fine_check(members, axis))

    def _fine_check(self, landmarks: Sequence[int], axis: int | None = None) -> Callable[[nn.Module], float]:
        """Validation of a fine net: MRE in mm, from the coarse net's own points."""
        to_millimetres = Millimetres(self.task).to(self.device)

        def check(net: nn.Module) -> float:
            errors = []
            for scan, centres in zip(self.checks, self.centres, strict=True):
                patches = centred_patches(scan, self.task, landmarks, self.shape, centres, axis)
                heatmaps = net(patches.images)
                if axis is not None:  # a group's net gives its key slice too
                    heatmaps = heatmaps[0]
                offsets, _ = to_millimetres(heatmaps)
                errors.append(torch.linalg.vector_norm(offsets - patches.offsets, dim=2))
            return float(torch.nanmean(torch.cat(errors)))

        return check

    def _noise(self) -> Floats:
        return self.settings.noise * np.asarray(self.task.fine.extent_mm)

    def _fit(self, name: str, net: nn.Module, loss: Any, schedule: Any, check: Any) -> State:
        settings = self.settings
        with_validation = torch.inference_mode()(check) if check is not None and self.checks else None
        return fit(
            name, net, loss, schedule, settings.seed, self.stages, self.log, self.progress, with_validation,
            settings.keep,
        )  # fmt: skip


def _checked(scans: Sequence[TrainingScan]) -> list[CheckedCase]:
    return [CheckedCase(scan.id, scan.geometry, scan.points, scan.digest) for scan in scans]
