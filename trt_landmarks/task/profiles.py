"""Shapes that engines are built for: for every input of every graph the smallest, the usual and the largest."""

from __future__ import annotations

import math

from trt_landmarks.engines.base import COARSE
from trt_landmarks.engines.tensorrt.record import Shapes
from trt_landmarks.export.parity import input_shapes
from trt_landmarks.task.layouts import LAYOUTS, NETS
from trt_landmarks.task.task import Task

#: Voxels of a scan along each axis: fewest and most for graphs over a whole scan.
SMALLEST_SCAN, LARGEST_SCAN = 2, 1024


def profiles(task: Task, layout: str = NETS) -> dict[str, dict[str, Shapes]]:
    """Graph name to input name to its shapes.

    Numbers of scans come from the task's ``batches``; graphs over a whole scan take one, of any size up to
    :data:`LARGEST_SCAN`, usually the coarse field of view at the patches' spacing.

    Args:
        task: what is localized.
        layout: what the graphs are (:mod:`trt_landmarks.task.layouts`).
    """
    if layout == NETS:
        return {
            graph: _batched("volume", task.batches.coarse, shape)
            if graph == COARSE
            else _batched("patches", task.batches.fine, shape)
            for graph, shape in input_shapes(task).items()
        }
    edges = zip(task.coarse.field_of_view_mm, task.fine.spacing_mm, strict=True)
    x, y, z = (min(LARGEST_SCAN, max(SMALLEST_SCAN, math.ceil(extent / step))) for extent, step in edges)
    scan: dict[str, Shapes] = {
        "voxels": ((1, 1, *(SMALLEST_SCAN,) * 3), (1, 1, z, y, x), (1, 1, *(LARGEST_SCAN,) * 3)),
        "to_grid": ((1, 3, 3),) * 3,
        "limit": ((1, 3),) * 3,
        "intensity": ((1, 2),) * 3,
    }
    points: dict[str, Shapes] = {f"{COARSE}/points": ((1, len(task.landmarks), 3),) * 3}
    return {graph: scan | (points if graph == "scan-fine" else {}) for graph in LAYOUTS[layout]}


def _batched(name: str, batches: tuple[int, int, int], shape: tuple[int, ...]) -> dict[str, Shapes]:
    smallest, usual, largest = ((batch, *shape) for batch in batches)
    return {name: (smallest, usual, largest)}
