"""Distances and angles: known values, derivatives, and uncertainties against drawn errors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.synthetic import rotation
from trt_landmarks.geometry import Floats
from trt_landmarks.results.case import LANDMARK_STATUSES, Landmark, LandmarkStatus
from trt_landmarks.results.measurements import measure, value_and_gradient
from trt_landmarks.task.task import MEASUREMENT_TYPES, MeasurementDefinition


def definition(type: str) -> MeasurementDefinition:
    count, _ = MEASUREMENT_TYPES[type]
    return MeasurementDefinition(name="m", type=type, points=tuple("abcd"[:count]))  # type: ignore[arg-type]


def marks(
    points: Floats, errors: list[float | None] | None = None, statuses: Sequence[LandmarkStatus] | None = None
) -> list[Landmark]:
    made = []
    for n, (x, y, z) in enumerate(points):
        mark = Landmark("abcd"[n], statuses[n] if statuses else "located", (x, y, z), (0, 0, 0), 1.0)
        object.__setattr__(mark, "expected_error_mm", errors[n] if errors else None)
        made.append(mark)
    return made


KNOWN = [
    ("distance", [[0, 0, 0], [3, 4, 12]], 13),
    ("angle", [[2, 0, 0], [0, 0, 0], [0, 5, 0]], 90),
    ("angle", [[2, 0, 0], [0, 0, 0], [-5, 5, 0]], 135),
    ("angle-of-lines", [[0, 0, 0], [1, 0, 0], [9, 9, 9], [9, 11, 11]], 90),
    ("angle-of-lines", [[0, 0, 0], [1, 0, 0], [5, 0, 3], [4, 0, 4]], 135),
    ("angle-of-lines", [[0, 0, 0], [1, 1, 0], [0, 0, 0], [0, 3, 0]], 45),
    ("distance-to-line", [[3, 4, 7], [0, 0, 0], [0, 0, 1]], 5),
    ("distance-to-plane", [[8, -3, -2], [0, 0, 0], [5, 0, 0], [1, 3, 0]], 2),
]


@pytest.mark.parametrize(("type", "points", "expected"), KNOWN)
def test_known_figures_wherever_they_lie(type: str, points: list[list[float]], expected: float) -> None:
    moved = np.array(points, dtype=float) @ rotation(20, -50, 110).T + [40, -300, 7]
    for where in (np.array(points, dtype=float), moved):
        (found,) = measure([definition(type)], marks(where))
        assert found.value == pytest.approx(expected, abs=2e-4)  # positions are rounded to 1e-5 mm
        assert (found.unit, found.status, found.uncertainty) == (MEASUREMENT_TYPES[type][1], "measured", None)


@pytest.mark.parametrize("type", MEASUREMENT_TYPES)
@given(seed=st.integers(0, 10**6))
def test_gradients_are_those_of_differences(type: str, seed: int) -> None:
    count, _ = MEASUREMENT_TYPES[type]
    points = np.random.default_rng(seed).normal(scale=20, size=(count, 3))
    _, gradient = value_and_gradient(type, points)
    step = 1e-4
    for place in np.ndindex(count, 3):
        shift = np.zeros((count, 3))
        shift[place] = step
        above, below = (value_and_gradient(type, points + sign * shift)[0] for sign in (1, -1))
        scale = max(1.0, float(np.abs(gradient).max()) ** 2)
        assert gradient[place] == pytest.approx((above - below) / (2 * step), abs=1e-5 * scale)
    np.testing.assert_allclose(gradient.sum(axis=0), 0, atol=1e-9 * max(1.0, np.abs(gradient).max()))  # all moved alike


@pytest.mark.parametrize("type", MEASUREMENT_TYPES)
def test_uncertainty_is_the_spread_of_drawn_errors(type: str) -> None:
    """Radial errors drawn with the landmarks' mean make the measurements vary as much as is said."""
    random = np.random.default_rng(3)
    count, unit = MEASUREMENT_TYPES[type]
    points = np.array([[1.0, 24, 17], [-20, 3, 2], [22, -5, 4], [3, 9, -25]])[:count]
    errors = [0.2, 0.5, 0.35, 0.6][:count]
    (found,) = measure([definition(type)], marks(points, list(errors)))
    directions = random.normal(size=(20_000, count, 3))
    mean = np.linalg.norm(directions, axis=-1).mean(axis=0)  # of Maxwell distributions
    noise = directions * (np.array(errors) / mean)[:, None]
    np.testing.assert_allclose(np.linalg.norm(noise, axis=-1).mean(axis=0), errors)
    drawn = np.array([value_and_gradient(type, points + one)[0] for one in noise[:6000]])
    if unit == "degree":
        drawn = np.rad2deg(drawn)
    assert found.uncertainty is not None
    assert found.uncertainty == pytest.approx(float(drawn.std()), rel=0.04)


def test_no_uncertainty_without_expected_errors_or_at_a_kink() -> None:
    points = np.array([[0.0, 0, 0], [10, 0, 0], [20, 0, 0]])
    (some,) = measure([definition("distance")], marks(points[:2], [0.1, None]))
    assert (some.value, some.uncertainty) == (10, None)
    (straight,) = measure([definition("angle")], marks(points, [0.1, 0.1, 0.1]))
    assert (straight.value, straight.uncertainty, straight.status) == (180, None, "measured")
    (together,) = measure([definition("distance")], marks(points[[0, 0]], [0.1, 0.1]))
    assert (together.value, together.uncertainty) == (0, None)
    (exact,) = measure([definition("distance")], marks(points[:2], [0.1, 0.0]))
    assert exact.uncertainty == pytest.approx(0.1 * math.sqrt(math.pi / 8), abs=1e-5)


@pytest.mark.parametrize(
    ("type", "points"),
    [
        ("angle", [[1, 2, 3], [1, 2, 3], [5, 5, 5]]),
        ("angle-of-lines", [[1, 2, 3], [4, 4, 4], [5, 5, 5], [5, 5, 5]]),
        ("distance-to-line", [[1, 2, 3], [4, 4, 4], [4, 4, 4]]),
        ("distance-to-plane", [[1, 2, 3], [0, 0, 0], [1, 1, 1], [3, 3, 3]]),
    ],
)
def test_what_points_do_not_define_is_undefined(type: str, points: list[list[float]]) -> None:
    (found,) = measure([definition(type)], marks(np.array(points, dtype=float), [0.1] * len(points)))
    assert (found.value, found.uncertainty, found.status) == (None, None, "undefined")


def test_the_worst_landmark_gives_the_status() -> None:
    points = np.array([[0.0, 0, 0], [10, 0, 0], [0, 7, 0]])
    for worst in LANDMARK_STATUSES[1:]:
        (found,) = measure([definition("angle")], marks(points, None, ["located", worst, "low_confidence"]))
        assert found.status == worst and found.value is not None
    (lacking,) = measure([definition("angle")], marks(points[:2]))
    assert lacking.status == "undefined"
