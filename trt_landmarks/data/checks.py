"""Checks of annotated scans before training: what is impossible is refused, what is unlikely is told.

A landmark far outside its scan, a mislabelled frame or a coarse grid that misses the anatomy do not stop a training:
they only make its model wrong.  These checks need the scans' geometry and annotations, and no net.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.data.shapes import typical_shape
from trt_landmarks.errors import DatasetError
from trt_landmarks.geometry import Floats, Geometry, anatomy_axes, rigid_rotation, same_slice
from trt_landmarks.task.task import Task

#: Samples of a coarse grid or of one patch, at most: more would not fit in the memory of a training.
MOST_SAMPLES = 1 << 27
#: A case is an outlier if its shape is this many times as far from the mean shape as the median case.
OUTLIER = 4.0
#: A case is turned if its rotation from the mean shape exceeds this (degrees), and the median case's is below half.
TURNED_DEG = 60.0


@dataclass(frozen=True)
class CheckedCase:
    """One annotated scan as the checks see it.

    Attributes:
        id: case id.
        geometry: where its voxels lie.
        points: ``[N, 3]`` LPS mm in the task's order, NaN where not annotated.
        digest: of its voxels; equal digests are the same scan.
    """

    id: str
    geometry: Geometry
    points: Floats
    digest: str

    @property
    def annotated(self) -> NDArray[np.bool_]:
        """``[N]``: which landmarks are annotated."""
        return np.asarray(~np.isnan(self.points).any(axis=1))


@dataclass(frozen=True)
class CaseRow:
    """One line of the table of cases.

    Attributes:
        id: case id.
        landmarks: how many are annotated.
        shape_mm: root mean square distance from the mean shape after rigid alignment; NaN below three landmarks.
        rotation_deg: angle of that alignment; NaN below three landmarks.
        outside_mm: the largest distance of a landmark outside the scan; 0 if all lie inside.
        off_grid: how many landmarks the coarse grid does not reach.
    """

    id: str
    landmarks: int
    shape_mm: float
    rotation_deg: float
    outside_mm: float
    off_grid: int


@dataclass(frozen=True)
class DataReport:
    """What the checks saw: a row per case, the worst first, and warnings in words."""

    rows: tuple[CaseRow, ...]
    warnings: tuple[str, ...]

    def lines(self, most: int = 10) -> list[str]:
        """The first rows as a table, and the warnings."""
        table = [f"{'case':<28}{'landmarks':>10}{'from mean shape mm':>20}{'turned deg':>12}{'outside scan mm':>17}"]
        table += [
            f"{row.id[:27]:<28}{row.landmarks:>10}{row.shape_mm:>20.2f}{row.rotation_deg:>12.0f}{row.outside_mm:>17.2f}"
            for row in self.rows[:most]
        ]
        if len(self.rows) > most:
            table.append(f"... and {len(self.rows) - most} more cases")
        return [*table, *(f"warning: {warning}" for warning in self.warnings)]


def check_training_data(task: Task, training: Sequence[CheckedCase], validation: Sequence[CheckedCase]) -> DataReport:
    """Check the cases of a training.

    Raises:
        DatasetError: if a grid of the task is too large, a landmark lies so far outside its scan that a patch about it
            shows nothing, the coarse grid misses most landmarks, or a group does not fit into its patches.
    """
    _check_grids(task)
    cases = [*training, *validation]
    mean = typical_shape(np.stack([case.points - case.geometry.centre for case in cases]))
    rows = [_row(case, mean, task) for case in cases]
    reach = min(task.fine.extent_mm) / 2
    for row, case in zip(rows, cases, strict=True):
        if row.outside_mm > reach:
            name = task.landmarks[int(np.nanargmax(_outside_mm(case)))]
            raise DatasetError(
                f"case {case.id}: landmark {name} lies {row.outside_mm:.1f} mm outside its scan.",
                "Check that the annotation belongs to the scan, and its frame (LPS or RAS).",
                code="landmark_outside_scan",
            )
    if training and np.median([row.off_grid / max(1, row.landmarks) for row in rows]) > 0.5:
        raise DatasetError(
            f"the coarse grid ({_edges(task.coarse.field_of_view_mm)} mm about the scan) misses most landmarks.",
            "Enlarge coarse.field_of_view_mm.",
            code="coarse_grid_too_small",
        )
    _check_groups(task, cases, mean)
    warnings = [*_shared_scans(training, validation), *_unlikely(rows, task)]
    order = sorted(rows, key=lambda row: (-row.outside_mm, -np.nan_to_num(row.shape_mm)))
    return DataReport(tuple(order), tuple(warnings))


def _check_grids(task: Task) -> None:
    for section, shape in (("coarse", task.coarse.shape), ("fine", task.fine.shape)):
        if np.prod([float(count) for count in shape]) > MOST_SAMPLES:
            raise DatasetError(
                f"{section}.shape {_edges(shape)} has more than {MOST_SAMPLES} samples.",
                "Take fewer samples or a wider spacing.",
                code="grid_too_large",
            )


def _row(case: CheckedCase, mean: Floats, task: Task) -> CaseRow:
    known = case.annotated & ~np.isnan(mean).any(axis=1)
    distance, angle = float("nan"), float("nan")
    if known.sum() >= 3:
        shape, target = case.points[known], mean[known]
        rotation = rigid_rotation(target, shape)
        rest = (shape - shape.mean(0)) - (target - target.mean(0)) @ rotation.T
        distance = float(np.sqrt((rest**2).sum(axis=1).mean()))
        angle = float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))
    half = np.asarray(task.coarse.field_of_view_mm) / 2
    offsets = np.abs(case.points[case.annotated] - case.geometry.centre)
    outside = float(np.nanmax(_outside_mm(case), initial=0.0))
    return CaseRow(
        case.id, int(case.annotated.sum()), distance, angle, outside, int((offsets > half).any(axis=1).sum())
    )


def _outside_mm(case: CheckedCase) -> Floats:
    """``[N]``: how far each landmark lies outside the scan's faces, mm; NaN where not annotated."""
    voxel = case.geometry.world_to_voxel(case.points)
    beyond = np.maximum(np.maximum(-0.5 - voxel, voxel - (np.asarray(case.geometry.size) - 0.5)), 0)
    distance: Floats = np.linalg.norm(beyond * np.asarray(case.geometry.spacing), axis=1)
    return distance


def _check_groups(task: Task, cases: Sequence[CheckedCase], mean: Floats) -> None:
    """Refuse a group whose landmarks lie so far from a common slice that its patches do not hold them."""
    for group in task.groups:
        members = list(task.members(group))
        half = task.fine.extent_mm[group.axis_index] / 2
        spreads = []
        for case in cases:
            if not case.annotated[members].all():
                continue
            axes = anatomy_axes(mean, case.points) if task.fine.frame == "anatomy" else np.eye(3)
            moved = same_slice(case.points, members, group.axis_index, axes) - case.points
            spreads.append(float(np.abs(moved[members] @ axes[:, group.axis_index]).max()))
        if spreads and np.median(spreads) > half:
            raise DatasetError(
                f"group {group.name}: its landmarks lie up to {np.median(spreads):.1f} mm (median case) from a common "
                f"slice, and its patches reach {half:.1f} mm.",
                "Check the group's axis and members, or leave its landmarks independent.",
                code="group_too_wide",
            )


def _shared_scans(training: Sequence[CheckedCase], validation: Sequence[CheckedCase]) -> list[str]:
    first: dict[str, str] = {}
    warnings = []
    train_ids = {case.id for case in training}
    for case in (*training, *validation):
        other = first.setdefault(case.digest, case.id)
        if other != case.id:
            both = "; one trains and the other validates" if other in train_ids and case.id not in train_ids else ""
            warnings.append(f"cases {other} and {case.id} are the same scan{both}.")
    return warnings


def _unlikely(rows: Sequence[CaseRow], task: Task) -> list[str]:
    warnings = []
    distances = np.array([row.shape_mm for row in rows])
    angles = np.array([row.rotation_deg for row in rows])
    usual = float(np.nanmedian(distances)) if np.isfinite(distances).any() else float("nan")
    straight = np.isfinite(angles).any() and float(np.nanmedian(angles)) < TURNED_DEG / 2
    for row in rows:
        if row.shape_mm > OUTLIER * usual:
            warnings.append(
                f"case {row.id}: its landmarks are {row.shape_mm:.1f} mm from the mean shape, the median case's "
                f"{usual:.1f} mm: are two of them exchanged?"
            )
        if straight and row.rotation_deg > TURNED_DEG:
            warnings.append(
                f"case {row.id}: is turned by {row.rotation_deg:.0f} degrees against the others: is its frame "
                "mislabelled (RAS as LPS)?"
            )
        if row.outside_mm > 0:
            warnings.append(f"case {row.id}: a landmark lies {row.outside_mm:.2f} mm outside the scan.")
        if row.off_grid:
            warnings.append(f"case {row.id}: {row.off_grid} landmarks lie outside the coarse grid.")
    sizes = [row.landmarks for row in rows]
    if sizes and min(sizes) < len(task.landmarks):
        incomplete = sum(size < len(task.landmarks) for size in sizes)
        warnings.append(f"{incomplete} of {len(rows)} cases lack annotations of some landmarks.")
    return warnings


def _edges(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)
