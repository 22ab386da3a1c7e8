"""Distances and angles between landmarks, with the uncertainty that the landmarks' expected errors give them.

===================  ===============================================================================================
``distance``         from a to b
``angle``            at b, between the directions to a and to c
``angle-of-lines``   between the directions from a to b and from c to d: 0 to 180 degrees
``distance-to-line`` of a from the line through b and c
``distance-to-plane`` of a from the plane through b, c and d
===================  ===============================================================================================

**Uncertainty** is one standard deviation, propagated to first order.  Errors of landmarks are taken to be independent
of each other and the same in all directions, normally distributed.  The distance of such a point from its true place
follows a Maxwell distribution, whose mean is ``2 sigma sqrt(2 / pi)``: a mean radial error e is a standard deviation of
``e sqrt(pi / 8)`` along each axis.  To first order holds while that is small beside the lengths that are measured with;
a distance of nearly nothing, or an angle of nearly 0 or 180 degrees, is not described by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from trt_landmarks.geometry import Floats
from trt_landmarks.results.case import LANDMARK_STATUSES, Landmark, Measurement, MeasurementStatus
from trt_landmarks.task.task import MEASUREMENT_TYPES, MeasurementDefinition

#: Standard deviation along each axis, for a mean radial error of 1.
AXIS_SIGMA = math.sqrt(math.pi / 8)
#: Directions and lengths below this share of the points' extent are rounding: what depends on them is undefined.
_NOTHING = 1e-9

#: The directions between which an angle lies: (from, to) of each, as indices of the points.
_DIRECTIONS = {"angle": ((1, 0), (1, 2)), "angle-of-lines": ((0, 1), (2, 3))}


def measure(definitions: Iterable[MeasurementDefinition], landmarks: Sequence[Landmark]) -> tuple[Measurement, ...]:
    """The measurements of one scan, in the order of their definitions.

    A landmark that ``landmarks`` lacks makes what is measured with it ``undefined``.
    """
    marks = {mark.name: mark for mark in landmarks}
    return tuple(_measure(definition, marks) for definition in definitions)


def value_and_gradient(type: str, points: Floats) -> tuple[float, Floats]:
    """A measurement and how it changes with its points.

    Args:
        type: one of :data:`~trt_landmarks.results.case.MEASUREMENT_TYPES`.
        points: ``[P, 3]`` mm, in the type's order.

    Returns:
        The value in mm or radians, NaN if it is undefined; its derivatives ``[P, 3]`` (per mm), NaN where the value
        has a kink (a distance of 0, an angle of 0 or 180 degrees).
    """
    points = np.asarray(points, dtype=np.float64)
    return _angle(points, *_DIRECTIONS[type]) if type in _DIRECTIONS else _distance(points)


def _measure(definition: MeasurementDefinition, marks: Mapping[str, Landmark]) -> Measurement:
    name, type, names = definition.name, definition.type, definition.points
    _, unit = MEASUREMENT_TYPES[type]
    if any(one not in marks for one in names):
        return Measurement(name, type, names, None, unit, None, "undefined")
    used = [marks[one] for one in names]
    value, gradient = value_and_gradient(type, np.array([mark.position_lps_mm for mark in used]))
    if not math.isfinite(value):
        return Measurement(name, type, names, None, unit, None, "undefined")
    scale = 180 / math.pi if unit == "degree" else 1.0
    errors = [mark.expected_error_mm for mark in used]
    uncertainty = None
    if not any(error is None for error in errors):
        sigma = AXIS_SIGMA * np.array(errors, dtype=np.float64)
        deviation = scale * float(np.linalg.norm(gradient * sigma[:, None]))
        uncertainty = deviation if math.isfinite(deviation) else None
    worst = LANDMARK_STATUSES[max(LANDMARK_STATUSES.index(mark.status) for mark in used)]
    status: MeasurementStatus = "measured" if worst == "located" else worst
    return Measurement(name, type, names, scale * value, unit, uncertainty, status)


def _distance(points: Floats) -> tuple[float, Floats]:
    """Distance of the first point from the point, line or plane that the others span.

    Moving a point of the line or plane moves the foot of the perpendicular by that point's weight in it.
    """
    base = points[1]
    spans = (points[2:] - base).T
    extent = float(np.ptp(points, axis=0).max())
    along = np.zeros(0)
    if spans.size:
        lengths = np.linalg.svd(spans, compute_uv=False)
        if lengths.min() <= _NOTHING * extent:  # they span less than a line or plane
            return math.nan, np.full_like(points, np.nan)
        along = np.linalg.lstsq(spans, points[0] - base, rcond=None)[0]
    offset = points[0] - base - spans @ along
    distance = float(np.linalg.norm(offset))
    if distance <= _NOTHING * extent:
        return distance, np.full_like(points, np.nan)
    weights = np.concatenate([[1.0, -(1 - along.sum())], -along])
    return distance, weights[:, None] * (offset / distance)


def _angle(points: Floats, first: tuple[int, int], second: tuple[int, int]) -> tuple[float, Floats]:
    """Angle between two directions, each from one point to another; radians."""
    u, v = (points[end] - points[start] for start, end in (first, second))
    lengths = float(np.linalg.norm(u)), float(np.linalg.norm(v))
    if min(lengths) <= _NOTHING * float(np.ptp(points, axis=0).max()):
        return math.nan, np.full_like(points, np.nan)
    a, b = u / lengths[0], v / lengths[1]
    sine, cosine = float(np.linalg.norm(np.cross(a, b))), float(a @ b)
    gradient = np.full_like(points, np.nan)
    if sine > _NOTHING:
        gradient[:] = 0
        # An end moving away from the other direction, across its own, opens the angle.
        for (start, end), away, length in (
            (first, (a * cosine - b) / sine, lengths[0]),
            (second, (b * cosine - a) / sine, lengths[1]),
        ):
            gradient[end] += away / length
            gradient[start] -= away / length
    return math.atan2(sine, cosine), gradient
