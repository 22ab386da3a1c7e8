"""Mirror pairs and planes are found where they are, and not where chance puts them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.synthetic import rotation
from trt_landmarks.data.shapes import average_shape, coplanar_sets, mirror_pairs, shape_size, typical_shape
from trt_landmarks.geometry import Floats, rigid_rotation

#: Ten pairs and eight landmarks of the midline, in random order.
PAIRS, MIDLINE = 10, 8


def symmetric(rng: np.random.Generator, axis: int) -> tuple[Floats, tuple[int, ...]]:
    """A shape ``[28, 3]`` with its partners; the midline lies in the plane across ``axis``."""
    side = rng.uniform(-40, 40, (PAIRS, 3))
    side[:, axis] = rng.uniform(8, 40, PAIRS)
    flip = np.where(np.arange(3) == axis, -1, 1)
    middle = rng.uniform(-40, 40, (MIDLINE, 3))
    middle[:, axis] = 0
    partner = [*range(PAIRS, 2 * PAIRS), *range(PAIRS), *range(2 * PAIRS, 2 * PAIRS + MIDLINE)]
    order = rng.permutation(len(partner))
    place = np.argsort(order)
    return np.concatenate([side, side * flip, middle])[order], tuple(int(place[partner[n]]) for n in order)


def cases(shape: Floats, rng: np.random.Generator, noise: float, degrees: float) -> Floats:
    """Twelve individuals ``[12, N, 3]``, each in a pose of its own."""
    return np.stack([
        (shape * rng.uniform(0.9, 1.1) + rng.normal(size=shape.shape) * noise)
        @ rotation(*rng.uniform(-degrees, degrees, 3)).T + rng.normal(size=3) * 30
        for _ in range(12)
    ])  # fmt: skip


@given(st.integers(0, 10**6), st.integers(0, 2))
@settings(max_examples=15)
def test_mirror_pairs_and_the_midline_are_found(seed: int, axis: int) -> None:
    rng = np.random.default_rng(seed)
    shape, partner = symmetric(rng, axis)
    people = cases(shape, rng, 0.3, 8)
    pairs = mirror_pairs(average_shape(people))
    assert pairs is not None
    assert pairs.axis == axis and pairs.residual < 1
    right = np.mean(np.array(pairs.partner) == partner)  # two landmarks may happen to lie side by side
    assert right >= 0.9
    assert all(other < 0 or pairs.partner[other] == n for n, other in enumerate(pairs.partner))


def test_a_shape_without_symmetry_has_no_mirror_pairs() -> None:
    found = [mirror_pairs(np.random.default_rng(seed).uniform(-40, 40, (28, 3))) for seed in range(10)]
    assert found == [None] * 10


def test_planes_are_found_in_every_pose_and_chance_is_not() -> None:
    for seed, axis in enumerate((0, 1, 2)):
        rng = np.random.default_rng(seed)
        shape, partner = symmetric(rng, axis)
        people = cases(shape, rng, 0.2, 15)
        (plane,) = coplanar_sets(people, mirror_pairs(average_shape(people)))
        assert plane.axis == axis
        assert set(plane.members) == {n for n, other in enumerate(partner) if n == other}
        assert 0 < plane.distance < 0.3
    assert coplanar_sets(cases(rng.uniform(-40, 40, (28, 3)), rng, 0.2, 15)) == []


def test_a_plane_of_some_people_only_is_none() -> None:
    rng = np.random.default_rng(1)
    shape, partner = symmetric(rng, 0)
    people = cases(shape, rng, 0.2, 5)
    middle = [n for n, other in enumerate(partner) if n == other]
    people[::2, middle] += rng.normal(size=(6, len(middle), 3)) * [12, 0, 0]
    assert not any(set(middle) <= set(plane.members) for plane in coplanar_sets(people))


def test_partly_annotated_cases_are_used() -> None:
    rng = np.random.default_rng(2)
    shape, partner = symmetric(rng, 0)
    people = cases(shape, rng, 0.2, 5)
    people[rng.random(people.shape[:2]) < 0.2] = np.nan
    pairs = mirror_pairs(average_shape(people))
    assert pairs is not None and pairs.partner == partner
    (plane,) = coplanar_sets(people, pairs)
    assert set(plane.members) == {n for n, other in enumerate(partner) if n == other}


def test_size() -> None:
    assert shape_size(np.array([[3.0, 0, 0], [-3, 0, 0], [0, 4, 0], [0, -4, 0]])) == pytest.approx(np.sqrt(12.5))


def test_one_wrong_case_of_few_does_not_move_the_typical_shape() -> None:
    rng = np.random.default_rng(4)
    shape = rng.normal(size=(6, 3)) * 10
    points = shape + rng.normal(size=(5, 6, 3)) * 0.2
    points[0, [0, 5]] = points[0, [5, 0]]
    points[1, 2] = np.nan
    typical = typical_shape(points)
    distances = []
    for found in (typical, average_shape(points)):
        known = points[2:]
        centred = [p - p.mean(0) for p in known]
        turned = [c @ rigid_rotation(c, found - found.mean(0)).T for c in centred]
        distances.append(float(np.mean([shape_size(t - (found - found.mean(0))) for t in turned])))
    assert distances[0] < 1 < distances[1]
