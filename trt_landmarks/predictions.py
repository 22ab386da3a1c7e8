"""The results file: what was found in which scan, by which model and engine.

``predictions.schema.json`` beside this module describes the file for other tools (JSON Schema 2020-12).
Positions are LPS mm, voxels (i, j, k) of the scan as it is stored.  Rounding: positions and voxels 1e-5,
confidences 1e-5, times 0.001 ms.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from trt_landmarks.errors import PredictionsError
from trt_landmarks.files import read_text, write_text
from trt_landmarks.geometry import AXES

SCHEMA_VERSION = "1"

#: The file's JSON Schema.
SCHEMA_FILE = Path(__file__).with_name("predictions.schema.json")

#: A landmark is ``located``; found with a confidence below the threshold; or its scan does not reach it.
LANDMARK_STATUSES = ("located", "low_confidence", "outside_scan")
CASE_STATUSES = ("ok", "failed")

Triple = tuple[float, float, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Landmark:
    """One landmark in one scan.

    Attributes:
        name: as in the task.
        status: one of :data:`LANDMARK_STATUSES`.
        position_lps_mm: (x, y, z).
        voxel_ijk: the same point in the scan's voxels (i, j, k).
        confidence: 0..1.

    Raises:
        PredictionsError: for an unknown status, a non-finite coordinate or a confidence outside 0..1.
    """

    name: str
    status: str
    position_lps_mm: Triple
    voxel_ijk: Triple
    confidence: float

    def __post_init__(self) -> None:
        where = f"landmark '{_text(self.name, 'name')}'"
        if self.status not in LANDMARK_STATUSES:
            raise PredictionsError(f"{where}: status is {self.status!r}, not one of {', '.join(LANDMARK_STATUSES)}.")
        object.__setattr__(self, "position_lps_mm", _triple(self.position_lps_mm, f"{where}: position_lps_mm"))
        object.__setattr__(self, "voxel_ijk", _triple(self.voxel_ijk, f"{where}: voxel_ijk"))
        object.__setattr__(self, "confidence", _number(self.confidence, f"{where}: confidence", 5))
        if not 0 <= self.confidence <= 1:
            raise PredictionsError(f"{where}: confidence is {self.confidence}, not between 0 and 1.")

    def to_dict(self) -> dict[str, Any]:
        """As in the file."""
        return {
            "name": self.name,
            "status": self.status,
            "position_lps_mm": list(self.position_lps_mm),
            "voxel_ijk": list(self.voxel_ijk),
            "confidence": self.confidence,
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
        where = f"key slice of '{_text(self.group, 'group')}'"
        if _text(self.axis, f"{where}: axis") not in AXES:
            raise PredictionsError(f"{where}: axis is {self.axis!r}, not one of {', '.join(AXES)}.")
        object.__setattr__(self, "position_mm", _number(self.position_mm, f"{where}: position_mm", 5))
        for name in ("point_lps_mm", "normal_lps"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _triple(value, f"{where}: {name}"))

    def to_dict(self) -> dict[str, Any]:
        """As in the file; the point and the normal only if they are known."""
        content: dict[str, Any] = {"group": self.group, "axis": self.axis, "position_mm": self.position_mm}
        if self.point_lps_mm is not None:
            content["point_lps_mm"] = list(self.point_lps_mm)
        if self.normal_lps is not None:
            content["normal_lps"] = list(self.normal_lps)
        return content


@dataclass(frozen=True)
class CaseError:
    """Why a case failed: the stable ``code`` of the error and its ``message``."""

    code: str
    message: str

    def __post_init__(self) -> None:
        _text(self.code, "code")
        _text(self.message, "message")


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

    Raises:
        PredictionsError: if status and error contradict each other or a landmark occurs twice.
    """

    id: str
    path: str
    status: str = "ok"
    error: CaseError | None = None
    timing_ms: Mapping[str, float] = field(default_factory=dict)
    landmarks: tuple[Landmark, ...] = ()
    key_slices: tuple[KeySlice, ...] = ()

    def __post_init__(self) -> None:
        where = f"case '{_text(self.id, 'id')}'"
        _text(self.path, f"{where}: path")
        if self.status not in CASE_STATUSES:
            raise PredictionsError(f"{where}: status is {self.status!r}, not one of {', '.join(CASE_STATUSES)}.")
        if (self.status == "failed") != (self.error is not None):
            raise PredictionsError(f"{where}: a failed case has an error, an ok case has none.")
        times = {step: _number(ms, f"{where}: timing_ms.{step}", 3) for step, ms in self.timing_ms.items()}
        object.__setattr__(self, "timing_ms", times)
        object.__setattr__(self, "landmarks", tuple(self.landmarks))
        object.__setattr__(self, "key_slices", tuple(self.key_slices))
        _no_duplicates((mark.name for mark in self.landmarks), f"{where}: landmark")

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
        }


@dataclass
class Predictions:
    """The whole results file; cases may be appended until it is written.

    Attributes:
        task: the task's name.
        model: ``name`` and what else identifies it: ``path``, ``sha256``, ...
        engine: ``name``, ``precision``, ``provider``, ``note``.
        cases: one per scan, failed ones included.
    """

    task: str
    model: dict[str, Any]
    engine: dict[str, Any]
    cases: list[CaseResult] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As in the file.

        Raises:
            PredictionsError: if two cases have the same id.
        """
        _no_duplicates((case.id for case in self.cases), "case")
        return {
            "schema_version": SCHEMA_VERSION,
            "task": self.task,
            "model": self.model,
            "engine": self.engine,
            "cases": [case.to_dict() for case in self.cases],
        }

    @classmethod
    def from_dict(cls, content: Any) -> Predictions:
        """Check and read the file's content.

        Raises:
            PredictionsError: naming the wrong field, e.g. ``cases[3]: landmarks[0]: ...``.
        """
        if isinstance(content, dict) and content.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
            raise PredictionsError(
                f"schema_version is {content['schema_version']!r}; this version reads {SCHEMA_VERSION!r}.",
                "Read it with the version that wrote it, or predict again.",
            )
        top = _fields(content, ("schema_version", "task", "model", "engine", "cases"))
        for key in ("model", "engine"):
            with _inside(key):
                _text(_mapping(top[key]).get("name"), "name")
        cases = _each(top["cases"], "cases", _read_case)
        _no_duplicates((case.id for case in cases), "case")
        return cls(_text(top["task"], "task"), top["model"], top["engine"], cases)

    def write(self, path: str | Path) -> None:
        """Write the file; it appears whole or not at all.

        Raises:
            PredictionsError: if the file cannot be written, or ``model`` or ``engine`` are not plain JSON data.
        """
        _no_duplicates((case.id for case in self.cases), "case")
        try:
            frame = _json(Predictions(self.task, self.model, self.engine).to_dict())
        except (TypeError, ValueError) as error:
            raise PredictionsError(f"{path}: model or engine cannot be written as JSON: {error}.") from None
        # One case at a time: on the way to its text, a case takes much more memory than the text.
        cases = ["\n  " + _json(case.to_dict()).replace("\n", "\n  ") + "," for case in self.cases]
        if cases:
            cases[-1] = cases[-1].removesuffix(",") + "\n "
        write_text(path, "".join([frame.removesuffix("]\n}"), *cases, "]\n}\n"]), PredictionsError)


def read_predictions(path: str | Path) -> Predictions:
    """Read and check a results file.

    Raises:
        PredictionsError: naming the file, and the line or field that is wrong.
    """
    text = read_text(path, PredictionsError, "results file")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise PredictionsError(f"{path}: line {error.lineno}: is not valid JSON: {error.msg}.") from None
    with _inside(str(path)):
        return Predictions.from_dict(content)


def _read_case(content: Any) -> CaseResult:
    item = _fields(content, ("id", "path", "status", "error", "timing_ms", "landmarks", "key_slices"))
    if item["error"] is not None:
        with _inside("error"):
            item["error"] = CaseError(**_fields(item["error"], ("code", "message")))
    with _inside("timing_ms"):
        _mapping(item["timing_ms"])
    item["landmarks"] = _each(item["landmarks"], "landmarks", _read_landmark)
    item["key_slices"] = _each(item["key_slices"], "key_slices", _read_key_slice)
    return CaseResult(**item)


def _read_landmark(content: Any) -> Landmark:
    return Landmark(**_fields(content, ("name", "status", "position_lps_mm", "voxel_ijk", "confidence")))


def _read_key_slice(content: Any) -> KeySlice:
    return KeySlice(**_fields(content, ("group", "axis", "position_mm"), ("point_lps_mm", "normal_lps")))


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


@contextmanager
def _inside(where: str) -> Iterator[None]:
    """Errors raised within start with ``where``."""
    try:
        yield
    except PredictionsError as error:
        raise PredictionsError(f"{where}: {error.message}", error.remedy) from None


def _each(content: Any, key: str, read: Callable[[Any], T]) -> list[T]:
    if not isinstance(content, list):
        raise PredictionsError(f"{key} is not a list.")
    items = []
    for number, one in enumerate(content):
        with _inside(f"{key}[{number}]"):
            items.append(read(one))
    return items


def _mapping(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise PredictionsError(f"is not an object with named fields but {type(content).__name__}.")
    return content


def _fields(content: Any, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """A copy of the object ``content``, which must have the required fields and no unknown ones."""
    content = _mapping(content)
    missing = [key for key in required if key not in content]
    unknown = [key for key in content if key not in (*required, *optional)]
    if missing:
        raise PredictionsError(f"lacks {', '.join(missing)}.")
    if unknown:
        raise PredictionsError(f"unknown field {', '.join(unknown)}.")
    return dict(content)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise PredictionsError(f"{where} is {value!r}, not a text.")
    return value


def _number(value: Any, where: str, digits: int) -> float:
    """A finite number, rounded; NumPy's numbers become Python's, and -0 becomes 0."""
    try:
        number = math.nan if isinstance(value, (str, bool)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise PredictionsError(f"{where} is {value!r}, not a finite number.")
    return round(number, digits) + 0.0


def _triple(value: Any, where: str) -> Triple:
    values = [] if isinstance(value, (str, dict)) or not hasattr(value, "__len__") else list(value)
    if len(values) != 3:
        raise PredictionsError(f"{where} is {value!r}, not three numbers.")
    x, y, z = (_number(one, where, 5) for one in values)
    return (x, y, z)


def _no_duplicates(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PredictionsError(f"{what} '{name}' occurs twice.")
        seen.add(name)
