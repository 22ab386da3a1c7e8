"""Warps meet their landmarks, can be inverted, say when they fold, and carry an image's landmarks exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.synthetic import HEAD, blobs
from trt_landmarks.geometry import Grid
from trt_landmarks.training.warping import (
    FoldedWarpError,
    Warp,
    positions,
    resample,
    smooth_noise,
    thin_plate_spline,
    warp_between,
)

CONTROL = Grid((13, 15, 12), (2.0, 2.0, 2.0), np.array([1.0, -0.5, 0.5]))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.integers(0, 10**6))
@settings(max_examples=25)
def test_a_spline_meets_its_points_and_keeps_affine_maps(seed: int) -> None:
    random = rng(seed)
    source, target = random.normal(size=(2, 12, 3)) * 20
    np.testing.assert_allclose(thin_plate_spline(source, target)(source), target, atol=1e-8)
    matrix, shift = random.normal(size=(3, 3)), random.normal(size=3)
    elsewhere = random.normal(size=(20, 3)) * 50
    for smoothing in (0.0, 5.0):
        affine = thin_plate_spline(source, source @ matrix.T + shift, smoothing)
        np.testing.assert_allclose(affine(elsewhere), elsewhere @ matrix.T + shift, atol=1e-6)


def test_smoothing_trades_misfit_for_bending() -> None:
    source, noise = rng(1).normal(size=(2, 20, 3)) * [[[20]], [[2]]]
    misfit = [np.abs(thin_plate_spline(source, source + noise, s)(source) - source - noise).mean() for s in (1, 10, 99)]
    assert 0 < misfit[0] < misfit[1] < misfit[2] < np.abs(noise).mean()


@given(st.integers(0, 10**6))
@settings(max_examples=25)
def test_points_come_back_through_a_warp(seed: int) -> None:
    random = rng(seed)
    extra = 0.3 * smooth_noise(CONTROL.shape[::-1], 5, random, 3)
    warp = warp_between(HEAD + random.normal(size=HEAD.shape) * 0.4, HEAD, CONTROL, 0.5, extra)
    assert warp.smallest_jacobian() > 0
    back = warp(torch.as_tensor(warp.preimage(HEAD))).numpy()
    assert np.linalg.norm(back - HEAD, axis=1).max() < 0.05


def test_a_warped_scan_shows_its_landmarks_where_they_are_said_to_be() -> None:
    original = Grid((41, 51, 37), (0.5, 0.5, 0.5), np.zeros(3))
    image = torch.from_numpy(blobs(original.geometry, HEAD, [1] * len(HEAD), 0.8))[None, None]
    extra = 0.4 * smooth_noise(CONTROL.shape[::-1], 4, rng(3), 3)
    warp = warp_between(HEAD * 1.08 + 0.7, HEAD, CONTROL, 1.0, extra)
    expected = warp.preimage(HEAD)
    assert np.linalg.norm(expected - HEAD, axis=1).min() > 0.2  # something moved
    seen = Grid((91, 111, 85), (0.25, 0.25, 0.25), np.zeros(3))
    places = positions(seen)
    values = resample(image, original, warp(places))[0]
    for point in expected:
        near = values * (torch.linalg.vector_norm(places - torch.as_tensor(point), dim=-1) < 1.0)
        brightest = (places * near[..., None] ** 4).sum(dim=(0, 1, 2)) / (near**4).sum()
        assert np.linalg.norm(brightest.numpy() - point) < 0.1


def test_folds_are_refused() -> None:
    crossed = HEAD.copy()
    crossed[[0, 1]] = crossed[[1, 0]]  # the ears change sides, the rest stays
    with pytest.raises(FoldedWarpError, match="folds"):
        warp_between(crossed, HEAD, CONTROL)
    sharp = torch.zeros(1, 3, 12, 15, 13)
    sharp[0, 0, 6, 7, 6] = -2.5  # more than the distance to the next control point
    assert Warp(CONTROL, sharp).smallest_jacobian() <= 0
    assert Warp(CONTROL, torch.zeros_like(sharp)).smallest_jacobian() == pytest.approx(1)


def test_a_point_that_cannot_be_traced_back_is_an_error() -> None:
    torn = torch.from_numpy(rng().normal(size=(1, 3, 12, 15, 13)) * 20)  # neighbours are sent anywhere
    with pytest.raises(FoldedWarpError, match="traced back"):
        Warp(CONTROL, torn).preimage(HEAD)


def test_positions_and_resampling_agree() -> None:
    places = positions(CONTROL)
    np.testing.assert_allclose(places.mean(dim=(0, 1, 2)), CONTROL.centre, atol=1e-5)
    volume = torch.rand(1, 2, 12, 15, 13, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resample(volume, CONTROL, places), volume[0], atol=1e-5, rtol=0)
    far = torch.tensor([[100.0, 0, 0]])
    assert resample(volume, CONTROL, far).abs().max() == 0
    assert resample(volume, CONTROL, far, border=True).min() > 0


def test_noise_is_smooth_and_normed() -> None:
    field = smooth_noise((20, 24, 28), 8, rng(), 2)
    assert field.shape == (1, 2, 20, 24, 28)
    assert float(field.std()) == pytest.approx(1, abs=1e-3)
    assert float(field.diff(dim=-1).abs().max()) < 1.5
