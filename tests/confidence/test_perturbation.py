"""Perturbed scans: the annotation stays at what it marks, whatever was done to the scan."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.synthetic import HEAD, blobs, head_geometry, rotation, small_task
from trt_landmarks.confidence.perturbation import HARD, KINDS, MILD, WRONG, Perturbed, perturbations
from trt_landmarks.geometry import Grid
from trt_landmarks.preprocessing.sampling import sample
from trt_landmarks.scan import Scan

TASK = small_task()
GEOMETRY = head_geometry(rotation(5, -10, 8))
POINTS = HEAD + GEOMETRY.centre


@pytest.fixture(scope="module")
def scan() -> Scan:
    """A bright blob at every landmark."""
    return Scan("head", None, blobs(GEOMETRY, POINTS, [1.0] * len(HEAD), 1.5), GEOMETRY)


@pytest.fixture(scope="module")
def made(scan: Scan) -> list[Perturbed]:
    return list(perturbations(scan, POINTS, TASK))


def brightness(one: Perturbed) -> Iterator[tuple[float, float]]:
    """At each landmark inside the scan, and at its surroundings' brightest place 3 mm away."""
    for point in one.points[one.scan.geometry.contains(one.points)]:
        around = sample(one.scan.voxels, one.scan.geometry, Grid((3, 3, 3), (3.0, 3.0, 3.0), point))
        middle = float(around[1, 1, 1])
        around[1, 1, 1] = -np.inf
        yield middle, float(around.max())


@pytest.mark.parametrize("kind", ["turn", "scale", "shift", "crop", "coarsen", "blur"])
def test_the_annotation_stays_at_what_it_marks(made: list[Perturbed], kind: str) -> None:
    chosen = [one for one in made if one.kind == kind and one.strength <= 45]
    assert len(chosen) >= 3
    for one in chosen:
        seen = list(brightness(one))
        assert len(seen) >= 1
        assert all(middle > beside for middle, beside in seen), one.strength


def test_every_kind_is_made_in_every_range(made: list[Perturbed]) -> None:
    expected = {("clean", MILD), ("mix", MILD)} | {
        (kind, part) for kind, how in KINDS.items() for part in how.strengths
    }
    assert {(one.kind, one.range) for one in made} == expected
    for one in made[1:]:
        if one.kind in KINDS:
            low, high = KINDS[one.kind].strengths[one.range]
            assert low <= one.strength <= high
        assert one.scan.voxels.shape == one.scan.geometry.size[::-1]
        assert one.scan.voxels.flags["C_CONTIGUOUS"] and np.isfinite(one.scan.voxels).all()
        if one.range != WRONG:
            assert one.scan.voxels.min() < one.scan.voxels.max()


def test_the_first_is_the_scan_as_it_is(made: list[Perturbed], scan: Scan) -> None:
    assert made[0].kind == "clean" and made[0].scan is scan and made[0].points is POINTS


def test_cropping_hard_puts_landmarks_outside_and_mildly_none(made: list[Perturbed]) -> None:
    inside = {part: [one.scan.geometry.contains(one.points) for one in made if (one.kind, one.range) == ("crop", part)]
              for part in (MILD, HARD)}  # fmt: skip
    assert all(where.all() for where in inside[MILD])
    assert any(not where.all() for where in inside[HARD])


def test_shuffled_scans_have_the_same_intensities_and_no_landmarks(made: list[Perturbed], scan: Scan) -> None:
    for one in (one for one in made if one.kind == "shuffle"):
        assert np.isnan(one.points).all()
        k, j, i = one.scan.voxels.shape
        kept = scan.voxels[:k, :j, :i]
        assert not np.array_equal(one.scan.voxels, kept)
        np.testing.assert_array_equal(np.sort(one.scan.voxels, axis=None), np.sort(kept, axis=None))


def test_the_same_seed_makes_the_same_and_another_others(scan: Scan, made: list[Perturbed]) -> None:
    again = list(perturbations(scan, POINTS, TASK))
    other = list(perturbations(scan, POINTS, TASK, seed=1))
    for one, same, different in zip(made[1:], again[1:], other[1:], strict=True):
        np.testing.assert_array_equal(one.scan.voxels, same.scan.voxels)
        np.testing.assert_array_equal(one.points, same.points)
        assert one.kind == "mix" or one.strength != different.strength


def test_landmarks_without_annotation_stay_without(scan: Scan) -> None:
    points = POINTS.copy()
    points[2] = np.nan
    for one in perturbations(scan, points, TASK):
        assert np.isnan(one.points[2]).all()
        assert one.range == WRONG or np.isfinite(np.delete(one.points, 2, axis=0)).all()


def test_integers_stay_what_they_are_where_only_the_frame_changes(scan: Scan) -> None:
    whole = Scan("head", None, (200 * scan.voxels).astype(np.int16), GEOMETRY)
    for one in perturbations(whole, POINTS, TASK):
        if one.kind in ("turn", "scale", "shift", "crop"):
            assert one.scan.voxels.dtype == np.int16
