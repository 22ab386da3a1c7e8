"""Results as tables: one row for each landmark of each case, and one for each measurement.

Text is UTF-8; numbers have a decimal point, whatever the locale; what is not known is an empty cell.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from trt_landmarks.errors import PredictionsError
from trt_landmarks.files import write_text
from trt_landmarks.results.case import CaseResult

LANDMARK_COLUMNS = (
    "case", "case_status", "error_code", "error_message", "landmark", "group", "landmark_status",
    "x_lps_mm", "y_lps_mm", "z_lps_mm", "i", "j", "k", "confidence", "expected_error_mm",
)  # fmt: skip
MEASUREMENT_COLUMNS = ("case", "measurement", "type", "points", "value", "unit", "uncertainty", "status")


def write_landmarks(path: str | Path, cases: Iterable[CaseResult], groups: Mapping[str, str]) -> None:
    """Write a row for each landmark of each case, and one for a case that failed.

    Args:
        path: file to write; it appears whole or not at all.
        cases: the results.
        groups: landmark -> the correlated group it belongs to; others belong to none.

    Raises:
        PredictionsError: if the file cannot be written.
    """
    rows: list[Sequence[object]] = []
    for case in cases:
        error = ("", "") if case.error is None else (case.error.code, case.error.message)
        first = (case.id, case.status, *error)
        for mark in case.landmarks:
            place = (*mark.position_lps_mm, *mark.voxel_ijk)
            known = mark.expected_error_mm
            rows.append((*first, mark.name, groups.get(mark.name), mark.status, *place, mark.confidence, known))
        if not case.landmarks:
            rows.append((*first, *[None] * (len(LANDMARK_COLUMNS) - len(first))))
    _write(path, LANDMARK_COLUMNS, rows)


def write_measurements(path: str | Path, cases: Iterable[CaseResult]) -> None:
    """Write a row for each measurement of each case; ``points`` are separated by blanks.

    Raises:
        PredictionsError: if the file cannot be written.
    """
    rows = [
        (case.id, one.name, one.type, " ".join(one.points), one.value, one.unit, one.uncertainty, one.status)
        for case in cases
        for one in case.measurements
    ]
    _write(path, MEASUREMENT_COLUMNS, rows)


def measurements_beside(path: str | Path) -> Path:
    """Where the measurements go, given the landmarks' file: ``a.csv`` -> ``a-measurements.csv``."""
    path = Path(path)
    return path.with_name(f"{path.stem}-measurements{path.suffix}")


def _write(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue(), PredictionsError)
