"""The graphs that a task needs: their names, their inputs and the shapes that engines are built for.

A *layout* is how the method is cut into graphs.  ``nets``: one graph per net, whose inputs are sampled on the host.
The others take the scan itself (:mod:`trt_landmarks.localization.whole_scan`): ``pair``, one graph per stage;
``one``, the whole method.
"""

from __future__ import annotations

import math

from trt_landmarks.task.task import Task

#: Graph of the coarse net.
COARSE = "coarse"
#: Graph of the independent landmarks.
INDEPENDENT = "independent"

#: The layout of one graph per net.
NETS = "nets"
#: Layouts over a whole scan: their graphs, in the order in which they run.
LAYOUTS = {"pair": ("scan-coarse", "scan-fine"), "one": ("scan",)}
#: Inputs of all graphs over a whole scan; ``scan-fine`` takes the coarse points as well.
SCAN_INPUTS = ("voxels", "to_grid", "limit", "intensity")
#: Voxels of a scan along each axis: fewest and most for graphs over a whole scan.
SMALLEST_SCAN, LARGEST_SCAN = 2, 1024

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


def graph_names(task: Task, layout: str = NETS) -> tuple[str, ...]:
    """Names of the graphs of a layout, in the order in which they run."""
    return (COARSE, *fine_graphs(task)) if layout == NETS else LAYOUTS[layout]


def input_shapes(task: Task) -> dict[str, tuple[int, int, int, int]]:
    """Graph name to the shape of its input without the batch: ``[channels, Z, Y, X]``."""
    x, y, z = task.fine.shape
    fine = {graph: (len(members), z, y, x) for graph, members in fine_graphs(task).items()}
    x, y, z = task.coarse.shape
    return {COARSE: (1, z, y, x), **fine}


def profiles(task: Task, layout: str = NETS) -> dict[str, dict[str, Shapes]]:
    """Optimization profiles: graph name to input name to its smallest, usual and largest shape.

    Numbers of scans come from the task's ``batches``.  Graphs over a whole scan take one scan of any size up to
    :data:`LARGEST_SCAN`; the usual one has the coarse field of view at the patches' spacing.
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
