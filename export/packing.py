"""Compact storage of a bundle: its nets' weights rounded, its graphs packed (:mod:`trt_landmarks.bundles.packing`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from trt_landmarks.bundles.packing import SUFFIX, Integers, pack
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.export.parity import Inputs, compare
from trt_landmarks.export.rounding import RoundedNet, round_net
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.scan import Scan
from trt_landmarks.task.graphs import COARSE, input_shapes
from trt_landmarks.task.task import Task

#: Mean movement of points that rounding aims at, voxels of a graph's own grid.
MOVEMENT_VOXEL = 0.0005


def round_nets(
    task: Task, nets: Mapping[str, Any], inputs: Inputs, movement: float, say: Callable[[str], None]
) -> dict[str, RoundedNet]:
    """Round the nets of a task (:func:`~trt_landmarks.export.rounding.round_net`); graph name to rounded net."""
    rounded = {}
    for graph, shape in input_shapes(task).items():
        say(f"rounding the weights of {graph}")
        spacing = np.asarray(task.coarse.spacing_mm if graph == COARSE else task.fine.spacing_mm)
        rounded[graph] = round_net(nets[graph], inputs[graph], spacing, shape[0], movement)
    return rounded


def movement_of_points(
    task: Task,
    mean_shape: Any,
    before: Mapping[str, Any],
    after: Mapping[str, RoundedNet],
    inputs: Inputs,
    scans: Sequence[Scan],
) -> dict[str, Any]:
    """How far rounding moved the points, as the manifest records it.

    Returns:
        Plain data: per graph the movement of its own outputs; with scans also ``points``: of the final points, both
        stages together, in voxels of the patch grid.
    """
    engines = [TorchEngine(before), TorchEngine({graph: net.net for graph, net in after.items()})]
    report: dict[str, Any] = compare(engines[0], engines[1], task, inputs, batches=(1,))
    if scans:
        pair = [Localizer(task, mean_shape, engine) for engine in engines]
        moved = np.stack([pair[1].localize(scan).points - pair[0].localize(scan).points for scan in scans])
        voxels = np.linalg.norm(moved / np.asarray(task.fine.spacing_mm), axis=-1)
        figures = {"mean": voxels.mean(), "p99": np.percentile(voxels, 99), "max": voxels.max()}
        report["points"] = {f"{name}_voxel": round(float(value), 7) for name, value in figures.items()}
        report["points"]["scans"] = len(scans)
    return report


def pack_graphs(
    root: Path, files: Sequence[str], weights: Mapping[str, Mapping[int, Integers]]
) -> dict[str, dict[str, str]]:
    """Replace plain ONNX files of a bundle that is being written by packed ones.

    Args:
        root: the bundle's folder.
        files: the plain files, relative to ``root``.
        weights: plain file to the integers of its weights, by their offset in it; those of a file without are packed
            as they are.

    Returns:
        The manifest's ``packed``: see :attr:`trt_landmarks.bundles.bundle.Bundle.packed`.
    """
    packed = {}
    for file in files:
        path = root / file
        content = path.read_bytes()
        (root / f"{file}{SUFFIX}").write_bytes(pack(content, weights.get(file, {})))
        packed[file] = {"file": f"{file}{SUFFIX}", "sha256": hashlib.sha256(content).hexdigest()}
        path.unlink()
    return packed


def weight_offsets(plain: Path, weights: Mapping[str, Integers]) -> dict[int, Integers]:
    """The weights that a plain file stores as they are, by the offset of their bytes; others stay in it in FP32."""
    content = plain.read_bytes()
    offsets = {}
    for tensor in onnx.load_from_string(content).graph.initializer:
        weight = weights.get(tensor.name)
        if weight is not None and tensor.raw_data == weight.array().astype("<f4").tobytes():
            offsets[content.index(tensor.raw_data)] = weight
    return offsets
