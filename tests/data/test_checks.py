"""Annotations that cannot be right are refused or told before a training begins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.synthetic import HEAD, head_geometry, small_task
from trt_landmarks.data.checks import CheckedCase, DataReport, check_training_data
from trt_landmarks.errors import DatasetError
from trt_landmarks.geometry import Floats
from trt_landmarks.task.task import Task


def case(n: int, points: Floats | None = None) -> CheckedCase:
    geometry = head_geometry()
    rng = np.random.default_rng(n)
    usual = HEAD + rng.normal(size=HEAD.shape) * 0.2 + geometry.centre
    return CheckedCase(f"case{n}", geometry, usual if points is None else points, f"digest{n}")


def check(last: CheckedCase, task: Task | None = None) -> DataReport:
    return check_training_data(task or small_task(), [case(n) for n in range(6)], [last])


def moved(n: int, landmark: int, by: float) -> CheckedCase:
    points = case(n).points.copy()
    points[landmark] += [by, 0, 0]
    return case(n, points)


def test_usual_cases_give_no_warning() -> None:
    report = check(case(6))
    assert not report.warnings and len(report.rows) == 7
    assert all(row.outside_mm == 0 and row.landmarks == 7 and row.shape_mm < 1 for row in report.rows)


COARSE = {"shape": [10, 14, 9], "field_of_view_mm": [24, 34, 22], "width": 2}
CORONAL = {"name": "mid", "axis": "anterior-posterior", "landmarks": ["top", "nose", "neck"]}


@pytest.mark.parametrize(
    ("last", "task", "code"),
    [
        (moved(6, 0, 500), None, "landmark_outside_scan"),
        (moved(6, 0, 1e30), None, "landmark_outside_scan"),
        (case(6), small_task(coarse=COARSE | {"field_of_view_mm": [6, 6, 6]}), "coarse_grid_too_small"),
        (case(6), small_task(groups=[CORONAL]), "group_too_wide"),
        (case(6), small_task(coarse=COARSE | {"shape": [1024, 1024, 1024]}), "grid_too_large"),
    ],
)
def test_the_impossible_is_refused(last: CheckedCase, task: Task | None, code: str) -> None:
    with pytest.raises(DatasetError) as caught:
        check(last, task)
    assert caught.value.code == code


def exchanged() -> CheckedCase:
    points = case(6).points.copy()
    points[[0, 5]] = points[[5, 0]]
    return case(6, points)


def in_ras() -> CheckedCase:
    """Points about the scan's middle with x and y of the other sign."""
    centre = head_geometry().centre
    return case(6, (case(6).points - centre) * [-1, -1, 1] + centre)


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (moved(6, 0, 9.5), "outside the scan"),
        (exchanged(), "exchanged"),
        (in_ras(), "RAS as LPS"),
        (replace(case(6), digest="digest0"), "one trains and the other validates"),
        (case(6, np.where(np.arange(7)[:, None] == 1, np.nan, case(6).points)), "lack annotations"),
    ],
)
def test_the_unlikely_is_told(last: CheckedCase, words: str) -> None:
    report = check(last)
    assert any(words in warning for warning in report.warnings)
    assert any(words in line for line in report.lines())


def test_cases_in_any_pose_are_no_outliers() -> None:
    """Turned scans are told only if the others lie straight."""
    turns = [np.diag([1, 1, 1]), np.diag([-1, -1, 1]), np.diag([1, -1, -1]), np.diag([-1, 1, -1])]
    centre = head_geometry().centre
    cases = [case(n, (case(n).points - centre) @ turns[n % 4] + centre) for n in range(8)]
    report = check_training_data(small_task(), cases, [])
    assert not any("RAS" in warning for warning in report.warnings)
