"""The order of slices, and every way in which they are no rectangular grid."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.synthetic import rotation
from trt_landmarks.errors import ScanError
from trt_landmarks.scan.slices import JITTER, stack

HERE = Path("series")
Angles = tuple[float, float, float]
ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)


def grid(turn: np.ndarray, count: int, step: float, origin: tuple[float, ...] = (-30, 12, 400)) -> np.ndarray:
    return np.asarray(origin) + np.arange(count)[:, None] * step * turn[:, 2]


@settings(max_examples=50, deadline=None)
@given(ANGLES, st.integers(2, 60), st.floats(0.01, 12), st.randoms(), st.integers(0, 5))
def test_any_order_and_copies(angles: Angles, count: int, step: float, random: object, copies: int) -> None:
    turn = rotation(*angles)
    places = grid(turn, count, step)
    order = list(range(count)) + [n % count for n in range(copies)]
    random.shuffle(order)  # type: ignore[attr-defined]
    found = stack(HERE, places[order], turn[:, 2])
    assert [{order[n] for n in group} for group in found.groups] == [{k} for k in range(count)]
    assert sum(map(len, found.groups)) == len(order)
    np.testing.assert_allclose(found.origin, places[0], atol=1e-9)
    np.testing.assert_allclose(found.step, step * turn[:, 2], atol=1e-9 + 1e-9 * step)
    assert not found.warnings


@settings(max_examples=50, deadline=None)
@given(ANGLES, st.integers(3, 60), st.floats(0.01, 12), st.data())
def test_any_missing_slice(angles: Angles, count: int, step: float, data: st.DataObject) -> None:
    turn = rotation(*angles)
    if count == 3:
        count = 4  # of three slices the middle one is half of all: the two left are evenly spaced
    gone = data.draw(st.integers(1, count - 2))
    with pytest.raises(ScanError) as caught:
        stack(HERE, np.delete(grid(turn, count, step), gone, axis=0), turn[:, 2])
    assert caught.value.code == "scan_spacing"


@settings(max_examples=50, deadline=None)
@given(ANGLES, st.integers(3, 40), st.floats(-30, 30), st.floats(0, 360))
def test_any_tilt(angles: Angles, count: int, tilt: float, towards: float) -> None:
    turn = rotation(*angles)
    sideways = turn[:, 0] * np.cos(np.radians(towards)) + turn[:, 1] * np.sin(np.radians(towards))
    places = grid(turn, count, 2.0) + np.arange(count)[:, None] * 2.0 * np.tan(np.radians(tilt)) * sideways
    if abs(tilt) < 0.1:
        stack(HERE, places, turn[:, 2])
    elif abs(tilt) > 0.13:
        with pytest.raises(ScanError, match="degrees") as caught:
            stack(HERE, places, turn[:, 2])
        (told,) = re.findall(r"tilted by (\d+\.\d) degrees", str(caught.value))
        assert abs(float(told) - abs(tilt)) < 0.05 + 1e-6  # rounded either way where it lies between
        assert caught.value.code == "scan_tilt"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-0.5, 0.5), min_size=4, max_size=30), st.floats(0.01, 0.2))
def test_jitter_up_to_a_stated_share_is_evened_out(shifts: list[float], size: float) -> None:
    along = np.arange(len(shifts)) * 3.0 + np.array(shifts) * size * 3.0
    places = np.outer(along, [0, 0, 1.0])
    even = np.linspace(along[0], along[-1], len(along))
    share = np.abs(along - even).max() / ((along[-1] - along[0]) / (len(along) - 1))
    if share < JITTER - 1e-9:
        found = stack(HERE, places, np.array([0, 0, 1.0]))
        assert bool(found.warnings) == bool(share > 0.005)
        where = found.origin[2] + found.step[2] * np.arange(len(along))
        assert np.abs(where - along).max() <= JITTER * found.step[2]
    elif share > JITTER + 1e-9:
        with pytest.raises(ScanError):
            stack(HERE, places, np.array([0, 0, 1.0]))


def test_slices_that_drift_are_refused() -> None:
    """Each distance is within 2 % of the usual one, and yet the middle lies a millimetre off."""
    along = np.concatenate([[0], np.cumsum(np.where(np.arange(400) < 200, 0.99, 1.01))])
    with pytest.raises(ScanError, match="unevenly spaced: one lies 2 mm"):
        stack(HERE, np.outer(along, [0, 0, 1.0]), np.array([0, 0, 1.0]))


def test_two_stacks_and_one_place() -> None:
    far = np.concatenate([np.arange(10), 500 + np.arange(10)])
    with pytest.raises(ScanError, match="490 slices are missing, the first after slice 10"):
        stack(HERE, np.outer(far, [0, 0, 1.0]), np.array([0, 0, 1.0]))
    with pytest.raises(ScanError, match="same position"):
        stack(HERE, np.zeros((5, 3)), np.array([0, 0, 1.0]))
