"""Fitting and measuring on made-up localizations, where what is right is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from tests.confidence_cases import TASK, observations
from trt_landmarks.confidence.fitting import LARGE, Sample, _increasing, fit_confidence, left_out, sample
from trt_landmarks.confidence.measuring import area_under_curve, judge_left_out, judge_others, measure
from trt_landmarks.errors import DatasetError
from trt_landmarks.localization.shape_model import ShapeModel


@pytest.fixture(scope="module")
def data(shape: ShapeModel) -> Sample:
    return sample(shape, observations(6))


def test_large_errors_are_flagged_in_scans_never_seen(shape: ShapeModel, data: Sample) -> None:
    model = fit_confidence(TASK, shape, data)
    assert model.large_error_mm == pytest.approx(LARGE * np.median(data.errors[data.kind == "clean"]))
    new = sample(shape, observations(15, seed=7))
    large = new.errors > model.large_error_mm
    said = [model.reliability(model.score(one)) for one in new.features]
    low, bound, wrong = (np.array([getattr(s, name) for s in said]) for name in ("low", "error_90_mm", "wrong_anatomy"))
    assert low[new.known & large].mean() >= 0.8
    assert low[new.known & ~large].mean() <= 0.1
    assert 0.85 <= (new.errors <= bound)[new.known].mean() <= 0.95
    assert wrong[new.part == "wrong"].mean() >= 0.9
    assert wrong[np.isin(new.part, ("clean", "mild"))].mean() <= 0.05


def test_the_confidence_is_a_probability(shape: ShapeModel, data: Sample) -> None:
    model = fit_confidence(TASK, shape, data)
    new = sample(shape, observations(25, seed=8))
    confidence = np.stack([model.confidence(model.score(one)) for one in new.features])[new.known]
    good = (new.errors <= model.large_error_mm)[new.known]
    assert confidence.mean() == pytest.approx(good.mean(), abs=0.03)
    for low, high in ((0, 0.5), (0.5, 1)):
        chosen = (confidence >= low) & (confidence <= high)
        assert good[chosen].mean() == pytest.approx(confidence[chosen].mean(), abs=0.1)


def test_a_case_left_out_plays_no_part(shape: ShapeModel, data: Sample) -> None:
    spoilt = replace(data, errors=np.where((data.case == "case2")[:, None], 50.0, data.errors))
    one, other = left_out(TASK, shape, data), left_out(TASK, shape, spoilt)
    assert set(one) == set(data.cases)
    assert_allclose(one["case2"].score.weights, other["case2"].score.weights, rtol=0, atol=0)
    assert one["case2"].low_below == other["case2"].low_below
    assert one["case1"].low_below != other["case1"].low_below


def test_landmarks_without_truth_and_wrong_scans_do_not_teach(shape: ShapeModel, data: Sample) -> None:
    hidden = np.zeros(data.errors.shape, dtype=bool)
    hidden[3:6, 2] = True
    with_gaps = replace(data, errors=np.where(hidden, np.nan, data.errors))
    assert not with_gaps.known[3:6, 2].any() and not data.known[data.part == "wrong"].any()
    model = fit_confidence(TASK, shape, with_gaps)
    assert np.isfinite(model.score.landmark).all()
    figures = measure(judge_left_out(with_gaps, left_out(TASK, shape, with_gaps)), 0.2)
    assert figures["parts"]["all"]["points"] == with_gaps.known.sum()


def test_a_model_that_makes_no_large_errors_can_be_fitted(shape: ShapeModel, data: Sample) -> None:
    model = fit_confidence(TASK, shape, replace(data, errors=np.full(data.errors.shape, 0.3)))
    said = model.reliability(model.score(data.features[0]))
    assert_allclose(said.expected_error_mm, 0.3)
    assert model.confidence(model.score(data.features[0])).min() > 0.9


def test_too_few_cases_are_refused(shape: ShapeModel, data: Sample) -> None:
    two = data.where(np.isin(data.case, ("case0", "case1")))
    for refused in (fit_confidence, left_out):
        with pytest.raises(DatasetError, match="2 annotated validation scans are too few"):
            refused(TASK, shape, two)


def test_the_figures_are_those_of_the_points(shape: ShapeModel, data: Sample) -> None:
    models = left_out(TASK, shape, data)
    judged = judge_left_out(data, models)
    figures = measure(judged, 0.5)
    hard = figures["parts"]["hard"]
    rows = data.part == "hard"
    large = np.stack([e > models[c].large_error_mm for e, c in zip(data.errors[rows], data.case[rows], strict=True)])
    assert hard["large_errors"] == large.sum() and hard["scans"] == rows.sum()
    assert hard["detected"] == pytest.approx(judged.low[rows][large].mean(), abs=1e-4)
    assert hard["false_alarms_by_height"] == pytest.approx((data.peaks[rows][~large] < 0.5).mean(), abs=1e-4)
    assert hard["mean_error_mm"] == pytest.approx(data.errors[rows].mean(), abs=1e-4)
    assert sum(row["points"] for row in figures["confidence"]) == data.known.sum()
    assert figures["wrong"]["scans"] == (data.part == "wrong").sum()
    assert sum(row["scans"] for row in figures["kinds"]) == len(data.case)


def test_other_scans_are_listed(shape: ShapeModel, data: Sample) -> None:
    model = fit_confidence(TASK, shape, data)
    wrong = [one for one in observations(3, seed=9) if one.range == "wrong"]
    rows = judge_others(model, wrong)
    assert [row["scan"] for row in rows] == [one.case for one in wrong]
    assert all(row["median_error_mm"] is None for row in rows)
    assert np.mean([row["flagged"] for row in rows]) > 0.8


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_the_area_is_the_chance_that_a_large_error_looks_worse(points: list[tuple[int, bool]]) -> None:
    badness = np.array([b for b, _ in points], dtype=np.float64)
    large = np.array([flag for _, flag in points])
    area = area_under_curve(badness, large)
    if large.all() or not large.any():
        assert area is None
        return
    pairs = badness[large][:, None] - badness[~large][None]
    assert area == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean(), abs=1e-4)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20))
def test_increasing_sequences(values: list[float]) -> None:
    made = _increasing(np.array(values))
    assert (np.diff(made) >= -1e-9).all()
    assert made.mean() == pytest.approx(np.mean(values))
    if values == sorted(values):
        assert_allclose(made, values)
