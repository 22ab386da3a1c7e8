"""Voxel <-> world for anything that a scanner or a converter can produce, and the grids sampled in the world."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.synthetic import directions, geometries, rotation, triples
from trt_landmarks.geometry import Floats, Geometry, Grid, anatomy_axes, rigid_rotation, same_slice, transform

SIDEWAYS = np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0.0]])  # i along +y, j along -z, k along -x


@given(geometries(), st.lists(triples(-500, 500), min_size=1, max_size=5))
def test_voxel_world_voxel(geometry: Geometry, points: list[tuple[float, float, float]]) -> None:
    world = geometry.voxel_to_world(points)
    np.testing.assert_allclose(geometry.world_to_voxel(world), points, rtol=0, atol=1e-6)
    np.testing.assert_allclose(transform(geometry.world_to_voxel_matrix, world), points, rtol=0, atol=1e-6)


@given(geometries(), triples(-500, 500))
def test_each_index_steps_along_its_own_column(geometry: Geometry, point: tuple[float, float, float]) -> None:
    here = geometry.voxel_to_world(point)
    for axis in range(3):
        step = geometry.voxel_to_world(np.asarray(point) + np.eye(3)[axis]) - here
        np.testing.assert_allclose(step, geometry.direction[:, axis] * geometry.spacing[axis], atol=1e-9)
    np.testing.assert_allclose(geometry.voxel_to_world([0, 0, 0]), geometry.origin, atol=1e-12)


def test_a_geometry_by_hand() -> None:
    geometry = Geometry((10, 20, 30), (0.5, 2, 3), (100, -50, 7), SIDEWAYS)
    np.testing.assert_allclose(geometry.voxel_to_world([2, 3, 4]), [100 - 12, -50 + 1, 7 - 6])
    np.testing.assert_allclose(geometry.world_to_voxel([88, -49, 1]), [2, 3, 4])
    np.testing.assert_allclose(geometry.centre, [100 - 14.5 * 3, -50 + 4.5 * 0.5, 7 - 9.5 * 2])
    assert geometry.voxel_to_world(np.zeros((4, 5, 3))).shape == (4, 5, 3)


def test_a_direction_may_be_given_as_nine_numbers() -> None:
    geometry = Geometry((2, 2, 2), (1, 1, 1), (0, 0, 0), SIDEWAYS.ravel())
    np.testing.assert_array_equal(geometry.direction, SIDEWAYS)


@given(geometries())
def test_contains_counts_voxels_to_their_faces(geometry: Geometry) -> None:
    size = np.asarray(geometry.size)
    for axis in range(3):
        for end, out in ((-0.5, -1), (size[axis] - 0.5, 1)):
            voxel = (size - 1) / 2
            voxel[axis] = end
            just = 1e-5 * out * np.eye(3)[axis]
            inside, outside = geometry.contains(geometry.voxel_to_world([voxel - just, voxel + just]))
            assert inside and not outside
    assert geometry.contains(geometry.centre)


@given(
    directions(improper=False), triples(-1000, 1000), triples(0.05, 10),
    st.tuples(*[st.integers(1, 50)] * 3), triples(-30, 30),
)  # fmt: skip
def test_grid_samples_lie_about_its_centre_along_its_axes(
    axes: Floats,
    centre: tuple[float, float, float],
    spacing: tuple[float, float, float],
    shape: tuple[int, int, int],
    index: tuple[float, float, float],
) -> None:
    grid = Grid(shape, spacing, np.asarray(centre), axes)
    as_geometry = grid.geometry
    assert as_geometry.size == shape and as_geometry.spacing == spacing
    np.testing.assert_allclose(as_geometry.centre, centre, atol=1e-9)
    offset = (np.asarray(index) - (np.asarray(shape) - 1) / 2) * spacing
    expected = np.asarray(centre) + sum(axes[:, n] * offset[n] for n in range(3))
    np.testing.assert_allclose(as_geometry.voxel_to_world(index), expected, atol=1e-9)


def test_a_grid_lies_along_the_world_by_default() -> None:
    grid = Grid((3, 4, 5), (1, 2, 3), np.array([10, 20, 30.0]))
    np.testing.assert_allclose(grid.geometry.origin, [9, 17, 24])
    np.testing.assert_allclose(grid.geometry.voxel_to_world([2, 3, 4]), [11, 23, 36])
    np.testing.assert_allclose(grid.geometry.voxel_to_world([1, 1.5, 2]), [10, 20, 30])


def test_same_slice_by_hand() -> None:
    centres = np.array([[1, 2, 3], [5, 6, 7], [9, 9, 9], [3, 0, 0.0]])
    before = centres.copy()
    moved = same_slice(centres, [0, 3, 1], axis=0)
    np.testing.assert_allclose(moved, [[3, 2, 3], [3, 6, 7], [9, 9, 9], [3, 0, 0]])
    np.testing.assert_array_equal(centres, before)


@given(directions(improper=False), st.integers(0, 2), st.integers(0, 2**31))
def test_same_slice_along_any_axes(axes: Floats, axis: int, seed: int) -> None:
    centres = np.random.default_rng(seed).normal(size=(6, 3)) * 50
    members = [4, 0, 2]
    moved = same_slice(centres, members, axis, axes)
    along = moved[members] @ axes[:, axis]
    np.testing.assert_allclose(along, (centres[members] @ axes[:, axis]).mean(), atol=1e-9)
    for other in {0, 1, 2} - {axis}:
        np.testing.assert_allclose(moved @ axes[:, other], centres @ axes[:, other], atol=1e-9)
    np.testing.assert_array_equal(moved[[1, 3, 5]], centres[[1, 3, 5]])


@given(directions(improper=False), triples(-1000, 1000), st.integers(0, 2**31))
def test_a_known_rotation_is_recovered(turn: Floats, shift: tuple[float, float, float], seed: int) -> None:
    shape = np.random.default_rng(seed).normal(size=(7, 3)) * 10
    np.testing.assert_allclose(rigid_rotation(shape, shape @ turn.T + shift), turn, atol=1e-8)


def test_noise_turns_little() -> None:
    rng = np.random.default_rng(1)
    shape, turn = rng.normal(size=(45, 3)) * 5, rotation(20, -35, 70)
    found = rigid_rotation(shape, shape @ turn.T + rng.normal(size=(45, 3)) * 0.3)
    degrees = np.degrees(np.arccos((np.trace(found @ turn.T) - 1) / 2))
    assert 0 < degrees < 2
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-12)


@given(directions(), st.integers(0, 2**31))
@settings(max_examples=50)
def test_it_is_a_rotation_even_for_mirrored_shapes(turn: Floats, seed: int) -> None:
    """A mirrored shape has no rotation onto it: the answer must still be one, and the best there is."""
    rng = np.random.default_rng(seed)
    shape = rng.normal(size=(6, 3)) * [10, 6, 3]
    target = (shape * [1, 1, -1]) @ turn.T
    found = rigid_rotation(shape, target)
    assert np.linalg.det(found) == pytest.approx(1)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-9)

    def misfit(matrix: Floats) -> float:
        s, t = shape - shape.mean(0), target - target.mean(0)
        return float(((s @ matrix.T - t) ** 2).sum())

    for other in [rotation(*rng.uniform(-180, 180, 3)) for _ in range(20)] + [found @ rotation(1, 1, 1)]:
        assert misfit(found) <= misfit(other) + 1e-6


def test_a_frame_is_the_anatomy_s_only_where_it_is_determined() -> None:
    rng = np.random.default_rng(2)
    turn = rotation(20, -35, 70)
    flat = rng.normal(size=(8, 3)) * [20, 12, 0]
    np.testing.assert_allclose(anatomy_axes(flat, flat @ turn.T + 5), turn, atol=1e-9)
    partly = np.where(np.arange(8)[:, None] < 5, flat @ turn.T, np.nan)
    np.testing.assert_allclose(anatomy_axes(flat, partly), turn, atol=1e-9)
    for line in (flat * [1, 0, 0], flat * [1, 0, 0] + rng.normal(size=(8, 3)) * 0.3, np.ones((8, 3)), flat[:2]):
        np.testing.assert_array_equal(anatomy_axes(line, line @ turn.T), np.eye(3))
    np.testing.assert_array_equal(anatomy_axes(flat, np.ones((8, 3))), np.eye(3))


@given(st.integers(0, 2**31), st.integers(3, 40))
@settings(max_examples=100)
def test_small_errors_turn_the_anatomy_s_frame_little(seed: int, count: int) -> None:
    """Whatever the shape, the frame that is taken turns by few degrees for the errors that a coarse net makes."""
    rng = np.random.default_rng(seed)
    shape = rng.normal(size=(count, 3)) * rng.uniform(0.1, 40, 3)
    size = np.sqrt(((shape - shape.mean(0)) ** 2).sum(1).mean())
    turned = [anatomy_axes(shape, shape + rng.normal(size=shape.shape) * 0.02 * size) for _ in range(20)]
    degrees = np.degrees(np.arccos(np.clip([(np.trace(axes) - 1) / 2 for axes in turned], -1, 1)))
    assert np.median(degrees) < 8


def test_a_flat_shape_still_gives_a_rotation() -> None:
    """Landmarks in one plane leave the sign of the third direction to the decomposition."""
    flat = np.array([[0, 0, 0], [4, 0, 0], [0, 3, 0], [5, 5, 0.0]])
    turn = rotation(30, 40, 50)
    np.testing.assert_allclose(rigid_rotation(flat, flat @ turn.T), turn, atol=1e-9)
    line = flat * [1, 0, 0]
    assert np.linalg.det(rigid_rotation(line, line)) == pytest.approx(1)
