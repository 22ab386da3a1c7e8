"""What was found in one scan: a case of the results file.

Positions are LPS mm, voxels (i, j, k) of the scan as it is stored.  Rounding: positions and voxels 1e-5,
confidences and errors 1e-5, times 0.001 ms.

The records are checked by pydantic, whether a program makes them or a file is read; the results file's JSON Schema
is made from them (:func:`trt_landmarks.results.predictions.predictions_schema`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, PlainValidator, TypeAdapter, WithJsonSchema
from pydantic import ValidationError as Invalid
from pydantic.dataclasses import dataclass

from trt_landmarks.errors import PredictionsError
from trt_landmarks.files import explain
from trt_landmarks.task.task import MEASUREMENT_TYPES, Axis

#: A landmark is ``located``; found with a confidence below the threshold; or its scan does not reach it.
LandmarkStatus = Literal["located", "low_confidence", "outside_scan"]
LANDMARK_STATUSES: tuple[LandmarkStatus, ...] = ("located", "low_confidence", "outside_scan")
#: A measurement is ``measured``; of a landmark that is not ``located``, the worst status of its landmarks; or cannot
#: be had, such as an angle between points that coincide.
MeasurementStatus = Literal["measured", "low_confidence", "outside_scan", "undefined"]
#: What a model with fitted confidence says of a landmark's error.
ERRORS = ("expected_error_mm", "error_90_mm")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("should be a text that is not empty")
    return value


def _rounded(value: float) -> float:
    return round(value, 5) + 0.0  # -0 becomes 0


def _probability(value: float) -> float:
    value = _rounded(value)
    if not 0 <= value <= 1:
        raise ValueError(f"is {value}, not between 0 and 1")
    return value


def _not_negative(value: float) -> float:
    if value < 0:
        raise ValueError(f"is {value}, below 0")
    return _rounded(value)


def check_distinct(names: Iterable[str], what: str) -> None:
    """Raise ValueError if a name occurs twice; ``what`` says what has the names."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what} '{name}' occurs twice")
        seen.add(name)


_Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
#: Any text but the empty one, also one with what a file name has that is not UTF-8, which pydantic's own would refuse.
Text = Annotated[str, PlainValidator(_text), WithJsonSchema({"type": "string", "minLength": 1})]
Number = Annotated[_Finite, AfterValidator(_rounded)]
Milliseconds = Annotated[_Finite, AfterValidator(lambda value: round(value, 3) + 0.0)]
Length = Annotated[_Finite, AfterValidator(_not_negative), WithJsonSchema({"type": "number", "minimum": 0})]
Probability = Annotated[
    _Finite, AfterValidator(_probability), WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})
]
Triple = tuple[Number, Number, Number]

#: Unknown keys are errors; what the descriptions of the attributes say goes into the schema.
STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)


@dataclass(frozen=True, config=STRICT)
class Landmark:
    """One landmark in one scan."""

    name: Text
    """As in the task; distinct within a case."""
    status: LandmarkStatus
    """low_confidence: found, but below the model's threshold. outside_scan: the position is a guess."""
    position_lps_mm: Triple
    """x, y, z."""
    voxel_ijk: Triple
    """The same point as i, j, k of the stored scan; may lie outside it."""
    confidence: Probability
    """Probability that the error is not large; of a model without fitted confidence, the heatmap's height."""
    expected_error_mm: Length | None = None
    """Mean error of landmarks like this one in validation. Absent or null if it is not known."""
    error_90_mm: Length | None = None
    """90 % of the landmarks like this one in validation have a smaller error. Absent or null if it is not known."""

    def to_dict(self) -> dict[str, Any]:
        """As in the file; errors only if they are known."""
        return _plain(self, optional=ERRORS)


@dataclass(frozen=True, config=STRICT)
class KeySlice:
    """The slice on which a correlated group of landmarks lies."""

    group: Text
    """As in the task."""
    axis: Axis
    """The axis perpendicular to the slice."""
    position_mm: Number
    """Where on that axis."""
    point_lps_mm: Triple | None = None
    """A point of the slice's plane, for planes oblique in the world."""
    normal_lps: Triple | None = None
    """The plane's unit normal."""

    def to_dict(self) -> dict[str, Any]:
        """As in the file; the point and the normal only if they are known."""
        return _plain(self, optional=("point_lps_mm", "normal_lps"))


def _cases(key: str, groups: Iterable[tuple[list[str], dict[str, Any]]]) -> list[dict[str, Any]]:
    """JSON Schema: if ``key`` is one of some values, the properties are as given."""
    return [{"if": {"properties": {key: {"enum": values}}}, "then": {"properties": then}} for values, then in groups]


_BY_TYPE = _cases(
    "type",
    (
        ([type], {"points": {"minItems": count, "maxItems": count}, "unit": {"const": unit}})
        for type, (count, unit) in MEASUREMENT_TYPES.items()
    ),
)
_BY_STATUS: dict[str, Any] = {
    "if": {"properties": {"status": {"const": "undefined"}}},
    "then": {"properties": {"value": {"type": "null"}, "uncertainty": {"type": "null"}}},
    "else": {"properties": {"value": {"type": "number"}}},
}


@dataclass(frozen=True, config=STRICT | ConfigDict(json_schema_extra={"allOf": [*_BY_TYPE, _BY_STATUS]}))
class Measurement:
    """A distance or an angle between landmarks of one scan."""

    name: Text
    """As in the task; distinct within a case."""
    type: Literal["distance", "angle", "angle-of-lines", "distance-to-line", "distance-to-plane"]
    """distance a-b; angle a-b-c at b; angle-of-lines a-b and c-d, 0 to 180 degrees; distance-to-line of a from the
    line through b and c; distance-to-plane of a from the plane through b, c and d."""
    points: tuple[Text, ...]
    """The landmarks it is of, in the type's order."""
    value: Length | None
    """Null if status is undefined."""
    unit: Literal["mm", "degree"]
    """Of value and uncertainty."""
    uncertainty: Length | None
    """One standard deviation, from the landmarks' expected errors. Null if one of these is not known."""
    status: MeasurementStatus
    """measured: all landmarks are located; low_confidence, outside_scan: the worst status of its landmarks;
    undefined: it cannot be had."""

    def __post_init__(self) -> None:
        count, unit = MEASUREMENT_TYPES[self.type]
        if len(self.points) != count or self.unit != unit:
            raise ValueError(f"{self.type} is of {count} points and in {unit}")
        if (self.value is None) != (self.status == "undefined"):
            raise ValueError("an undefined measurement has no value, any other has one")
        if self.value is None and self.uncertainty is not None:
            raise ValueError("has an uncertainty, but no value")

    def to_dict(self) -> dict[str, Any]:
        """As in the file."""
        return _plain(self)


@dataclass(frozen=True, config=STRICT)
class Pose:
    """In which poses a scan was looked at besides that in which it lies."""

    rotation_lps: tuple[Triple, Triple, Triple] | None
    """Rows of the rotation from the model's upright pose to the scan's. Null if the anatomy was found in no pose."""
    turns: int = Field(strict=True, ge=0)
    """That were tried; 0 if the landmarks of the scan as it lies told the pose."""
    runs: int = Field(strict=True, ge=0)
    """Of the full model in other poses."""

    def to_dict(self) -> dict[str, Any]:
        """As in the file."""
        rotation = None if self.rotation_lps is None else [list(row) for row in self.rotation_lps]
        return {**_plain(self), "rotation_lps": rotation}


@dataclass(frozen=True, config=STRICT)
class Remark:
    """A stable code for programs, and a message for people."""

    code: Text
    message: Text


@dataclass(frozen=True, config=STRICT)
class CaseInput:
    """What a case was computed from (:mod:`trt_landmarks.scan.content`)."""

    bytes: Annotated[int, Field(strict=True, ge=0)]
    """Of all files of the scan."""
    files: Annotated[int, Field(strict=True, ge=1)]
    """How many there are."""
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of their contents."""
    modified: Text | None = None
    """When the last of them was changed, UTC. Absent for a scan that is not to be named."""

    def to_dict(self) -> dict[str, Any]:
        """As in the file; the time only if it is known."""
        return _plain(self, optional=("modified",))


#: Why a case failed.
CaseError = Remark
#: What to know of a scan or of its result.
CaseWarning = Remark

_ERROR_FITS_STATUS: dict[str, Any] = {
    "if": {"properties": {"status": {"const": "failed"}}},
    "then": {"properties": {"error": {"type": "object"}}},
    "else": {"properties": {"error": {"type": "null"}}},
}


@dataclass(frozen=True, config=STRICT | ConfigDict(json_schema_extra=_ERROR_FITS_STATUS))
class CaseResult:
    """One scan's result."""

    id: Text
    """The scan's file name without its ending; distinct within a file."""
    path: Text
    """The scan as it was named."""
    status: Literal["ok", "failed"] = "ok"
    error: CaseError | None = None
    """Why the case failed. Null if status is ok."""
    timing_ms: dict[str, Milliseconds] = Field(default_factory=dict)
    """Step of the work to its duration."""
    landmarks: tuple[Landmark, ...] = ()
    """In the task's order; empty for a failed case."""
    key_slices: tuple[KeySlice, ...] = ()
    """One for each correlated group."""
    warnings: tuple[CaseWarning, ...] = ()
    """What to know of the scan or the result."""
    measurements: tuple[Measurement, ...] = ()
    """In the task's order."""
    input: CaseInput | None = None
    """The scan's files. Absent if they are not known, or could not be read."""
    pose: Pose | None = None
    """Absent or null if the scan was looked at as it lies."""

    def __post_init__(self) -> None:
        if (self.status == "failed") != (self.error is not None):
            raise ValueError("a failed case has an error, an ok case has none")
        check_distinct((mark.name for mark in self.landmarks), "landmark")
        check_distinct((measure.name for measure in self.measurements), "measurement")

    def to_dict(self) -> dict[str, Any]:
        """As in the file."""
        return {
            **_plain(self, optional=("input", "pose")),
            **({} if self.input is None else {"input": self.input.to_dict()}),
            "error": None if self.error is None else _plain(self.error),
            "timing_ms": dict(self.timing_ms),
            "landmarks": [mark.to_dict() for mark in self.landmarks],
            "key_slices": [plane.to_dict() for plane in self.key_slices],
            "warnings": [_plain(warning) for warning in self.warnings],
            "measurements": [measure.to_dict() for measure in self.measurements],
            **({} if self.pose is None else {"pose": self.pose.to_dict()}),
        }


#: What every case of a file has; files from before there were warnings and measurements lack these.
REQUIRED = ("id", "path", "status", "error", "timing_ms", "landmarks", "key_slices")


def read_case(content: Any, where: str = "") -> CaseResult:
    """A case of the results file, checked.

    Args:
        content: plain data.
        where: its place in the file, for messages.

    Raises:
        PredictionsError: naming the wrong field.
    """
    place = f"{where}: " if where else ""
    lacking = [key for key in REQUIRED if key not in content] if isinstance(content, dict) else []
    if lacking:
        raise PredictionsError(f"{place}lacks {', '.join(lacking)}.")
    try:
        return _case_reader().validate_python(content)
    except Invalid as error:
        raise PredictionsError(f"{place}{explain(error.errors(), content)}.") from None


@cache
def _case_reader() -> TypeAdapter[CaseResult]:
    return TypeAdapter(CaseResult)


def _plain(record: Any, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields as JSON has them; ``optional`` ones only if they are not None."""
    fields = {key: list(value) if type(value) is tuple else value for key, value in vars(record).items()}
    return {key: value for key, value in fields.items() if value is not None or key not in optional}
