"""Sampling: the same values as ITK's resampling, by both paths, for every kind of scan; and normalization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.synthetic import directions, geometries, rotation, single, stored_otherwise, triples
from trt_landmarks.geometry import Floats, Geometry, Grid
from trt_landmarks.preprocessing import sampling
from trt_landmarks.preprocessing.sampling import grid_to_voxel, intensity_range, normalize, sample
from trt_landmarks.scan import Scan, read_scan
from trt_landmarks.task.task import Intensity

DTYPES = [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]
INTEGERS = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64]
SETTINGS = settings(max_examples=60, deadline=None)


def voxels_of(geometry: Geometry, dtype: Any, seed: int) -> NDArray[Any]:
    """Noise over the type's whole range: neighbours differ by more than the type itself could hold."""
    rng = np.random.default_rng(seed)
    shape = geometry.size[::-1]
    if np.issubdtype(dtype, np.integer):
        low, high = (-(2**20), 2**20) if dtype is np.int32 else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        return rng.choice([low, high, 0, 1, (low + high) // 2 + 7], size=shape).astype(dtype)
    return (rng.normal(size=shape) * 1000).astype(dtype)


def resampled(voxels: NDArray[Any], geometry: Geometry, grid: Grid, fill: float) -> NDArray[np.float32]:
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(geometry.spacing)
    image.SetOrigin(geometry.origin)
    image.SetDirection(geometry.direction.ravel().tolist())
    target = grid.geometry
    filter = SimpleITK.ResampleImageFilter()
    filter.SetSize(target.size)
    filter.SetOutputSpacing(target.spacing)
    filter.SetOutputOrigin(target.origin)
    filter.SetOutputDirection(target.direction.ravel().tolist())
    filter.SetInterpolator(SimpleITK.sitkLinear)
    filter.SetDefaultPixelValue(fill)
    filter.SetOutputPixelType(SimpleITK.sitkFloat32)
    filter.SetNumberOfThreads(1)
    return SimpleITK.GetArrayFromImage(filter.Execute(image))


def positions(geometry: Geometry, grid: Grid) -> Floats:
    """Voxel coordinates (i, j, k) of every grid position, ``[z, y, x, 3]``."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape[::-1]), indexing="ij")
    return geometry.world_to_voxel(grid.geometry.voxel_to_world(np.stack([x, y, z], axis=-1)))


def on_the_border(geometry: Geometry, grid: Grid) -> NDArray[np.bool_]:
    """Where inside and outside are a matter of rounding."""
    place = positions(geometry, grid)
    ends = np.minimum(np.abs(place + 0.5), np.abs(place - (np.asarray(geometry.size) - 0.5)))
    return np.asarray((ends < 1e-4).any(axis=-1))


def agree(voxels: NDArray[Any], geometry: Geometry, grid: Grid, fill: float) -> None:
    mine = sample(voxels, geometry, grid, fill)
    assert mine.shape == grid.shape[::-1] and mine.dtype == np.float32 and mine.flags.c_contiguous
    expected = resampled(voxels, geometry, grid, fill)
    span = float(voxels.max()) - float(voxels.min()) + 1
    unsure = on_the_border(geometry, grid)
    np.testing.assert_allclose(np.where(unsure, 0, mine), np.where(unsure, 0, expected), rtol=0, atol=1e-3 * span)


@st.composite
def grids(draw: st.DrawFn, geometry: Geometry, aligned: bool) -> Grid:
    """A grid that begins inside the scan or near it, and often leaves it."""
    count = st.integers(1, 9)
    step = st.floats(0.2, 3)
    spacing = [draw(step) * s for s in geometry.spacing]
    start = geometry.voxel_to_world([draw(st.floats(-2, n + 1)) for n in geometry.size])
    axes = np.eye(3)
    if aligned:
        order = draw(st.permutations(range(3)))
        axes = (geometry.direction * [draw(st.sampled_from([-1, 1])) for _ in range(3)])[:, list(order)]
        spacing = [spacing[n] for n in order]
    elif draw(st.booleans()):
        axes = draw(directions())
    return Grid((draw(count), draw(count), draw(count)), (spacing[0], spacing[1], spacing[2]), start, axes)


@given(st.data(), geometries(largest=12), st.sampled_from(DTYPES), st.booleans(), st.integers(0, 999))
@SETTINGS
def test_it_is_what_itk_does(data: st.DataObject, geometry: Geometry, dtype: Any, aligned: bool, seed: int) -> None:
    grid = data.draw(grids(geometry, aligned))
    agree(voxels_of(geometry, dtype, seed), geometry, grid, fill=-7.5)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_by_both_paths(dtype: Any, aligned: bool) -> None:
    direction = rotation(10, 20, 30) @ np.diag([1, -1, 1])
    geometry = Geometry((9, 8, 7), (0.5, 1.1, 3), (-100, -20, -3.5), direction)
    axes = direction[:, [2, 0, 1]] if aligned else rotation(-40, 5, 60)
    grid = Grid((10, 11, 12), (0.9, 0.4, 0.7), geometry.centre + np.array([0.3, 0.2, 1]), axes)
    assert (sampling._aligned_axes(grid_to_voxel(grid, geometry), grid.shape) is not None) == aligned
    outside = (positions(geometry, grid) < -0.5).any(axis=-1)
    assert 0 < outside.mean() < 0.9 or aligned
    agree(voxels_of(geometry, dtype, 3), geometry, grid, fill=100)


@given(st.data(), geometries(largest=9), st.sampled_from(DTYPES), st.integers(0, 999))
@SETTINGS
def test_both_paths_agree(data: st.DataObject, geometry: Geometry, dtype: Any, seed: int) -> None:
    grid = data.draw(grids(geometry, aligned=True))
    matrix = grid_to_voxel(grid, geometry)
    order = sampling._aligned_axes(matrix, grid.shape)
    assert order is not None
    assume(not on_the_border(geometry, grid).any())
    voxels = voxels_of(geometry, dtype, seed)
    separable = sampling._sample_separable(voxels, matrix, order, grid.shape, -3)
    general = sampling._sample_points(voxels, matrix, grid.shape, -3)
    span = float(voxels.max()) - float(voxels.min()) + 1
    np.testing.assert_allclose(separable, general, rtol=0, atol=2e-5 * span)


@pytest.mark.parametrize("thin", range(3))
@pytest.mark.parametrize("aligned", [True, False])
def test_a_single_slice(thin: int, aligned: bool) -> None:
    size = [6, 5, 4]
    size[thin] = 1
    geometry = Geometry((size[0], size[1], size[2]), (1, 1.5, 2), (3, -4, 5), rotation(30, 0, 10))
    axes = geometry.direction if aligned else geometry.direction @ rotation(3, -4, 8)
    agree(voxels_of(geometry, np.int16, 1), geometry, Grid((8, 8, 8), (0.9, 0.8, 0.7), geometry.centre, axes), 55)


def test_a_nearly_aligned_grid_is_not_taken_for_an_aligned_one() -> None:
    """A tenth of a degree moves the far end of a grid by a fraction of a voxel: that must not get lost."""
    geometry = Geometry((40, 40, 40), (0.5, 0.5, 0.5), (0, 0, 0), np.eye(3))
    ramp = np.arange(40, dtype=np.float32)[:, None, None] + np.zeros((40, 40, 40), np.float32)
    grid = Grid((30, 30, 30), (0.5, 0.5, 0.5), geometry.centre, rotation(0.1, 0, 0))
    np.testing.assert_allclose(sample(ramp, geometry, grid), positions(geometry, grid)[..., 2], atol=1e-4)


def test_one_voxel_by_hand() -> None:
    voxels = np.zeros((2, 3, 4), np.uint8)
    voxels[1, 2, 3] = 200
    geometry = Geometry((4, 3, 2), (1, 2, 5), (10, 20, 30), np.eye(3))
    grid = Grid((3, 1, 1), (0.5, 1, 1), np.array([13, 24, 35.0]))
    # Half a voxel before the last one, on it, and half a voxel behind it: still the border's value.
    np.testing.assert_allclose(sample(voxels, geometry, grid, fill=9), [[[100, 200, 200]]])
    grid = Grid((3, 1, 1), (0.51, 1, 1), np.array([13, 24, 35.0]))
    np.testing.assert_allclose(sample(voxels, geometry, grid, fill=9), [[[98, 200, 9]]], rtol=1e-5)


@pytest.mark.parametrize("turn", [(0, 0, 0), (13, -37, 71)])
def test_rounding_does_not_decide_what_is_outside(turn: tuple[float, float, float]) -> None:
    """Positions on the half voxel itself count as inside, however the scan is stored."""
    size = (7, 9, 11)
    geometry = Geometry(size, (0.1, 0.3, 0.7), (-77.7, 33.3, 1.1), rotation(*turn))
    scan = Scan("x", None, np.full(size[::-1], 5.0), geometry)
    grid = Grid((8, 10, 12), geometry.spacing, geometry.centre, geometry.direction)
    for other, order in stored_otherwise(scan):
        assert (sample(other.voxels, other.geometry, grid, fill=-1) == 5).all(), order


def test_the_scan_is_not_changed() -> None:
    voxels = voxels_of(Geometry((5, 5, 5), (1, 1, 1), (0, 0, 0), np.eye(3)), np.float32, 0)
    before = voxels.copy()
    geometry = Geometry((5, 5, 5), (1, 1, 1), (0, 0, 0), np.eye(3))
    same = sample(voxels, geometry, Grid((5, 5, 5), (1, 1, 1), geometry.centre), fill=1)
    np.testing.assert_allclose(same, before, rtol=1e-5)
    normalize(same, 0, 10)
    np.testing.assert_array_equal(voxels, before)


def test_a_real_scan_lying_obliquely(mouse_scans: list[Path]) -> None:
    scan = read_scan(mouse_scans[0])
    turn = rotation(15, -25, 40)
    geometry = Geometry(scan.geometry.size, (0.2, 0.25, 0.3), (-50, 20, 700), turn)
    centre = geometry.centre + np.array([9, 8, 0])  # partly outside
    for axes in (turn[:, [1, 2, 0]], np.eye(3)):
        agree(scan.voxels, geometry, Grid((30, 31, 32), (0.6, 0.5, 0.7), centre, axes), 13)


# --- intensities --------------------------------------------------------------------------------------------


@given(
    st.sampled_from(DTYPES), st.integers(2, 400), st.floats(0, 60), st.floats(1, 40), st.integers(0, 999)
)  # fmt: skip
@example(np.uint8, 101, 1, 99, 0)
@SETTINGS
def test_percentiles_are_nearest_ranks(dtype: Any, count: int, low: float, width: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 250, count).astype(dtype) if dtype == np.uint8 else rng.normal(0, 900, count).astype(dtype)
    assume(values.min() < values.max())
    found = intensity_range(values.reshape(1, 1, -1), Intensity(low=low, high=low + width))
    ordered = np.sort(values)
    ranks = [p / 100 * (count - 1) for p in (low, low + width)]
    nearest = [{float(ordered[n]) for n in {int(np.floor(r + 0.5)), int(np.ceil(r - 0.5))}} for r in ranks]
    if found != (float(ordered[0]), float(ordered[-1])):  # what nearly constant scans get
        assert found[0] in nearest[0] and found[1] in nearest[1]
    else:
        assert min(nearest[1]) <= max(nearest[0]) or (found[0] in nearest[0] and found[1] in nearest[1])
    assert found[0] < found[1]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float32])
def test_percentiles_by_numpy(dtype: Any) -> None:
    values = np.random.default_rng(5).integers(0, 256, (20, 21, 22)).astype(dtype)
    for low, high in ((1, 99.9), (0, 100), (12.5, 50)):
        expected = tuple(np.percentile(values, [low, high], method="nearest"))
        assert intensity_range(values, Intensity(low=low, high=high)) == expected


@given(st.sampled_from(INTEGERS), st.sampled_from([1, 200, 65_535, 65_536, 10**6]), st.integers(0, 999), st.data())
@SETTINGS
def test_integers_are_counted_as_other_numbers_are_sorted(dtype: Any, width: int, seed: int, data: Any) -> None:
    rng, ends = np.random.default_rng(seed), np.iinfo(dtype)
    least = data.draw(st.integers(max(int(ends.min), -(2**52)), min(int(ends.max), 2**52) - 1))
    most = min(least + width, int(ends.max), 2**52)
    values = np.array([least, most, *rng.integers(least, most + 1, rng.integers(1, 500))], dtype).reshape(-1, 1, 1)
    low = data.draw(st.floats(0, 99))
    intensity = Intensity(low=low, high=low + data.draw(st.floats(0.1, 1)))
    assert intensity_range(values, intensity) == intensity_range(values.astype(np.float64), intensity)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_counts_of_many_voxels_are_those_of_numpy(dtype: Any) -> None:
    values = np.random.default_rng(3).gamma(2, 20, (70, 64, 65)).astype(dtype)  # more than are counted at once
    expected = np.percentile(values, [1, 99.5], method="nearest")
    assert intensity_range(values, Intensity(low=1, high=99.5)) == tuple(expected)


def test_a_nearly_constant_scan_takes_its_extremes() -> None:
    for dtype in DTYPES:
        values = np.full((20, 20, 20), 3, dtype=dtype)
        values[4, 5, 6], values[7, 7, 7] = 0, 90
        assert intensity_range(values, Intensity()) == (0, 90)


def test_a_window_is_taken_as_it_is() -> None:
    values = np.zeros((3, 3, 3), np.int16)
    assert intensity_range(values, Intensity(method="window", low=-1000, high=2000)) == (-1000, 2000)


def test_the_range_does_not_depend_on_how_the_axes_are_stored(mouse_scans: list[Path]) -> None:
    scan = read_scan(mouse_scans[1])
    for voxels in (scan.voxels[::2, ::2, ::2], scan.voxels[::2, ::2, ::2].astype(np.float32) * 1.7 - 40):
        piece = Scan("piece", None, np.ascontiguousarray(voxels), Geometry(
            (voxels.shape[2], voxels.shape[1], voxels.shape[0]), (0.4, 0.4, 0.4), (0, 0, 0), np.eye(3)
        ))  # fmt: skip
        expected = intensity_range(piece.voxels, Intensity())
        for other, _ in stored_otherwise(piece):
            assert intensity_range(other.voxels, Intensity()) == expected


def test_normalization() -> None:
    values = np.array([-1100, -1000, 0, 500, 2000, 9000], np.float32)
    result = normalize(values, -1000, 2000)
    np.testing.assert_allclose(result, [0, 0, 1 / 3, 0.5, 1, 1], atol=1e-6)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(normalize(single([0.1, 0.4]), 0.1, 0.4), [0, 1])


@given(triples(-3e4, 3e4), st.floats(-3e4, 3e4), st.floats(1e-2, 1e5))
def test_normalized_values_lie_between_0_and_1(values: tuple[float, ...], low: float, span: float) -> None:
    result = normalize(single(values), low, low + span)
    assert (result >= 0).all() and (result <= 1).all()
    np.testing.assert_allclose(result, np.clip((np.array(values) - low) / span, 0, 1), atol=1e-2 if span < 1 else 1e-3)
