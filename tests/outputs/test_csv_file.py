"""Tables: what is in them, and that any text survives."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from tests.outputs.conftest import GROUPS, failed_case
from trt_landmarks.errors import PredictionsError
from trt_landmarks.outputs.csv_file import measurements_beside, write_landmarks, write_measurements
from trt_landmarks.results.case import CaseResult


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_row_for_each_landmark_and_for_each_failed_case(case: CaseResult, tmp_path: Path) -> None:
    odd = replace(case, id='a,"b"\n=1')
    write_landmarks(tmp_path / "t.csv", [odd, failed_case("bad")], GROUPS)
    *found, bad = rows(tmp_path / "t.csv")
    assert [row["landmark"] for row in found] == [mark.name for mark in case.landmarks]
    for row, mark in zip(found, case.landmarks, strict=True):
        assert row["case"] == odd.id and row["case_status"] == "ok" and row["error_code"] == ""
        assert tuple(float(row[key]) for key in ("x_lps_mm", "y_lps_mm", "z_lps_mm")) == mark.position_lps_mm
        assert tuple(float(row[key]) for key in "ijk") == mark.voxel_ijk
        assert row["landmark_status"] == mark.status and float(row["confidence"]) == mark.confidence
        assert row["group"] == GROUPS.get(mark.name, "") and row["expected_error_mm"] == ""
    assert (bad["case"], bad["case_status"], bad["error_code"]) == ("bad", "failed", "scan_truncated")
    assert bad["error_message"] == 'ends, early "cut"' and bad["landmark"] == bad["x_lps_mm"] == ""


def test_an_expected_error_has_its_column(case: CaseResult, tmp_path: Path) -> None:
    object.__setattr__(case.landmarks[0], "expected_error_mm", 0.125)
    write_landmarks(tmp_path / "t.csv", [case], GROUPS)
    assert rows(tmp_path / "t.csv")[0]["expected_error_mm"] == "0.125"


def test_a_row_for_each_measurement(case: CaseResult, tmp_path: Path) -> None:
    path = measurements_beside(tmp_path / "t.csv")
    assert path.name == "t-measurements.csv"
    write_measurements(path, [case, failed_case("bad")])
    first, *_, last = rows(path)
    assert first == {
        "case": "case one", "measurement": "length", "type": "distance", "points": "b c", "value": "16.1245",
        "unit": "mm", "uncertainty": "0.25", "status": "measured",
    }  # fmt: skip
    assert (last["value"], last["status"]) == ("", "undefined")


def test_a_table_that_cannot_be_written_is_an_error_for_people(case: CaseResult, tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match="Create the folder"):
        write_landmarks(tmp_path / "none" / "t.csv", [case], {})
