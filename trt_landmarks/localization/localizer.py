"""The two stages, from a scan to landmarks in LPS mm (Pang et al. 2023, section 2).

    scan -> coarse volume -> coarse net -> points -> patches about the points -> fine nets -> landmarks

The localizer knows geometry and order; what executes the nets is an :class:`~trt_landmarks.engines.base.Engine`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.engines.base import Arrays, Engine, finite
from trt_landmarks.geometry import Floats, Grid, anatomy_axes, same_slice
from trt_landmarks.localization.confidence import ConfidenceModel
from trt_landmarks.localization.result import Localization, SlicePlane
from trt_landmarks.preprocessing.reference import Preprocessor, Range, ReferencePreprocessor, view
from trt_landmarks.preprocessing.sampling import intensity_range
from trt_landmarks.scan import Scan
from trt_landmarks.task.graphs import COARSE, INDEPENDENT, fine_graphs, group_graph
from trt_landmarks.task.task import Task


@dataclass(frozen=True)
class Frame:
    """How the nets are to see a scan; in the scan's own frame they see it as it lies.

    Attributes:
        axes: 3x3, orthogonal; columns are the directions (LPS) that count as x, y and z.  A reflection mirrors.
        centre: what counts as the scan's middle, LPS mm.
    """

    axes: Floats
    centre: Floats

    @classmethod
    def own(cls, scan: Scan) -> Frame:
        """The world's axes about the scan's middle."""
        return cls(np.eye(3), scan.geometry.centre)

    def to_world(self, offsets: NDArray[np.floating]) -> Floats:
        """Points ``[N, 3]`` (LPS mm) that lie so many mm along the axes from the centre."""
        return self.centre + offsets.astype(np.float64) @ self.axes.T


@dataclass(frozen=True)
class _Pose:
    """Where a scan's patches lie: their common axes and their centres ``[N, 3]`` (LPS mm)."""

    axes: Floats
    centres: Floats


class Localizer:
    """Localizes a task's landmarks in scans, with whatever engine it is given.

    Args:
        task: what is localized.
        mean_shape: ``[N, 3]`` mm, the training set's mean shape (for patches in the anatomy's frame).
        engine: runs the nets.
        preprocessor: makes the coarse net's input; None for the reference.
        confidence: judges what was found; None leaves the heights of the heat maps.
    """

    def __init__(
        self,
        task: Task,
        mean_shape: Floats,
        engine: Engine,
        preprocessor: Preprocessor | None = None,
        confidence: ConfidenceModel | None = None,
    ) -> None:
        self.task = task
        self.mean_shape = np.asarray(mean_shape, dtype=np.float64)
        self.engine = engine
        self.preprocessor = preprocessor or ReferencePreprocessor()
        self.confidence = confidence

    def localize(self, scan: Scan) -> Localization:
        """Landmarks of one scan."""
        return self.localize_batch([scan])[0]

    def localize_batch(self, scans: Sequence[Scan]) -> list[Localization]:
        """Landmarks of several scans, run through each net together."""
        return [self.judged(one) for one in self.localize_in(scans, [Frame.own(scan) for scan in scans])]

    def judged(self, located: Localization) -> Localization:
        """With the calibrated confidence, where the model has one."""
        return located if self.confidence is None else self.confidence.judge(located)

    def localize_in(
        self, scans: Sequence[Scan], frames: Sequence[Frame], ranges: Sequence[Range] | None = None
    ) -> list[Localization]:
        """Landmarks of several scans, each seen in a frame: in the world all the same, with the heat maps' heights.

        Args:
            scans: what is localized in.
            frames: one for each scan.
            ranges: for each scan the voxel values that become 0 and 1; None to find them.
        """
        if not scans:
            return []
        clock = Clock(len(scans))
        with clock("normalize"):
            ranges = ranges or [intensity_range(scan.voxels, self.task.intensity) for scan in scans]
        with clock("coarse_resample"):
            grids = [coarse_grid(self.task, scan, frame) for scan, frame in zip(scans, frames, strict=True)]
            volumes = self.preprocessor.coarse_volumes(scans, grids, ranges)
        with clock("coarse"):
            offsets = self.coarse_offsets(volumes)
        coarse = [frame.to_world(o) for frame, o in zip(frames, offsets, strict=True)]
        return self._refine(scans, frames, ranges, coarse, clock)

    def coarse_volume(self, scan: Scan) -> NDArray[np.float32]:
        """The coarse net's input of one scan, ``[1, Z, Y, X]`` in 0..1."""
        intensities = intensity_range(scan.voxels, self.task.intensity)
        return self.preprocessor.coarse_volumes([scan], [coarse_grid(self.task, scan)], [intensities])[0]

    def coarse_offsets(self, volumes: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the coarse net sees in ``[B, 1, Z, Y, X]``: points ``[B, N, 3]``, mm from the middle of each."""
        (offsets,) = self._run(COARSE, volumes)
        return offsets

    def patches(self, scan: Scan, coarse_points: Floats) -> dict[str, NDArray[np.float32]]:
        """The fine nets' inputs of one scan: graph name to ``[L, Z, Y, X]`` in 0..1."""
        intensities = intensity_range(scan.voxels, self.task.intensity)
        pose = self._pose(Frame.own(scan), np.asarray(coarse_points, dtype=np.float64))
        return {
            graph: np.stack([view(scan, self._patch_grid(pose, n), intensities) for n in members])
            for graph, members in self.members.items()
        }

    @property
    def members(self) -> dict[str, tuple[int, ...]]:
        """Fine graph name to the indices of its landmarks."""
        return fine_graphs(self.task)

    def _run(self, graph: str, array: NDArray[np.float32]) -> Arrays:
        return finite(self.engine, graph, self.engine.run(graph, array))

    def _patch_grid(self, pose: _Pose, landmark: int) -> Grid:
        fine = self.task.fine
        return Grid(fine.shape, fine.spacing_mm, pose.centres[landmark], pose.axes)

    def _pose(self, frame: Frame, coarse: Floats) -> _Pose:
        """Axes and centres of the patches; each group's centres are reset to one slice."""
        axes = frame.axes
        if self.task.fine.frame == "anatomy":
            axes = axes @ anatomy_axes(self.mean_shape, coarse @ axes)
        centres = coarse
        for group in self.task.groups:
            centres = same_slice(centres, self.task.members(group), group.axis_index, axes)
        return _Pose(axes, centres)

    def _refine(
        self,
        scans: Sequence[Scan],
        frames: Sequence[Frame],
        ranges: Sequence[Range],
        coarse: list[Floats],
        clock: Clock,
    ) -> list[Localization]:
        poses = [self._pose(frame, points) for frame, points in zip(frames, coarse, strict=True)]
        points = [np.array(p, dtype=np.float64) for p in coarse]
        confidences = [np.zeros(len(p)) for p in coarse]
        planes: list[list[SlicePlane]] = [[] for _ in scans]
        groups = {group_graph(group.name): group for group in self.task.groups}
        for graph, members in self.members.items():
            with clock("patch_sampling"):
                patches = np.stack([
                    np.stack([view(scan, self._patch_grid(pose, n), r) for n in members])
                    for scan, r, pose in zip(scans, ranges, poses, strict=True)
                ])  # fmt: skip
            with clock("fine_independent" if graph == INDEPENDENT else "fine_correlated"):
                offsets, confidence, *key = self._run(graph, patches)
            rows = list(members)
            for index, pose in enumerate(poses):
                found = pose.centres[rows] + offsets[index].astype(np.float64) @ pose.axes.T
                points[index][rows] = found
                confidences[index][rows] = confidence[index]
                if key:
                    normal = pose.axes[:, groups[graph].axis_index]
                    middle = pose.centres[rows].mean(axis=0)
                    point = middle + normal * float(key[0][index])
                    planes[index].append(SlicePlane(groups[graph], point, normal))
        timing = clock.shares()
        return [
            Localization(p, c, k, tuple(s), dict(timing))
            for p, c, k, s in zip(points, confidences, coarse, planes, strict=True)
        ]


def coarse_grid(task: Task, scan: Scan, frame: Frame | None = None) -> Grid:
    """The coarse grid (LPS mm): about the scan's middle, along the world's axes; or a frame's middle and axes."""
    coarse, frame = task.coarse, frame or Frame.own(scan)
    return Grid(coarse.shape, coarse.spacing_mm, frame.centre, frame.axes)


class Clock:
    """Adds up the time of each stage."""

    def __init__(self, scans: int) -> None:
        self.scans = scans
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def shares(self) -> dict[str, float]:
        return {stage: 1000 * seconds / self.scans for stage, seconds in self.seconds.items()}
