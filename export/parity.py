"""How far an engine's numbers are from PyTorch's, on real patches, in voxels and in mm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.engines.base import Engine
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.scan import Scan
from trt_landmarks.task.graphs import COARSE, input_shapes
from trt_landmarks.task.task import Task

#: Batches at which graphs are compared.
BATCHES = (1, 2, 5)
#: Largest allowed difference of a position between an FP32 graph and PyTorch, in voxels of its grid.
FP32_TOLERANCE_VOXEL = 1e-3

Inputs = Mapping[str, NDArray[np.float32]]


def real_inputs(localizer: Localizer, scans: Sequence[Scan]) -> Inputs:
    """The nets' inputs on real scans, patches about the coarse net's own points: graph name to ``[scans, ...]``."""
    collected: dict[str, list[np.ndarray]] = {}
    for scan in scans:
        volume = localizer.coarse_volume(scan)
        (offsets,) = localizer.engine.run(COARSE, volume[None])
        points = scan.geometry.centre + offsets[0].astype(np.float64)
        for graph, array in {COARSE: volume, **localizer.patches(scan, points)}.items():
            collected.setdefault(graph, []).append(array)
    return {graph: np.stack(arrays) for graph, arrays in collected.items()}


def random_inputs(task: Task, count: int, seed: int = 0) -> Inputs:
    """Smooth random inputs, for a parity check without scans: graph name to ``[count, ...]``."""
    rng = np.random.default_rng(seed)
    inputs = {}
    for graph, shape in input_shapes(task).items():
        noise = rng.random((count, *shape), dtype=np.float32)
        for axis in (-1, -2, -3):
            noise = ((noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)) / 3).astype(np.float32)
        inputs[graph] = noise
    return inputs


def compare(reference: Engine, engine: Engine, task: Task, inputs: Inputs, batches: Sequence[int] = BATCHES) -> Any:
    """Compare two engines graph by graph, at several batch sizes.

    Returns:
        Plain data: per graph the largest and mean difference of positions in voxels of the graph's grid and in
        mm, the largest difference of confidences and of key slices, and the number of inputs and the batches used.
    """
    report = {}
    for graph, arrays in inputs.items():
        spacing = np.asarray(task.coarse.spacing_mm if graph == COARSE else task.fine.spacing_mm)
        mm, voxels, confidence, slices = [], [], [0.0], [0.0]
        for batch in batches:
            for start in range(0, len(arrays), batch):
                # Begin again where the inputs end, so that every batch has its full size.
                part = arrays[np.arange(start, start + batch) % len(arrays)]
                expected, got = reference.run(graph, part), engine.run(graph, part)
                difference = np.abs(expected[0].astype(np.float64) - got[0])
                mm.append(np.linalg.norm(difference, axis=-1).ravel())
                voxels.append((difference / spacing).max(axis=-1).ravel())
                if len(expected) > 1:
                    confidence.append(float(np.abs(expected[1] - got[1]).max()))
                if len(expected) > 2:
                    slices.append(float(np.abs(expected[2] - got[2]).max()))
        distance, steps = np.concatenate(mm), np.concatenate(voxels)
        report[graph] = {
            "max_voxel": round(float(steps.max()), 7),
            "mean_voxel": round(float(steps.mean()), 7),
            "max_mm": round(float(distance.max()), 7),
            "mean_mm": round(float(distance.mean()), 7),
            "max_confidence": round(max(confidence), 7),
            "max_key_slice_mm": round(max(slices), 7),
            "inputs": len(arrays),
            "batches": list(batches),
        }
    return report
