"""The task file: one YAML file that says completely what is localized and how.

Training, export, build, inference and evaluation read it and nothing else.  All triples are in the order
x, y, z of the LPS world (left-right, anterior-posterior, superior-inferior); all lengths are in mm.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from trt_landmarks.errors import TaskError
from trt_landmarks.files import explain, read_yaml
from trt_landmarks.geometry import AXES

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]


def normal_name(name: str) -> str:
    """A landmark's name as it is compared: composed Unicode (NFC), no space at either end."""
    return unicodedata.normalize("NFC", name).strip()


LandmarkName = Annotated[str, AfterValidator(normal_name), Field(min_length=1)]
Axis = Literal["left-right", "anterior-posterior", "superior-inferior"]


#: Types of measurements: how many landmarks each is of, and its unit.  See :mod:`trt_landmarks.results.measurements`.
MEASUREMENT_TYPES: dict[str, tuple[int, Literal["mm", "degree"]]] = {
    "distance": (2, "mm"),
    "angle": (3, "degree"),
    "angle-of-lines": (4, "degree"),
    "distance-to-line": (3, "mm"),
    "distance-to-plane": (4, "mm"),
}

#: Voxels a patch has at least along each axis: decoding needs neighbours of the maximum.
SMALLEST_PATCH = 8
#: Names that become part of file names.
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
#: Characters of such a name, at most: a file's name has 255 bytes.
LONGEST_NAME = 100


class Section(BaseModel):
    """A part of the task file: unknown keys are errors, values cannot be changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnySection = TypeVar("AnySection", bound=Section)


class Group(Section):
    """Correlated landmarks: annotated together on one key slice."""

    name: str = Field(pattern=NAME, max_length=LONGEST_NAME)
    axis: Axis
    landmarks: tuple[LandmarkName, ...] = Field(min_length=2)

    @property
    def axis_index(self) -> int:
        """0, 1 or 2: the world axis perpendicular to the key slice."""
        return AXES[self.axis]


class Symmetry(Section):
    """Mirror pairs and landmarks of the midline; training then also shows every scan mirrored.

    A landmark that is in neither list has no counterpart: mirrored views do not ask for it.
    """

    axis: Axis
    pairs: tuple[tuple[LandmarkName, LandmarkName], ...] = ()
    midline: tuple[LandmarkName, ...] = ()


class Intensity(Section):
    """Normalization of voxel values to 0..1.

    ``percentile``: ``low`` and ``high`` are percentiles of the whole scan; ``window``: they are voxel values.
    Values outside are clipped.
    """

    method: Literal["percentile", "window"] = "percentile"
    low: float = 1.0
    high: float = 99.9

    @model_validator(mode="after")
    def _ordered(self) -> Intensity:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.method == "percentile" and not (0 <= self.low and self.high <= 100):
            raise ValueError("percentiles must lie between 0 and 100")
        return self


class Coarse(Section):
    """The coarse stage: the whole volume on a small grid about the scan's middle."""

    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    field_of_view_mm: tuple[Positive, Positive, Positive]
    width: PositiveInt = 16

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Sample spacing along x, y, z: the field of view divided into ``shape`` cells."""
        x, y, z = (f / n for f, n in zip(self.field_of_view_mm, self.shape, strict=True))
        return (x, y, z)


class Fine(Section):
    """The fine stage: one full-resolution patch per landmark.

    ``frame`` is the direction of the patches' axes: ``scan`` takes the world's; ``anatomy`` turns them with the
    pose of the coarse landmarks (rigid fit of the training set's mean shape), so that the nets always see the
    anatomy upright and a key slice is a plane of the anatomy, not of the scanner.
    """

    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    spacing_mm: tuple[Positive, Positive, Positive]
    frame: Literal["scan", "anatomy"] = "scan"
    width: PositiveInt = 16
    levels: Annotated[int, Field(ge=2, le=5)] = 3
    heatmap_sigma_mm: Positive

    @model_validator(mode="after")
    def _divisible(self) -> Fine:
        step = 2 ** (self.levels - 1)
        if any(n % step or n < SMALLEST_PATCH for n in self.shape):
            raise ValueError(
                f"shape must be at least {SMALLEST_PATCH} and divisible by {step} for levels: {self.levels}"
            )
        return self

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Edge lengths of a patch along x, y, z."""
        x, y, z = (n * s for n, s in zip(self.shape, self.spacing_mm, strict=True))
        return (x, y, z)


class Correlated(Section):
    """Parts of the net for correlated groups, each switchable (the paper's ablation).

    ``axis_position`` says what gives a landmark's place along the group's axis: its own heatmap, the key slice,
    or the mean of the two.
    """

    fusion: bool = True
    channel_attention: bool = True
    spatial_attention: bool = True
    slice_branch: bool = True
    slice_weight: Annotated[float, Field(ge=0)] = 1.0
    axis_position: Literal["heatmap", "slice", "mean"] = "heatmap"

    @model_validator(mode="after")
    def _parts_fit(self) -> Correlated:
        if self.axis_position != "heatmap" and not self.slice_branch:
            raise ValueError(f"axis_position: {self.axis_position} needs slice_branch: true")
        if not self.fusion and (self.channel_attention or self.spatial_attention or self.slice_branch):
            raise ValueError("attention and the slice branch work on fused features: they need fusion: true")
        return self


class Batches(Section):
    """Numbers of scans that engines are made for: smallest, usual and largest; larger batches run in parts."""

    coarse: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 1, 8)
    fine: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 1, 8)

    @field_validator("coarse", "fine")
    @classmethod
    def _ordered(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if not value[0] <= value[1] <= value[2]:
            raise ValueError("smallest, usual and largest must be in this order")
        return value


class MeasurementDefinition(Section):
    """A distance or an angle between landmarks; what each type means says :mod:`trt_landmarks.results.measurements`."""

    name: str = Field(min_length=1)
    type: Literal["distance", "angle", "angle-of-lines", "distance-to-line", "distance-to-plane"]
    points: tuple[LandmarkName, ...]

    @field_validator("points", mode="before")
    @classmethod
    def _names_are_text(cls, value: Any) -> Any:
        return _as_text(value, "points")

    @model_validator(mode="after")
    def _points_fit(self) -> MeasurementDefinition:
        count, _ = MEASUREMENT_TYPES[self.type]
        if len(self.points) != count:
            raise ValueError(f"{self.type} is of {count} points, not {len(self.points)}")
        # Two lines may share a point: they are then the sides of an angle.
        parts = (self.points[:2], self.points[2:]) if self.type == "angle-of-lines" else (self.points,)
        if any(len(set(part)) < len(part) for part in parts):
            raise ValueError("the same point twice")
        return self


class Task(Section):
    """A complete localization task."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=NAME, max_length=LONGEST_NAME)
    description: str = ""
    landmarks: tuple[LandmarkName, ...] = Field(min_length=1)
    groups: tuple[Group, ...] = ()
    symmetry: Symmetry | None = None
    intensity: Intensity = Intensity()
    coarse: Coarse
    fine: Fine
    correlated: Correlated = Correlated()
    sdr_radii_mm: tuple[Positive, ...] = Field(min_length=1)
    low_confidence_below: Annotated[float, Field(ge=0, le=1)] = 0.2
    batches: Batches = Batches()
    measurements: tuple[MeasurementDefinition, ...] = ()

    @field_validator("landmarks", mode="before")
    @classmethod
    def _names_are_text(cls, value: Any) -> Any:
        return _as_text(value, "landmarks")

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        known = set(self.landmarks)
        if len(known) < len(self.landmarks):
            twice = sorted({n for n in self.landmarks if self.landmarks.count(n) > 1})
            raise ValueError(f"landmarks: listed twice: {', '.join(twice)}")
        owner: dict[str, str] = {}
        for position, group in enumerate(self.groups):
            for name in group.landmarks:
                where = f"groups.{position}.landmarks"
                if name not in known:
                    raise ValueError(f"{where}: '{name}' is not in landmarks")
                if name in owner:
                    raise ValueError(f"{where}: '{name}' is already in group '{owner[name]}'")
                owner[name] = group.name
        if len({group.name for group in self.groups}) < len(self.groups):
            raise ValueError("groups: two groups have the same name")
        if self.symmetry is not None:
            seen: set[str] = set()
            named = [("pairs", name) for pair in self.symmetry.pairs for name in pair]
            for key, name in [*named, *(("midline", name) for name in self.symmetry.midline)]:
                if name not in known:
                    raise ValueError(f"symmetry.{key}: '{name}' is not in landmarks")
                if name in seen:
                    raise ValueError(f"symmetry.{key}: '{name}' has two places in the symmetry")
                seen.add(name)
        for measure in self.measurements:
            lacking = [name for name in measure.points if name not in known]
            if lacking:
                raise ValueError(f"measurements: '{measure.name}' is of '{lacking[0]}', which is not in landmarks")
        if len({measure.name for measure in self.measurements}) < len(self.measurements):
            raise ValueError("measurements: two measurements have the same name")
        return self

    @property
    def independent(self) -> tuple[int, ...]:
        """Indices of the landmarks that belong to no group, in order."""
        grouped = {name for group in self.groups for name in group.landmarks}
        return tuple(i for i, name in enumerate(self.landmarks) if name not in grouped)

    @property
    def group_of(self) -> dict[str, str]:
        """Landmark -> the name of its group, in the groups' order; independent landmarks are not in it."""
        return {name: group.name for group in self.groups for name in group.landmarks}

    def members(self, group: Group) -> tuple[int, ...]:
        """Indices of a group's landmarks, in the group's order."""
        return tuple(self.landmarks.index(name) for name in group.landmarks)

    @property
    def mirror(self) -> tuple[int, ...] | None:
        """For each landmark the index of its mirror image: a partner, itself on the midline, -1 if it has none.

        None without symmetry.
        """
        if self.symmetry is None:
            return None
        midline = set(self.symmetry.midline)
        partner = [index if name in midline else -1 for index, name in enumerate(self.landmarks)]
        for left, right in self.symmetry.pairs:
            a, b = self.landmarks.index(left), self.landmarks.index(right)
            partner[a], partner[b] = b, a
        return tuple(partner)

    def to_yaml(self) -> str:
        """The task as a task file's text."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def load_task(path: str | Path) -> Task:
    """Read and check a task file.

    Raises:
        TaskError: naming the file and the key, if it cannot be read or is not a valid task.
    """
    return parse_task(read_yaml(path, TaskError, "task file"), str(path))


def parse_task(content: Any, source: str) -> Task:
    """Check a task given as plain data; ``source`` names it in errors.

    Raises:
        TaskError: naming each wrong key.
    """
    if not isinstance(content, dict):
        raise TaskError(f"{source}: a task is a mapping of keys, not {type(content).__name__}.")
    return _checked(Task, content, source)


def add_measurements(task: Task, path: str | Path) -> Task:
    """The task with the ``measurements`` of a YAML file after its own.

    The file has that one key; its value is a list as in a task file.

    Raises:
        TaskError: naming the file and the key, if it cannot be read, or a landmark or name does not fit the task.
    """
    content = read_yaml(path, TaskError, "file of measurements")
    if not isinstance(content, dict) or "measurements" not in content:
        raise TaskError(f"{path}: has no key 'measurements'.", "It holds a list, as in a task file.")
    added = _checked(_Measurements, content, str(path)).measurements
    extended = task.model_dump() | {"measurements": [one.model_dump() for one in (*task.measurements, *added)]}
    return _checked(Task, extended, str(path))


class _Measurements(Section):
    """A file of measurements alone."""

    measurements: tuple[MeasurementDefinition, ...]


def _checked(section: type[AnySection], content: Any, source: str) -> AnySection:
    try:
        return section.model_validate(content)
    except ValidationError as error:
        raise TaskError(f"{source}: {explain(error.errors(), most=20)}.") from None


def _as_text(value: Any, key: str) -> Any:
    """YAML reads an unquoted 1 as a number; names are text, so say what to do instead of guessing."""
    if isinstance(value, (list, tuple)):
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"{name!r} in {key} is not text; put it in quotes")
    return value
