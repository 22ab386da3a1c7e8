"""Random appearances: what each keeps, and what it changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_landmarks.training.appearance import any_table, bias_field, blur, magnitude_noise, monotone_table

VALUES = np.linspace(0, 1, 50)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.integers(0, 10**6), st.floats(0, 1))
@settings(max_examples=50)
def test_a_monotone_table_keeps_the_order_of_grey_values(seed: int, strength: float) -> None:
    table = monotone_table(VALUES, rng(seed), strength)
    assert (np.diff(table) > 0).all()
    assert table[0] == pytest.approx(0) and table[-1] == pytest.approx(1)
    np.testing.assert_allclose(monotone_table(VALUES, rng(seed), 0.0), VALUES, atol=1e-12)


def test_any_table_changes_the_order_of_grey_values() -> None:
    turns = [(np.diff(any_table(VALUES, rng(seed))) < 0).any() for seed in range(20)]
    assert np.mean(turns) > 0.8


def test_a_bias_field_is_a_smooth_factor() -> None:
    field = bias_field((30, 40, 50), np.array([2.0, 2.0, 2.0]), rng(), 0.2)
    assert field.shape == (30, 40, 50)
    assert float(field.log().std()) == pytest.approx(0.2, abs=1e-3)
    assert float(field.log().diff(dim=0).abs().max()) < 0.1
    assert (bias_field((4, 4, 4), np.ones(3), rng(), 0.0) == 1).all()


def test_blur_spreads_along_the_axes_that_are_named() -> None:
    point = torch.zeros(21, 21, 21)
    point[10, 10, 10] = 1
    blurred = blur(point, np.array([0.0, 1.5, 3.0]))  # x, y, z
    assert float(blurred.sum()) == pytest.approx(1, abs=1e-5)
    place = torch.arange(21.0) - 10
    deviations = [
        float((blurred.sum(dim=others) * place**2).sum().sqrt()) for others in ((0, 1), (0, 2), (1, 2))
    ]  # x, y, z
    assert deviations == pytest.approx([0, 1.5, 3.0], abs=0.15)


def test_magnitudes_are_never_negative() -> None:
    dark = magnitude_noise(torch.zeros(20, 20, 20), rng(), 0.1)
    assert dark.min() >= 0
    assert float(dark.mean()) == pytest.approx(0.1 * np.sqrt(np.pi / 2), rel=0.02)  # Rayleigh
    bright = magnitude_noise(torch.ones(20, 20, 20), rng(), 0.1)
    assert float(bright.std()) == pytest.approx(0.1, rel=0.05)
