"""The model of shapes: what fits, what sticks out, whatever the pose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.confidence_cases import shapes
from tests.synthetic import HEAD, directions, triples
from trt_landmarks.errors import DatasetError
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.shape_model import ShapeModel, fit_shape_model

EVEN = np.ones(len(HEAD))
MODEL = fit_shape_model(shapes(10))


def test_shapes_of_the_same_kind_are_expected(shape: ShapeModel) -> None:
    """Mahalanobis distances of new shapes are about as large as those of a Gaussian in three dimensions."""
    distances = np.stack([shape.residuals(one, EVEN).mahalanobis for one in shapes(40, seed=1)])
    assert 0.4 <= np.median(distances) / 1.54 <= 1.5
    assert np.percentile(distances, 90) < 4
    assert len(shape.modes) >= 1  # that heads differ in length is seen


@pytest.mark.parametrize("landmark", range(len(HEAD)))
def test_a_wrong_landmark_sticks_out_and_the_others_do_not(shape: ShapeModel, landmark: int) -> None:
    for seed, good in enumerate(shapes(5, seed=2)):
        bad = good.copy()
        bad[landmark] += 6 * np.random.default_rng(seed).permutation([1.0, 0, 0])
        distances = shape.residuals(bad, EVEN).mahalanobis
        others = np.delete(distances, landmark)
        assert distances[landmark] > 8
        assert others.max() < 0.6 * distances[landmark]


@settings(max_examples=20)
@given(directions(improper=False), triples(-100, 100), st.floats(0.5, 2), st.integers(0, 1000))
def test_pose_and_size_do_not_matter(turn: Floats, shift: tuple[float, float, float], size: float, seed: int) -> None:
    one = shapes(1, seed)[0]
    here, there = MODEL.residuals(one, EVEN), MODEL.residuals(size * one @ turn.T + shift, EVEN)
    np.testing.assert_allclose(there.mahalanobis, here.mahalanobis, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(there.distance_mm, size * here.distance_mm, rtol=1e-6, atol=1e-6)
    assert there.scale == pytest.approx(size * here.scale)


def test_points_in_one_place_are_judged_too(shape: ShapeModel) -> None:
    assert np.isfinite(shape.residuals(np.zeros(HEAD.shape), EVEN).mahalanobis).all()


def test_incomplete_shapes_are_left_out_and_few_are_too_few() -> None:
    some = shapes(9)
    lacking = np.concatenate([some, some[:1]])
    lacking[-1, 0] = np.nan
    np.testing.assert_array_equal(fit_shape_model(lacking).mean, fit_shape_model(some).mean)
    some[:2, 3] = np.nan
    with pytest.raises(DatasetError, match="7 completely annotated training cases are too few"):
        fit_shape_model(some)
    with pytest.raises(DatasetError, match="3 landmarks are too few"):
        fit_shape_model(shapes(9)[:, :3])
