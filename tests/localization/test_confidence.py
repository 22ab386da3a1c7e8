"""The confidence of a model: what it says, how it is kept, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.confidence_cases import TASK, observations
from tests.synthetic import small_task
from trt_landmarks.confidence.fitting import fit_confidence, sample
from trt_landmarks.errors import BundleError
from trt_landmarks.localization.confidence import ConfidenceModel, read_confidence
from trt_landmarks.localization.shape_model import ShapeModel


@pytest.fixture(scope="module")
def model(shape: ShapeModel) -> ConfidenceModel:
    return fit_confidence(TASK, shape, sample(shape, observations(4)))


def test_it_reads_back_as_it_was_written(model: ConfidenceModel, tmp_path: Path) -> None:
    path = tmp_path / "confidence.json"
    replace(model, measured={"cases": ["a"]}).write(path)
    again = read_confidence(path, TASK)
    assert again.measured == {"cases": ["a"]}
    assert json.loads(path.read_text())["signs"] == ["peak", "shape"]  # the key of format 1, as in the shipped models
    for one in observations(2, seed=3):
        before, after = model.judge(one.found), again.judge(one.found)
        assert before.reliability is not None and after.reliability is not None
        np.testing.assert_allclose(after.confidence, before.confidence, atol=1e-3)
        np.testing.assert_allclose(after.reliability.error_90_mm, before.reliability.error_90_mm, rtol=1e-3)
        assert after.reliability.wrong_anatomy == before.reliability.wrong_anatomy
    again.write(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(path.read_text())


def test_worse_scores_mean_less_confidence_and_larger_errors(model: ConfidenceModel) -> None:
    score = np.linspace(-20, 20, 400)
    open_model = replace(model, wrong_above=1e9)
    said = open_model.reliability(score)
    assert (np.diff(open_model.confidence(score)) <= 0).all()
    assert (np.diff(said.expected_error_mm) >= 0).all() and (np.diff(said.error_90_mm) >= 0).all()
    assert (said.expected_error_mm > 0).all()


def test_what_was_found_stays_and_is_judged(model: ConfidenceModel) -> None:
    for one in observations(2, seed=4):
        judged = model.judge(one.found)
        said = judged.reliability
        assert said is not None and judged.points is one.found.points and one.found.reliability is None
        assert said.wrong_anatomy == (one.range == "wrong")
        if said.wrong_anatomy:
            assert (judged.confidence == 0).all() and said.low.all()
        else:
            np.testing.assert_array_equal(said.low, judged.confidence < model.low_below)
            assert 0 < judged.confidence.min() <= judged.confidence.max() < 1


def test_a_lower_heat_map_is_never_trusted_more(model: ConfidenceModel) -> None:
    found = observations(1)[0].found
    said = []
    for height in (0.9, 0.5, 0.2, 0.05):
        peaks = found.confidence.copy()
        peaks[0] = height
        said.append(model.judge(replace(found, confidence=peaks)).confidence[0])
    assert said == sorted(said, reverse=True) and said[0] > said[-1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "has format 2"),
        ({"landmarks": ["a"]}, "is of other landmarks than those of the task small"),
        ({"signs": ["peak"]}, "is fitted to other features"),
        ({"steepness": None}, "is damaged"),
        ({"steepness": float("nan")}, "is damaged"),
        ({"steepness": -1}, "is damaged"),
        ({"low_below": 1.5}, "is damaged"),
        ({"score": {}}, "is damaged"),
        ({"table": {"score": [1, 2], "expected_error_mm": [1], "error_90_mm": [1, 2]}}, "is damaged"),
        ({"shape": {"mean": [], "modes": [], "noise": []}}, "is damaged"),
        ({"measured": 3}, "is damaged"),
    ],
)
def test_wrong_files_are_refused(model: ConfidenceModel, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    path = tmp_path / "confidence.json"
    model.write(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(BundleError, match=says) as caught:
        read_confidence(path, TASK)
    assert str(path) in str(caught.value)


def test_half_a_file_and_none_are_refused(model: ConfidenceModel, tmp_path: Path) -> None:
    path = tmp_path / "confidence.json"
    with pytest.raises(BundleError, match="no such confidence file"):
        read_confidence(path, TASK)
    model.write(path)
    path.write_text(path.read_text()[:500])
    with pytest.raises(BundleError, match="is damaged"):
        read_confidence(path, small_task())
