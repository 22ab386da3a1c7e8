"""The plain PyTorch script: what a competent researcher writes who follows the paper, to compare with.

PyTorch, eager, FP32, in eval mode without gradients; the nets as trained, batch normalization included.  SimpleITK
reads the scan and resamples all of it twice: to the coarse grid, and, once the coarse points are known, to the patches'
spacing along the patches' axes.  From that volume every patch is cut out by indexing, about the voxel nearest to
its centre, so that patches cost next to nothing.  The independent landmarks' nets run one landmark after the
other, a correlated group's net once; heatmaps are decoded together, the points written as JSON.

Patch centres are whole voxels here, and anything between in the other ways: points differ by a small part of a voxel.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trt_landmarks.geometry import Floats, Grid, anatomy_axes, same_slice
from trt_landmarks.nets.refine import IndependentRefiner, Millimetres
from trt_landmarks.nets.unet import UNets, unstack
from trt_landmarks.task.graphs import COARSE, INDEPENDENT, group_graph
from trt_landmarks.task.task import Task


@dataclass(frozen=True)
class ScriptNets:
    """The nets a script has: the independent landmarks' each by itself."""

    coarse: nn.Module
    independent: list[nn.Module]
    groups: dict[str, nn.Module]
    decode: nn.Module


def script_nets(task: Task, nets: Mapping[str, nn.Module]) -> ScriptNets:
    """Take the batched nets apart."""
    independent: list[nn.Module] = []
    if INDEPENDENT in nets:
        batched = nets[INDEPENDENT]
        assert isinstance(batched, IndependentRefiner)
        weights, count = batched.nets.state_dict(), len(task.independent)
        for index in range(count):
            single = UNets(1, task.fine.width, task.fine.levels)
            single.load_state_dict(unstack(weights, count, index))
            independent.append(single.eval())
    groups = {group.name: nets[group_graph(group.name)] for group in task.groups}
    return ScriptNets(nets[COARSE], independent, groups, Millimetres(task).eval())


class Script:
    """The script; one scan after the other.

    Args:
        task: what is localized.
        mean_shape: ``[N, 3]`` mm.
        nets: in eval mode.
        device: of PyTorch.
    """

    def __init__(self, task: Task, mean_shape: Floats, nets: ScriptNets, device: str = "cpu") -> None:
        self.task, self.mean_shape, self.device = task, mean_shape, torch.device(device)
        self.nets = nets
        for net in (nets.coarse, *nets.independent, *nets.groups.values(), nets.decode):
            net.to(self.device)

    @torch.no_grad()
    def localize(self, path: Path, out: Path) -> tuple[Floats, dict[str, float]]:
        """Points ``[N, 3]`` (LPS mm) of a scan file, written to ``out``; and milliseconds of every stage."""
        clock = _Clock()
        image = sitk.ReadImage(str(path))
        clock("read")
        low, high = self._range(sitk.GetArrayViewFromImage(image))
        clock("normalize")
        coarse = self.task.coarse
        middle = [(n - 1) / 2 for n in image.GetSize()]
        centre = np.array(image.TransformContinuousIndexToPhysicalPoint(middle))
        grid = Grid(coarse.shape, coarse.spacing_mm, centre).geometry
        volume = _resampled(image, grid.size, grid.spacing, grid.origin, np.eye(3), low, high)
        clock("coarse_resample")
        points = centre + self._numpy(self.nets.coarse(self._tensor(volume)[None, None]))[0]
        clock("coarse")
        axes = anatomy_axes(self.mean_shape, points) if self.task.fine.frame == "anatomy" else np.eye(3)
        centres = points
        for group in self.task.groups:
            centres = same_slice(centres, self.task.members(group), group.axis_index, axes)
        centres, patches = self._patches(image, centres, axes, low, high)
        clock("patch_sampling")
        if self.nets.independent:
            heatmaps = []
            for landmark, net in zip(self.task.independent, self.nets.independent, strict=True):
                heatmaps.append(net(self._tensor(patches[landmark])[None, None]))
            offsets, _ = self.nets.decode(torch.cat(heatmaps, dim=1))
            rows = list(self.task.independent)
            points[rows] = centres[rows] + self._numpy(offsets)[0] @ axes.T
            clock("fine_independent")
        for group in self.task.groups:
            rows = list(self.task.members(group))
            offsets = self.nets.groups[group.name](self._tensor(np.stack([patches[n] for n in rows]))[None])[0]
            points[rows] = centres[rows] + self._numpy(offsets)[0] @ axes.T
            clock("fine_correlated")
        found = dict(zip(self.task.landmarks, points.tolist(), strict=True))
        out.write_text(json.dumps({"scan": path.name, "landmarks": found}))
        clock("write")
        return points, clock.milliseconds

    def _range(self, voxels: NDArray[Any]) -> tuple[float, float]:
        """The voxel values that become 0 and 1."""
        intensity = self.task.intensity
        if intensity.method == "window":
            return intensity.low, intensity.high
        low, high = np.percentile(voxels, [intensity.low, intensity.high], method="nearest")
        return (float(low), float(high)) if high > low else (float(voxels.min()), float(voxels.max()))

    def _patches(
        self, image: Any, centres: Floats, axes: Floats, low: float, high: float
    ) -> tuple[Floats, list[NDArray[np.float32]]]:
        """All patches ``[Z, Y, X]``, cut out of the scan resampled along ``axes``; and where their centres came."""
        fine = self.task.fine
        shape, spacing = np.array(fine.shape), np.array(fine.spacing_mm)
        corners = np.stack(np.meshgrid(*((0, n - 1) for n in image.GetSize())), axis=-1).reshape(-1, 3)
        world = np.array([image.TransformIndexToPhysicalPoint([int(n) for n in corner]) for corner in corners])
        first = (world @ axes).min(axis=0)
        size = np.ceil(((world @ axes).max(axis=0) - first) / spacing).astype(int) + 1
        volume = _resampled(image, size.tolist(), spacing.tolist(), axes @ first, axes, low, high)
        start = np.rint((centres @ axes - first) / spacing - (shape - 1) / 2).astype(int)
        moved = (first + (start + (shape - 1) / 2) * spacing) @ axes.T
        return moved, [_cut(volume, corner[::-1], shape[::-1]) for corner in start]

    def _tensor(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _numpy(self, tensor: Tensor) -> Floats:
        return tensor.cpu().numpy().astype(np.float64)


def _resampled(
    image: Any, size: Any, spacing: Any, origin: Any, axes: Floats, low: float, high: float
) -> NDArray[np.float32]:
    """The scan on a grid, ``[Z, Y, X]`` in 0..1."""
    resampled = sitk.Resample(
        image, [int(n) for n in size], sitk.Transform(), sitk.sitkLinear, [float(x) for x in origin], list(spacing),
        axes.ravel().tolist(), low, sitk.sitkFloat32,
    )  # fmt: skip
    voxels = sitk.GetArrayFromImage(resampled)
    return np.clip((voxels - np.float32(low)) * np.float32(1 / (high - low)), 0, 1)


def _cut(volume: NDArray[np.float32], start: Any, shape: Any) -> NDArray[np.float32]:
    """A block of a volume, 0 where it reaches out."""
    patch = np.zeros(tuple(shape), dtype=np.float32)
    stop, whole = start + shape, np.array(volume.shape)
    inside = tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(start, stop, strict=True))
    place = tuple(
        slice(min(max(-a, 0), n), min(max(-a, 0), n) + max(0, min(b, w) - max(a, 0)))
        for a, b, n, w in zip(start, stop, shape, whole, strict=True)
    )
    patch[place] = volume[inside]
    return patch


class _Clock:
    """Milliseconds from call to call, by the name of the stage that ends."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.milliseconds[stage] = self.milliseconds.get(stage, 0.0) + 1000 * (now - self._last)
        self._last = now
