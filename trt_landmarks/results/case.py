"""What was found in one scan: a case of the results file.

Positions are LPS mm, voxels (i, j, k) of the scan as it is stored.  Rounding: positions and voxels 1e-5,
confidences and errors 1e-5, times 0.001 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trt_landmarks.errors import PredictionsError
from trt_landmarks.geometry import AXES
from trt_landmarks.results.fields import Triple, each, fields, inside, mapping, no_duplicates, number, text, triple
from trt_landmarks.task.task import MEASUREMENT_TYPES

#: A landmark is ``located``; found with a confidence below the threshold; or its scan does not reach it.
LANDMARK_STATUSES = ("located", "low_confidence", "outside_scan")
CASE_STATUSES = ("ok", "failed")
#: A measurement is ``measured``; of a landmark that is not ``located``, the worst status of its landmarks; or cannot
#: be had, such as an angle between points that coincide.
MEASUREMENT_STATUSES = ("measured", *LANDMARK_STATUSES[1:], "undefined")
#: What a model with fitted confidence says of a landmark's error.
ERRORS = ("expected_error_mm", "error_90_mm")


@dataclass(frozen=True)
class Landmark:
    """One landmark in one scan.

    Attributes:
        name: as in the task.
        status: one of :data:`LANDMARK_STATUSES`.
        position_lps_mm: (x, y, z).
        voxel_ijk: the same point in the scan's voxels (i, j, k).
        confidence: 0..1, the probability that the error is not large; of a model without fitted confidence, the height
            of the heat map's maximum.
        expected_error_mm: mean error of landmarks like this one; None if it is not known.
        error_90_mm: 90 % of landmarks like this one have a smaller error; None if it is not known.

    Raises:
        PredictionsError: for an unknown status, a non-finite coordinate a confidence outside 0..1 or a negative error.
    """

    name: str
    status: str
    position_lps_mm: Triple
    voxel_ijk: Triple
    confidence: float
    expected_error_mm: float | None = None
    error_90_mm: float | None = None

    def __post_init__(self) -> None:
        where = f"landmark '{text(self.name, 'name')}'"
        if self.status not in LANDMARK_STATUSES:
            raise PredictionsError(f"{where}: status is {self.status!r}, not one of {', '.join(LANDMARK_STATUSES)}.")
        object.__setattr__(self, "position_lps_mm", triple(self.position_lps_mm, f"{where}: position_lps_mm"))
        object.__setattr__(self, "voxel_ijk", triple(self.voxel_ijk, f"{where}: voxel_ijk"))
        object.__setattr__(self, "confidence", number(self.confidence, f"{where}: confidence", 5))
        if not 0 <= self.confidence <= 1:
            raise PredictionsError(f"{where}: confidence is {self.confidence}, not between 0 and 1.")
        for name in ERRORS:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, number(value, f"{where}: {name}", 5))
                if value < 0:
                    raise PredictionsError(f"{where}: {name} is {value}, below 0.")

    def to_dict(self) -> dict[str, Any]:
        """As in the file; errors only if they are known."""
        errors = {name: getattr(self, name) for name in ERRORS if getattr(self, name) is not None}
        return {
            "name": self.name,
            "status": self.status,
            "position_lps_mm": list(self.position_lps_mm),
            "voxel_ijk": list(self.voxel_ijk),
            "confidence": self.confidence,
            **errors,
        }


@dataclass(frozen=True)
class KeySlice:
    """The slice on which a correlated group lies.

    Attributes:
        group: the group's name in the task.
        axis: the axis perpendicular to the slice: ``left-right``, ``anterior-posterior`` or ``superior-inferior``.
        position_mm: where on that axis, mm.
        point_lps_mm: a point of the plane, for planes oblique in the world; else None.
        normal_lps: its unit normal; else None.

    Raises:
        PredictionsError: for an unknown axis or a non-finite number.
    """

    group: str
    axis: str
    position_mm: float
    point_lps_mm: Triple | None = None
    normal_lps: Triple | None = None

    def __post_init__(self) -> None:
        where = f"key slice of '{text(self.group, 'group')}'"
        if text(self.axis, f"{where}: axis") not in AXES:
            raise PredictionsError(f"{where}: axis is {self.axis!r}, not one of {', '.join(AXES)}.")
        object.__setattr__(self, "position_mm", number(self.position_mm, f"{where}: position_mm", 5))
        for name in ("point_lps_mm", "normal_lps"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, triple(value, f"{where}: {name}"))

    def to_dict(self) -> dict[str, Any]:
        """As in the file; the point and the normal only if they are known."""
        content: dict[str, Any] = {"group": self.group, "axis": self.axis, "position_mm": self.position_mm}
        if self.point_lps_mm is not None:
            content["point_lps_mm"] = list(self.point_lps_mm)
        if self.normal_lps is not None:
            content["normal_lps"] = list(self.normal_lps)
        return content


@dataclass(frozen=True)
class Measurement:
    """A distance or an angle between landmarks of one scan.

    Attributes:
        name: as in the task.
        type: one of :data:`MEASUREMENT_TYPES`.
        points: the landmarks it is of, in the type's order.
        value: mm or degrees; None if ``status`` is ``undefined``.
        unit: ``mm`` or ``degree``.
        uncertainty: one standard deviation, in the same unit; None where a landmark's expected error is not known.
        status: one of :data:`MEASUREMENT_STATUSES`.

    Raises:
        PredictionsError: for an unknown type or status, a unit or number of points that are not the type's, a number
            that is not finite, or a value that contradicts the status.
    """

    name: str
    type: str
    points: tuple[str, ...]
    value: float | None
    unit: str
    uncertainty: float | None
    status: str

    def __post_init__(self) -> None:
        where = f"measurement '{text(self.name, 'name')}'"
        if text(self.type, f"{where}: type") not in MEASUREMENT_TYPES:
            raise PredictionsError(f"{where}: type is {self.type!r}, not one of {', '.join(MEASUREMENT_TYPES)}.")
        if self.status not in MEASUREMENT_STATUSES:
            known = ", ".join(MEASUREMENT_STATUSES)
            raise PredictionsError(f"{where}: status is {self.status!r}, not one of {known}.")
        count, unit = MEASUREMENT_TYPES[self.type]
        object.__setattr__(self, "points", tuple(text(name, f"{where}: points") for name in self.points))
        if len(self.points) != count or self.unit != unit:
            raise PredictionsError(f"{where}: {self.type} is of {count} points and in {unit}.")
        for name in ("value", "uncertainty"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, number(getattr(self, name), f"{where}: {name}", 5))
        if (self.value is None) != (self.status == "undefined"):
            raise PredictionsError(f"{where}: an undefined measurement has no value, any other has one.")
        if self.value is None and self.uncertainty is not None:
            raise PredictionsError(f"{where}: has an uncertainty, but no value.")
        if (self.value or 0) < 0 or (self.uncertainty or 0) < 0:
            raise PredictionsError(f"{where}: value and uncertainty cannot be negative.")

    def to_dict(self) -> dict[str, Any]:
        """As in the file."""
        return {
            "name": self.name,
            "type": self.type,
            "points": list(self.points),
            "value": self.value,
            "unit": self.unit,
            "uncertainty": self.uncertainty,
            "status": self.status,
        }


@dataclass(frozen=True)
class CaseError:
    """Why a case failed: the stable ``code`` of the error and its ``message``."""

    code: str
    message: str

    def __post_init__(self) -> None:
        text(self.code, "code")
        text(self.message, "message")


@dataclass(frozen=True)
class CaseWarning:
    """What a person should know of a case that is ok: a stable ``code`` and a ``message``."""

    code: str
    message: str

    def __post_init__(self) -> None:
        text(self.code, "code")
        text(self.message, "message")


@dataclass(frozen=True)
class CaseResult:
    """One scan's result.

    Attributes:
        id: the case's id: the file name without its ending.
        path: the scan as it was named.
        status: ``ok`` or ``failed``.
        error: of a failed case; None if ok.
        timing_ms: step -> ms.
        landmarks: in the task's order; normally empty for a failed case.
        key_slices: one per correlated group.
        warnings: what to know of the scan or the result.
        measurements: in the task's order.

    Raises:
        PredictionsError: if status and error contradict each other, or a landmark or measurement occurs twice.
    """

    id: str
    path: str
    status: str = "ok"
    error: CaseError | None = None
    timing_ms: Mapping[str, float] = field(default_factory=dict)
    landmarks: tuple[Landmark, ...] = ()
    key_slices: tuple[KeySlice, ...] = ()
    warnings: tuple[CaseWarning, ...] = ()
    measurements: tuple[Measurement, ...] = ()

    def __post_init__(self) -> None:
        where = f"case '{text(self.id, 'id')}'"
        text(self.path, f"{where}: path")
        if self.status not in CASE_STATUSES:
            raise PredictionsError(f"{where}: status is {self.status!r}, not one of {', '.join(CASE_STATUSES)}.")
        if (self.status == "failed") != (self.error is not None):
            raise PredictionsError(f"{where}: a failed case has an error, an ok case has none.")
        times = {step: number(ms, f"{where}: timing_ms.{step}", 3) for step, ms in self.timing_ms.items()}
        object.__setattr__(self, "timing_ms", times)
        object.__setattr__(self, "landmarks", tuple(self.landmarks))
        object.__setattr__(self, "key_slices", tuple(self.key_slices))
        object.__setattr__(self, "warnings", tuple(self.warnings))
        object.__setattr__(self, "measurements", tuple(self.measurements))
        no_duplicates((mark.name for mark in self.landmarks), f"{where}: landmark")
        no_duplicates((one.name for one in self.measurements), f"{where}: measurement")

    def to_dict(self) -> dict[str, Any]:
        """As in the file."""
        return {
            "id": self.id,
            "path": self.path,
            "status": self.status,
            "error": None if self.error is None else {"code": self.error.code, "message": self.error.message},
            "timing_ms": dict(self.timing_ms),
            "landmarks": [mark.to_dict() for mark in self.landmarks],
            "key_slices": [one.to_dict() for one in self.key_slices],
            "warnings": [{"code": one.code, "message": one.message} for one in self.warnings],
            "measurements": [one.to_dict() for one in self.measurements],
        }


def read_case(content: Any) -> CaseResult:
    """A case of the results file, checked.

    Raises:
        PredictionsError: naming the wrong field.
    """
    item = fields(content, ("id", "path", "status", "error", "timing_ms", "landmarks", "key_slices"),
                  ("warnings", "measurements"))  # fmt: skip
    if item["error"] is not None:
        with inside("error"):
            item["error"] = CaseError(**fields(item["error"], ("code", "message")))
    with inside("timing_ms"):
        mapping(item["timing_ms"])
    item["landmarks"] = each(item["landmarks"], "landmarks", _read_landmark)
    item["key_slices"] = each(item["key_slices"], "key_slices", _read_key_slice)
    item["warnings"] = each(item.get("warnings", []), "warnings", _read_warning)
    item["measurements"] = each(item.get("measurements", []), "measurements", _read_measurement)
    return CaseResult(**item)


def _read_warning(content: Any) -> CaseWarning:
    return CaseWarning(**fields(content, ("code", "message")))


def _read_measurement(content: Any) -> Measurement:
    item = fields(content, ("name", "type", "points", "value", "unit", "uncertainty", "status"))
    item["points"] = tuple(each(item["points"], "points", lambda name: text(name, "name")))
    return Measurement(**item)


def _read_landmark(content: Any) -> Landmark:
    return Landmark(**fields(content, ("name", "status", "position_lps_mm", "voxel_ijk", "confidence"), ERRORS))


def _read_key_slice(content: Any) -> KeySlice:
    return KeySlice(**fields(content, ("group", "axis", "position_mm"), ("point_lps_mm", "normal_lps")))
