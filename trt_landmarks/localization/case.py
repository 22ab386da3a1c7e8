"""From a localization to a case of the results: statuses, key slices, warnings, measurements."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pydantic import ValidationError

from trt_landmarks.errors import ScanError, TrtlmError
from trt_landmarks.files import explain
from trt_landmarks.geometry import turned_by
from trt_landmarks.localization.result import Localization, PoseSearch
from trt_landmarks.results.case import CaseError, CaseResult, CaseWarning, KeySlice, Landmark, LandmarkStatus, Pose
from trt_landmarks.results.measurements import measure
from trt_landmarks.scan import Scan, ScanFile
from trt_landmarks.scan.anonymize import reason
from trt_landmarks.task.task import Task

#: Code of the warning of a case whose landmarks are not to be relied on at all.
NOT_THIS_ANATOMY = "not_this_anatomy"
#: Code of the warning of a case that was looked at in other poses than that in which it lies.
POSE_SEARCHED = "pose_searched"


def case_result(file: ScanFile, scan: Scan, located: Localization, task: Task) -> CaseResult:
    """A localization as a case of the results file."""
    inside = scan.geometry.contains(located.points)
    voxels = scan.geometry.world_to_voxel(located.points)
    reliability = located.reliability
    wrong = located.wrong_anatomy
    low = located.confidence < task.low_confidence_below if reliability is None else reliability.low
    landmarks = []
    for n, name in enumerate(task.landmarks):
        status: LandmarkStatus = "low_confidence" if low[n] else "located"
        landmarks.append(
            Landmark(
                name,
                status if inside[n] else "outside_scan",
                _triple(located.points[n]),
                _triple(voxels[n]),
                float(np.clip(located.confidence[n], 0, 1)),
                None if reliability is None or wrong else float(reliability.expected_error_mm[n]),
                None if reliability is None or wrong else float(reliability.error_90_mm[n]),
            )
        )
    slices = tuple(
        KeySlice(plane.group.name, plane.group.axis, plane.position_mm, _triple(plane.point), _triple(plane.normal))
        for plane in located.slices
    )
    warnings = tuple(CaseWarning(one.code, one.message) for one in scan.warnings)
    if wrong:
        warnings += (_wrong_anatomy(file, task),)
    pose = None
    if located.pose is not None:
        pose = _pose(located.pose)
        warnings += (_pose_searched(file, located.pose),)
    measured = measure(task.measurements, landmarks)
    return CaseResult(
        file.id, file.shown, "ok", None, located.timing_ms, tuple(landmarks), slices, warnings, measured, pose=pose
    )


def _pose(search: PoseSearch) -> Pose:
    if search.rotation is None:
        return Pose(None, search.turns, search.runs)
    x, y, z = (_triple(row) for row in search.rotation)
    return Pose((x, y, z), search.turns, search.runs)


def _pose_searched(file: ScanFile, search: PoseSearch) -> CaseWarning:
    if search.rotation is None:
        tried = (
            f"the anatomy was found in none of {search.turns} turns; the landmarks are those of the scan as it lies."
        )
    else:
        how = f"found among {search.turns} turns" if search.turns else "told by the landmarks of the scan as it lies"
        tried = f"the anatomy lies {turned_by(search.rotation):.0f} degrees from upright; this pose was {how}."
    return CaseWarning(POSE_SEARCHED, f"{file.shown}: {tried}")


def _wrong_anatomy(file: ScanFile, task: Task) -> CaseWarning:
    return CaseWarning(
        NOT_THIS_ANATOMY,
        f"{file.shown}: does not look like a scan of the task {task.name}: rely on none of its landmarks. Check "
        "that it shows the whole anatomy, its orientation and its quality.",
    )


def failed_case(file: ScanFile, error: Exception) -> CaseResult:
    """A scan that could not be read or computed, as a case of the results file."""
    if isinstance(error, MemoryError):
        message = f"{file.path}: does not fit in memory."
        error = ScanError(message, "Free memory or crop the scan.", code="out_of_memory")
    elif isinstance(error, OSError):
        error = ScanError(f"{file.path}: cannot be read: {error}.")
    elif isinstance(error, ValidationError):
        error = ScanError(f"{file.path}: gives a result without sense: {explain(error.errors())}.", code="internal")
    elif not isinstance(error, TrtlmError):
        message = f"{file.path}: unexpected error: {type(error).__name__}: {error}."
        error = ScanError(message, code="internal")
    return CaseResult(file.id, file.shown, "failed", CaseError(error.code, reason(file, error)))


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return (x, y, z)
