"""Random views: what strength 0 leaves alone, and what every strength keeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.synthetic import STILL
from trt_landmarks.training.augmentation import Augmentation, mirrored_points, mirroring, rotation_xyz

NORMAL = Augmentation()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_strength_zero_is_the_identity() -> None:
    np.testing.assert_array_equal(STILL.axes(rng()), np.eye(3))
    patches = torch.rand(1, 2, 4, 5, 6)
    torch.testing.assert_close(STILL.intensities(patches, rng()), patches)


@given(st.integers(0, 10**6))
@settings(max_examples=100)
def test_views_are_never_mirrored_by_accident(seed: int) -> None:
    axes = NORMAL.axes(rng(seed))
    shear = 1 + 2 * 0.03  # a bound for what shear does to volumes
    assert np.exp(-3 * 0.15) / shear <= np.linalg.det(axes) <= np.exp(3 * 0.15) * shear
    lengths = np.linalg.norm(axes, axis=0)
    assert (lengths > np.exp(-0.15) * 0.95).all() and (lengths < np.exp(0.15) * 1.05).all()


@given(st.integers(0, 10**6))
@settings(max_examples=50)
def test_each_part_alone(seed: int) -> None:
    turned = replace(STILL, rotation_deg=30.0).axes(rng(seed))
    np.testing.assert_allclose(turned @ turned.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turned) == pytest.approx(1) and abs(turned - np.eye(3)).max() > 1e-3
    scaled = replace(STILL, scaling=0.2).axes(rng(seed))
    np.testing.assert_allclose(scaled, np.eye(3) * scaled[0, 0], atol=1e-12)
    assert 0 < abs(np.log(scaled[0, 0])) <= 0.2
    stretched = replace(STILL, stretch=0.2).axes(rng(seed))
    np.testing.assert_allclose(stretched, np.diag(np.diag(stretched)), atol=1e-12)
    assert len(set(np.diag(stretched))) == 3 and (abs(np.log(np.diag(stretched))) <= 0.2).all()
    sheared = replace(STILL, shear=0.2).axes(rng(seed))
    np.testing.assert_array_equal(np.diag(sheared), 1)
    assert 0 < abs(sheared - np.eye(3)).max() <= 0.2


def test_rotations_about_each_axis() -> None:
    quarter = np.pi / 2
    x, y, z = np.eye(3)
    np.testing.assert_allclose(rotation_xyz(np.array([quarter, 0, 0])) @ y, z, atol=1e-12)
    np.testing.assert_allclose(rotation_xyz(np.array([0, quarter, 0])) @ z, x, atol=1e-12)
    np.testing.assert_allclose(rotation_xyz(np.array([0, 0, quarter])) @ x, y, atol=1e-12)
    np.testing.assert_allclose(rotation_xyz(np.array([quarter, 0, quarter])) @ y, z, atol=1e-12)  # x first


def test_mirroring() -> None:
    np.testing.assert_array_equal(mirroring(1, True), np.diag([1, -1, 1]))
    np.testing.assert_array_equal(mirroring(1, False), np.eye(3))
    np.testing.assert_array_equal(mirroring(None, True), np.eye(3))
    points = np.arange(12.0).reshape(4, 3)
    nan = [np.nan] * 3
    np.testing.assert_array_equal(mirrored_points(points, [2, -1, 0, 3]), [points[2], nan, points[0], points[3]])


@pytest.mark.parametrize("seed", range(5))
def test_intensities_stay_in_range_and_in_order(seed: int) -> None:
    patches = torch.linspace(0, 1, 200).reshape(1, 1, 2, 10, 10)
    before = patches.clone()
    changed = replace(NORMAL, noise=0).intensities(patches, rng(seed)).flatten()
    assert torch.equal(patches, before)
    assert changed.min() >= 0 and changed.max() <= 1
    assert (changed[2:] >= changed[1:-1]).all()
    assert changed[0] == 0  # outside the scan stays outside
    assert (changed - patches.flatten()).abs().max() > 0.01


def test_all_patches_of_a_view_change_alike_but_for_noise() -> None:
    patches = torch.full((1, 3, 10, 10, 10), 0.5)
    quiet = replace(NORMAL, noise=0).intensities(patches, rng(1))
    assert quiet.unique().numel() == 1
    noisy = replace(STILL, noise=0.1).intensities(patches, rng(1))
    assert not torch.equal(noisy[:, 0], noisy[:, 1])
    assert 0 < noisy.std() < 0.1 and noisy.mean().item() == pytest.approx(0.5, abs=0.01)


def test_views_are_reproducible() -> None:
    patches = torch.rand(1, 2, 4, 4, 4)
    np.testing.assert_array_equal(NORMAL.axes(rng(5)), NORMAL.axes(rng(5)))
    assert torch.equal(NORMAL.intensities(patches, rng(5)), NORMAL.intensities(patches, rng(5)))
    assert not torch.equal(NORMAL.intensities(patches, rng(5)), NORMAL.intensities(patches, rng(6)))


@given(st.integers(0, 10**6))
@settings(max_examples=50)
def test_other_grey_values_are_the_same_for_all_patches_and_leave_the_outside_dark(seed: int) -> None:
    recolouring = replace(STILL, contrast=1.0)
    patches = torch.linspace(0, 1, 200).reshape(1, 2, 4, 5, 5)
    changed = recolouring.intensities(patches, rng(seed))
    assert changed[patches == 0].abs().max() == 0
    assert 0 <= changed.min() and changed.max() <= 1
    assert not torch.allclose(changed, patches, atol=0.01)
    torch.testing.assert_close(recolouring.intensities(patches.flip(1), rng(seed)), changed.flip(1))


def test_a_share_of_the_views_has_other_grey_values() -> None:
    some, patches, generator = replace(STILL, contrast=0.3), torch.linspace(0, 1, 64).reshape(1, 1, 4, 4, 4), rng()
    changed = [not torch.allclose(some.intensities(patches, generator), patches) for _ in range(300)]
    assert 0.2 < np.mean(changed) < 0.4
