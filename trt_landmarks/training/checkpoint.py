"""A checkpoint: the folder a finished training leaves, complete in itself.

::

    task.yaml            the task it was trained for
    checkpoint.json      versions, seed, settings, split, metrics, mean shape, SHA-256 of every weights file
    <graph>.safetensors  weights of each net (see trt_landmarks.nets.model)
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from trt_landmarks import __version__
from trt_landmarks.errors import CheckpointError
from trt_landmarks.files import file_sha256, read_json, write_text
from trt_landmarks.geometry import Floats
from trt_landmarks.nets.model import build_nets
from trt_landmarks.task.graphs import COARSE
from trt_landmarks.task.task import Task, load_task
from trt_landmarks.training.loop import write_weights
from trt_landmarks.training.record import changed_keys

FORMAT = 1


@dataclass
class Checkpoint:
    """Trained nets with everything that is known of their training.

    Attributes:
        task: what they localize.
        nets: graph name to net, in eval mode, on the CPU.
        record: ``checkpoint.json`` without the file list: seed, settings, split, metrics, versions.
    """

    task: Task
    nets: dict[str, nn.Module]
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def mean_shape(self) -> Floats:
        """``[N, 3]`` mm from the scan's middle: kept in the coarse net, which predicts the difference to it."""
        shape: Tensor = self.nets[COARSE].mean_shape  # type: ignore[assignment]
        return shape.detach().cpu().numpy().astype(np.float64)


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a checkpoint; ``checkpoint.json`` comes last, so a folder that has it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "task.yaml", checkpoint.task.to_yaml(), CheckpointError)
    files = {}
    for graph, net in checkpoint.nets.items():
        path = folder / f"{graph}.safetensors"
        write_weights(path, net.state_dict())
        files[path.name] = file_sha256(path)
    record = {
        "format": FORMAT,
        "versions": {"trt_landmarks": __version__, "torch": torch.__version__, "numpy": np.__version__},
        **checkpoint.record,
        "files": files,
    }
    write_text(folder / "checkpoint.json", json.dumps(record, indent=1) + "\n", CheckpointError)


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: naming the file, if one is missing, damaged or of another task.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such run folder.", "Name the folder given to trtlm train --out.")
    path = folder / "checkpoint.json"
    if not path.exists():
        raise CheckpointError(
            f"{folder}: holds no checkpoint.json, so its training has not finished.",
            "Run the same trtlm train command again: it resumes.",
        )
    try:
        record = read_json(path, CheckpointError, "checkpoint", remedy="Restore it or train again.")
        files = dict(record.pop("files"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: is damaged.", "Restore it or train again.") from None
    if record.get("format") != FORMAT:
        raise CheckpointError(f"{path}: has format {record.get('format')!r}, this version reads {FORMAT}.")
    task = load_task(folder / "task.yaml")
    trained = record.get("task")
    if isinstance(trained, dict):
        now = json.loads(json.dumps(task.model_dump(mode="json", exclude={"measurements"})))
        changed = changed_keys(trained, now)
        if changed:
            raise CheckpointError(
                f"{folder / 'task.yaml'}: differs from the task that was trained in {', '.join(changed)}.",
                "Restore it, or train again.",
                code="task_changed",
            )
    nets = build_nets(task)
    for graph, net in nets.items():
        weights = folder / f"{graph}.safetensors"
        if not weights.exists():
            raise CheckpointError(f"{weights}: is missing.", "Restore it or train again.")
        if file_sha256(weights) != files.get(weights.name):
            raise CheckpointError(
                f"{weights}: is not the file checkpoint.json describes.", "Restore it or train again."
            )
        try:
            net.load_state_dict(load_file(weights))
        except (SafetensorError, RuntimeError) as error:
            raise CheckpointError(f"{weights}: does not fit {folder / 'task.yaml'}: {error}.") from None
        net.eval()
    return Checkpoint(task, nets, record)
