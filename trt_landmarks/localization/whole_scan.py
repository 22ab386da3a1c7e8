"""The method as graphs over a scan that lies on the device: voxels in, landmarks out, nothing back in between.

    host      scan -> voxels in FP32, and where they lie
    device    coarse view -> coarse net -> points -> patches -> fine nets -> landmarks
    host      landmarks in LPS mm

The graphs are put together by :mod:`trt_landmarks.export.whole_scan`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.engines.base import Arrays, Chaining, Engine, finite
from trt_landmarks.localization.confidence import ConfidenceModel
from trt_landmarks.localization.result import Localization, SlicePlane
from trt_landmarks.preprocessing.sampling import BORDER_TOLERANCE, intensity_range
from trt_landmarks.scan import Scan
from trt_landmarks.task.graphs import LAYOUTS
from trt_landmarks.task.task import Task


def scan_inputs(scan: Scan, intensities: tuple[float, float]) -> tuple[NDArray[np.float32], ...]:
    """What the graphs take of a scan.

    Args:
        scan: the scan.
        intensities: the voxel values that become 0 and 1.

    Returns:
        voxels ``[1, 1, K, J, I]``; to_grid ``[1, 3, 3]``, from mm from the scan's centre (LPS) to normalized
        coordinates, where -1 and 1 are the middles of the first and the last voxel; limit ``[1, 3]``, the normalized
        coordinates of the volume's faces; intensity ``[1, 2]``, low and 1 / (high - low).  All float32.
    """
    size = np.asarray(scan.geometry.size, dtype=np.float64)
    half = np.maximum(size - 1, 1) / 2
    to_grid = scan.geometry.world_to_voxel_matrix[:3, :3] / half[:, None]
    limit = (size / 2 + BORDER_TOLERANCE) / half
    low, high = intensities
    arrays = (scan.voxels[None, None], to_grid[None], limit[None], np.array([[low, 1 / (high - low)]]))
    voxels, matrix, faces, intensity = (np.ascontiguousarray(array, dtype=np.float32) for array in arrays)
    return voxels, matrix, faces, intensity


class ResidentLocalizer:
    """Localizes a task's landmarks with graphs that take the scan itself.

    Args:
        task: what is localized.
        engine: runs the graphs of a layout.
        layout: one of :data:`~trt_landmarks.task.layouts.LAYOUTS`.
        confidence: judges what was found; None leaves the heights of the heat maps.
    """

    def __init__(self, task: Task, engine: Engine, layout: str, confidence: ConfidenceModel | None = None) -> None:
        self.task = task
        self.engine = engine
        self.graphs = LAYOUTS[layout]
        self.confidence = confidence

    def localize(self, scan: Scan) -> Localization:
        """Landmarks of one scan."""
        timing: dict[str, float] = {}
        start = time.perf_counter()
        inputs = scan_inputs(scan, intensity_range(scan.voxels, self.task.intensity))
        timing["normalize"] = 1000 * (time.perf_counter() - start)
        results = self._run(inputs, timing)
        found = results[-1]
        points, confidence, axes, *rest = found
        first = results[0][0] if len(results) > 1 else rest.pop(0)
        centre = scan.geometry.centre
        planes = zip(self.task.groups, rest[0][0] if rest else (), strict=False)
        located = Localization(
            centre + points[0].astype(np.float64),
            confidence[0].astype(np.float64),
            centre + first[0].astype(np.float64),
            tuple(
                SlicePlane(group, centre + point.astype(np.float64), axes[0, :, group.axis_index].astype(np.float64))
                for group, point in planes
            ),
            timing,
        )
        return located if self.confidence is None else self.confidence.judge(located)

    def _run(self, inputs: Arrays, timing: dict[str, float]) -> list[Arrays]:
        """What each graph gives; without a way over the host where the engine knows one."""
        start = time.perf_counter()
        if isinstance(self.engine, Chaining):
            results = self.engine.chain(self.graphs, *inputs)
            timing["+".join(self.graphs)] = 1000 * (time.perf_counter() - start)
        else:
            results = []
            for graph in self.graphs:
                start = time.perf_counter()
                results.append(self.engine.run(graph, *inputs, *(results[-1] if results else ())))
                timing[graph] = 1000 * (time.perf_counter() - start)
        return [finite(self.engine, graph, outputs) for graph, outputs in zip(self.graphs, results, strict=True)]

    def localize_batch(self, scans: Sequence[Scan]) -> list[Localization]:
        """Landmarks of several scans, one after the other: their volumes differ in size."""
        return [self.localize(scan) for scan in scans]
