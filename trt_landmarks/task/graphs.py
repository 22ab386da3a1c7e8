"""The graphs that a task needs: their names, their inputs and the shapes that engines are built for.

A bundle has one graph per net, whose inputs are sampled on the host.  TensorRT runs the whole method as one graph,
:data:`SCAN`, put together of the nets and the geometry around them (:mod:`trt_landmarks.localization.whole_scan`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from trt_landmarks.task.task import Task

#: Graph of the coarse net.
COARSE = "coarse"
#: Graph of the independent landmarks.
INDEPENDENT = "independent"

#: Graph of the whole method.
SCAN = "scan"
#: Its inputs: the coarse net's, the scan's voxels, and where these lie.
SCAN_INPUTS = ("volume", "voxels", "placement")
#: Voxels of a scan along each axis are padded to multiples of this, so that a folder has few shapes.
PADDING = 64
#: Voxels along each axis at most, for the graph of the whole method.
LARGEST_SCAN = 1024

#: Smallest, usual and largest shape of an input.
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def group_graph(name: str) -> str:
    """Graph name of a correlated group."""
    return f"group-{name}"


def graph_file(graph: str) -> str:
    """Name of a graph's ONNX file: other files of the graph have a dot before what tells them apart."""
    return f"{graph.replace('.', '~')}.onnx"


def fine_graphs(task: Task) -> dict[str, tuple[int, ...]]:
    """Fine graph name to the indices of its landmarks."""
    graphs = {INDEPENDENT: task.independent} if task.independent else {}
    return graphs | {group_graph(group.name): task.members(group) for group in task.groups}


def graph_names(task: Task) -> tuple[str, ...]:
    """Names of a bundle's graphs, in the order in which they run."""
    return (COARSE, *fine_graphs(task))


def input_shapes(task: Task) -> dict[str, tuple[int, int, int, int]]:
    """Graph name to the shape of its input without the batch: ``[channels, Z, Y, X]``."""
    x, y, z = task.fine.shape
    fine = {graph: (len(members), z, y, x) for graph, members in fine_graphs(task).items()}
    x, y, z = task.coarse.shape
    return {COARSE: (1, z, y, x), **fine}


def net_profiles(task: Task) -> dict[str, dict[str, Shapes]]:
    """Optimization profiles of the nets alone, for numbers of scans from the task's ``batches``.

    Returns:
        Graph name to input name to its smallest, usual and largest shape.
    """
    return {
        graph: _batched("volume", task.batches.coarse, shape)
        if graph == COARSE
        else _batched("patches", task.batches.fine, shape)
        for graph, shape in input_shapes(task).items()
    }


def scan_profile(task: Task) -> dict[str, Shapes]:
    """Optimization profile of :data:`SCAN`: input name to its smallest, usual and largest shape.

    The usual scan has the coarse field of view at the patches' spacing.
    """
    edges = zip(task.coarse.field_of_view_mm, task.fine.spacing_mm, strict=True)
    x, y, z = padded_size(min(LARGEST_SCAN, math.ceil(extent / step)) for extent, step in edges)
    return {
        "volume": ((1, *input_shapes(task)[COARSE]),) * 3,
        "voxels": ((1, 1, *(PADDING,) * 3), (1, 1, z, y, x), (1, 1, *(LARGEST_SCAN,) * 3)),
        "placement": ((1, 6, 3),) * 3,
    }


def padded_size(size: Iterable[int]) -> tuple[int, int, int]:
    """Sizes of a scan along its axes, rounded up to multiples of :data:`PADDING`."""
    a, b, c = (max(1, -(-n // PADDING)) * PADDING for n in size)
    return a, b, c


def _batched(name: str, batches: tuple[int, int, int], shape: tuple[int, ...]) -> dict[str, Shapes]:
    smallest, usual, largest = ((batch, *shape) for batch in batches)
    return {name: (smallest, usual, largest)}
