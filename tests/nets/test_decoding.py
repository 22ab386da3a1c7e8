"""Decoding of heatmaps: exact for Gaussians, and never a point outside the patch whatever comes in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trt_landmarks.nets.decoding import HeatmapDecoder, SliceDecoder

SHAPE = (12, 16, 14)  # x, y, z
MIDDLE = (np.array(SHAPE) - 1) / 2


def gaussian(positions: np.ndarray, sigma: float, height: float = 1.0, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Heatmaps ``[1, L, Z, Y, X]`` with peaks at voxel ``positions`` ``[L, 3]`` (x, y, z)."""
    x, y, z = (np.exp(-0.5 * ((np.arange(n) - positions[:, axis, None]) / sigma) ** 2) for axis, n in enumerate(shape))
    values = height * z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :]
    return torch.from_numpy(values[None].astype(np.float32))


@given(st.integers(0, 9999), st.sampled_from([1.4, 2.0, 2.6]), st.floats(0.3, 1.0))
@settings(max_examples=40, deadline=None)
def test_a_gaussian_is_found_where_it_is(seed: int, sigma: float, height: float) -> None:
    """Anywhere but so near the border that smoothing meets the zeros outside: 1.5 voxels and the kernel's radius."""
    decoder = HeatmapDecoder(SHAPE, sigma / 2)
    margin = len(decoder.kernel) // 2 + 1.5
    place = np.random.default_rng(seed).uniform(margin, np.array(SHAPE) - 1 - margin, (3, 3))
    offsets, confidence = decoder(gaussian(place, sigma, height))
    np.testing.assert_allclose(offsets[0].numpy() + MIDDLE, place, atol=0.02)
    # The height of the nearest voxel, at most half a voxel away along each axis.
    assert (confidence.numpy() <= height + 1e-6).all()
    assert (confidence.numpy() >= height * np.exp(-0.5 * 0.75 / sigma**2) - 1e-6).all()


@pytest.mark.parametrize(("distance", "bound"), [(2.5, 0.02), (2.0, 0.1), (1.5, 0.2), (1.0, 0.4)])
def test_near_the_border_the_error_stays_below_half_a_voxel(distance: float, bound: float) -> None:
    """Smoothing with zeros outside draws the peak inwards a little."""
    place = np.array([[distance, 8.2, 6.4], [5.3, 15 - distance, 7.7], [4.8, 7.5, 13 - distance]])
    offsets, _ = HeatmapDecoder(SHAPE, 1)(gaussian(place, 2.0))
    assert np.abs(offsets[0].numpy() + MIDDLE - place).max() < bound


def test_without_smoothing_to_speak_of_it_is_exact() -> None:
    place = np.array([[4.3, 7.6, 6.45], [5.5, 8.0, 3.01], [2.2, 2.7, 11.4]])
    offsets, _ = HeatmapDecoder(SHAPE, 0.2)(gaussian(place, 2.0))
    np.testing.assert_allclose(offsets[0].numpy() + MIDDLE, place, atol=2e-3)


def test_an_oblique_gaussian_needs_the_mixed_derivatives() -> None:
    z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE[::-1]), indexing="ij")
    place = np.array([5.4, 8.3, 6.6])
    d = np.stack([x, y, z], axis=-1) - place
    precision = np.array([[0.4, 0.15, -0.1], [0.15, 0.35, 0.12], [-0.1, 0.12, 0.3]])
    heatmap = np.exp(-0.5 * np.einsum("...a,ab,...b", d, precision, d)).astype(np.float32)
    offsets, _ = HeatmapDecoder(SHAPE, 0.2)(torch.from_numpy(heatmap[None, None]))
    np.testing.assert_allclose(offsets[0, 0].numpy() + MIDDLE, place, atol=5e-3)


def test_each_landmark_of_each_scan_has_its_own_peak() -> None:
    first, second = np.array([[4, 5, 6], [8, 9, 3.5]]), np.array([[6.5, 11, 10], [3, 3, 3.0]])
    offsets, _ = HeatmapDecoder(SHAPE, 1)(torch.cat([gaussian(first, 2), gaussian(second, 2)]))
    np.testing.assert_allclose(offsets.numpy() + MIDDLE, [first, second], atol=0.02)


def test_the_middle_is_offset_zero() -> None:
    offsets, confidence = HeatmapDecoder((8, 8, 8), 1)(gaussian(np.full((1, 3), 3.5), 2, 0.7, (8, 8, 8)))
    np.testing.assert_allclose(offsets, 0, atol=1e-3)
    assert confidence.item() == pytest.approx(0.7 * np.exp(-0.5 * 0.75 / 4), abs=1e-4)


@pytest.mark.parametrize("corner", [(0, 0, 0), (11, 15, 13), (0, 15, 6), (-3, 8, 20)])
def test_peaks_on_and_behind_the_border_stay_near_it(corner: tuple[int, int, int]) -> None:
    place = np.array([corner], dtype=float)
    offsets, _ = HeatmapDecoder(SHAPE, 1)(gaussian(place, 2))
    found = offsets[0].numpy() + MIDDLE
    assert (np.abs(found - np.clip(place, 0, np.array(SHAPE) - 1)) <= 1.01).all()


def strange(kind: str, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(2, 3, 14, 16, 12, generator=random)
    return {
        "noise": noise,
        "faint": noise * 1e-6,
        "huge": noise * 1e6,
        "negative": -noise.abs() - 1,
        "zero": torch.zeros_like(noise),
        "constant": torch.full_like(noise, 0.4),
        "large constant": torch.full_like(noise, 30.0),
        "one voxel": torch.zeros_like(noise).index_fill_(4, torch.tensor([seed % 12]), 1.0),
        "ramp": torch.arange(12.0).expand_as(noise).contiguous(),
        "floor": torch.full_like(noise, 1e-4) + noise * 1e-9,
    }[kind]


@pytest.mark.parametrize(
    "kind", ["noise", "faint", "huge", "negative", "zero", "constant", "large constant", "one voxel", "ramp", "floor"]
)
def test_whatever_comes_in_the_point_stays_in_the_patch(kind: str) -> None:
    for seed in range(5):
        offsets, confidence = HeatmapDecoder(SHAPE, 1)(strange(kind, seed))
        assert offsets.shape == (2, 3, 3) and confidence.shape == (2, 3)
        assert torch.isfinite(offsets).all()
        assert (offsets.abs() <= torch.tensor(MIDDLE) + 1e-5).all()
        assert (confidence >= 0).all() and (confidence <= 1).all()
        if kind in ("negative", "zero"):
            assert (confidence == 0).all()
    if kind == "noise":  # and it is at the smoothed maximum
        smooth = HeatmapDecoder(SHAPE, 1).smooth(strange(kind, 4))
        z, y, x = np.unravel_index(int(smooth[1, 2].argmax()), SHAPE[::-1])
        assert np.abs(offsets[1, 2].numpy() + MIDDLE - np.array([x, y, z])).max() <= 2


def test_smoothing_is_a_gaussian_with_zeros_outside() -> None:
    decoder = HeatmapDecoder(SHAPE, 0.8)
    taps = np.exp(-0.5 * (np.arange(-2, 3) / 0.8) ** 2)
    taps /= taps.sum()
    heatmap = torch.rand(1, 2, 14, 16, 12, generator=torch.Generator().manual_seed(0))
    expected = heatmap.double().numpy()
    for axis in (2, 3, 4):
        expected = np.apply_along_axis(np.convolve, axis, expected, taps, mode="same")
    np.testing.assert_allclose(decoder.smooth(heatmap).numpy(), expected, atol=1e-5)


# --- one dimension ------------------------------------------------------------------------------------------


@given(st.integers(0, 9999), st.sampled_from([1.4, 2.0, 2.6]), st.floats(0.2, 1))
@settings(max_examples=40, deadline=None)
def test_a_key_slice_is_found_where_it_is(seed: int, sigma: float, height: float) -> None:
    place = np.random.default_rng(seed).uniform(5, 14, 4)
    heatmap = height * np.exp(-0.5 * ((np.arange(20) - place[:, None]) / sigma) ** 2)
    found = SliceDecoder(20, sigma / 2)(torch.from_numpy(heatmap.astype(np.float32)))
    assert found.shape == place.shape
    np.testing.assert_allclose(found.numpy() + 9.5, place, atol=0.02)


@pytest.mark.parametrize(
    "kind", ["noise", "faint", "huge", "negative", "zero", "constant", "one voxel", "ramp", "floor"]
)
def test_a_key_slice_stays_in_the_patch(kind: str) -> None:
    heatmaps = strange(kind, 3)[0, :, 0, 0]  # three rows of 12
    found = SliceDecoder(12, 1)(heatmaps)
    assert found.shape == (3,) and torch.isfinite(found).all()
    assert (found.abs() <= 5.5 + 1e-5).all()
