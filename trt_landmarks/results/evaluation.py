"""Predictions against annotations: the tables of :mod:`trt_landmarks.results.metrics`, and what they do not cover.

No scan and no point disappears quietly.  Every annotated scan is *evaluated*, *failed* (predicted with status
``failed``) or *missing* (not predicted); predicted scans without a landmark file are *unannotated*.  Points with
status ``outside_scan`` or ``low_confidence`` are part of all errors, and counted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_landmarks.data.annotations import find_landmark_files, read_landmarks, select
from trt_landmarks.errors import LandmarkFileError, PredictionsError
from trt_landmarks.files import write_text
from trt_landmarks.results.metrics import Detection, Interval, Row, Tables, evaluate_points
from trt_landmarks.results.predictions import Predictions

if TYPE_CHECKING:
    from rich.console import Console

    from trt_landmarks.task.task import Task

__all__ = ["Detection", "Evaluation", "Row", "Tables", "evaluate", "evaluate_points"]

#: The landmark statuses that are counted beside the errors.
_FLAGS = ("outside_scan", "low_confidence")


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`evaluate`.

    Attributes:
        task: the task's name.
        tables: the metrics.
        evaluated: ids of the cases that were annotated and predicted.
        failed: annotated ids whose prediction failed.
        missing: annotated ids that were not predicted.
        unannotated: predicted ids (ok or failed) without a landmark file.
        absent: id -> landmarks that its annotation lacks, of the evaluated names.
        ignored_names: annotated landmarks that are not part of the evaluation.
    """

    task: str
    tables: Tables
    evaluated: tuple[str, ...]
    failed: tuple[str, ...]
    missing: tuple[str, ...]
    unannotated: tuple[str, ...]
    absent: dict[str, tuple[str, ...]]
    ignored_names: tuple[str, ...]

    @property
    def n_cases_expected(self) -> int:
        """Annotated cases."""
        return len(self.evaluated) + len(self.failed) + len(self.missing)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "task": self.task,
            "n_cases_expected": self.n_cases_expected,
            "n_cases_evaluated": len(self.evaluated),
            "cases": {
                "evaluated": list(self.evaluated),
                "failed": list(self.failed),
                "missing": list(self.missing),
                "unannotated": list(self.unannotated),
            },
            "absent_annotations": {case: list(names) for case, names in self.absent.items()},
            "ignored_names": list(self.ignored_names),
            **self.tables.to_dict(),
        }

    def write(self, path: str | Path) -> None:
        """Write :meth:`to_dict` as JSON.

        Raises:
            PredictionsError: if the file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        write_text(path, text + "\n", PredictionsError)

    def table(self) -> str:
        """The tables as text, one line per landmark and group, then the overall figures and what is not covered."""
        overall = self.tables.overall
        rows = [*self.tables.landmarks, *self.tables.groups, overall]
        cells = [_header(overall), *(_cells(row) for row in rows)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        lines = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in cells]
        lines.insert(-1, "-" * len(lines[0]))
        lines += ["", f"mean radial error {overall.mre_mm:.3f} mm{_interval(overall.mre_interval, 3)}"]
        for one in overall.sdr:
            lines.append(
                f"within {one.radius_mm:g} mm: {one.percent:.2f} %{_interval(one.interval, 2)}"
                f" of the predicted points, {one.percent_of_all:.2f} % of all annotated points"
            )
        if self.tables.bootstrap:
            lines.append(f"[ ]: 95 % intervals, {self.tables.bootstrap} resamples of the scans")
        return "\n".join([*lines, "", *self._coverage()])

    def render(self, console: Console) -> None:
        """Print :meth:`table` on a rich console, unchanged and unwrapped."""
        console.print(self.table(), markup=False, highlight=False, soft_wrap=True)

    def _coverage(self) -> list[str]:
        overall = self.tables.overall
        absent = sum(len(names) for names in self.absent.values())
        flagged = ", ".join(f"{count} {flag}" for flag, count in overall.flagged.items())
        lines = [
            f"scans: {len(self.evaluated)} of {self.n_cases_expected} annotated evaluated, {len(self.failed)} failed, "
            f"{len(self.missing)} missing; {len(self.unannotated)} predicted without annotation",
            f"points: {overall.n} of {overall.n_annotated} annotated evaluated, among them {flagged}; "
            f"{absent} not annotated",
        ]
        for label, names in (
            ("failed", self.failed),
            ("missing", self.missing),
            ("without annotation", self.unannotated),
            ("annotated landmarks that were not evaluated", self.ignored_names),
        ):
            if names:
                lines.append(f"{label}: {_some(names)}")
        return lines


def evaluate(
    predictions: Predictions,
    landmarks_dir: str | Path,
    task_or_radii: Task | Sequence[float],
    bootstrap: int = 2000,
    seed: int = 0,
    *,
    cases: Iterable[str] | None = None,
) -> Evaluation:
    """Compare predictions with a folder of landmark files.

    Args:
        predictions: the results.
        landmarks_dir: folder of ``<case>.mrk.json``, ``.fcsv`` or ``.csv``; each file is an expected case.
        task_or_radii: the task (its landmarks, groups and ``sdr_radii_mm``), or only the radii of the SDR in mm; the
            landmarks are then those that were predicted, in that order.
        bootstrap: resamples for the intervals; 0 for none.
        seed: of the resampling.
        cases: look at these ids only, e.g. a validation split; None for all.

    Raises:
        LandmarkFileError: if the folder or an asked-for annotation is missing, or a file is wrong.
        PredictionsError: if the predictions are of another task, or no predicted case has an annotation.
    """
    files = find_landmark_files(landmarks_dir)
    results = {case.id: case for case in predictions.cases}
    if cases is not None:
        asked = set(cases)
        lacking = sorted(asked - set(files))
        if lacking:
            raise LandmarkFileError(f"{landmarks_dir}: has no landmark file of {_some(lacking)}.")
        files = {case_id: path for case_id, path in files.items() if case_id in asked}
        results = {case_id: case for case_id, case in results.items() if case_id in asked}
    if not files:
        raise LandmarkFileError(
            f"{landmarks_dir}: holds no landmark files.", "Name the folder with <case>.mrk.json, .fcsv or .csv files."
        )
    names, radii, groups = _subject(predictions, task_or_radii)
    evaluated = tuple(case_id for case_id in files if case_id in results and results[case_id].status == "ok")
    failed = tuple(case_id for case_id in files if case_id in results and results[case_id].status == "failed")
    if not evaluated:
        raise PredictionsError(*_nothing(predictions, landmarks_dir, list(files), failed))

    truth = np.full((len(files), len(names), 3), np.nan)
    pred = np.full((len(files), len(names), 3), np.nan)
    flags = {flag: np.zeros((len(files), len(names)), dtype=bool) for flag in _FLAGS}
    column = {name: i for i, name in enumerate(names)}
    ignored: dict[str, None] = {}
    for c, (case_id, path) in enumerate(files.items()):
        annotation = read_landmarks(path)
        truth[c] = select(annotation, names, path)
        ignored.update(dict.fromkeys(name for name in annotation if name not in column))
        for mark in results[case_id].landmarks if case_id in evaluated else ():
            pred[c, column[mark.name]] = mark.position_lps_mm
            if mark.status in flags:
                flags[mark.status][c, column[mark.name]] = True
    absent = {
        case_id: tuple(name for name, point in zip(names, truth[c], strict=True) if not np.isfinite(point).all())
        for c, case_id in enumerate(files)
    }
    return Evaluation(
        task=predictions.task,
        tables=evaluate_points(pred, truth, names, radii, groups=groups, flags=flags, bootstrap=bootstrap, seed=seed),
        evaluated=evaluated,
        failed=failed,
        missing=tuple(case_id for case_id in files if case_id not in results),
        unannotated=tuple(sorted(case_id for case_id in results if case_id not in files)),
        absent={case_id: lacking for case_id, lacking in absent.items() if lacking},
        ignored_names=tuple(ignored),
    )


def _subject(
    predictions: Predictions, task_or_radii: Task | Sequence[float]
) -> tuple[tuple[str, ...], tuple[float, ...], dict[str, tuple[str, ...]]]:
    """Landmarks, radii and groups to evaluate."""
    found = tuple(dict.fromkeys(mark.name for case in predictions.cases for mark in case.landmarks))
    if isinstance(task_or_radii, Sequence):
        return found, tuple(task_or_radii), {}
    task = task_or_radii
    unknown = [name for name in found if name not in task.landmarks]
    if predictions.task != task.name or unknown:
        what = f"task '{predictions.task}'" + (f" with the landmarks {_some(unknown)}" if unknown else "")
        raise PredictionsError(f"the predictions are of {what}, which is not the task '{task.name}'.")
    return task.landmarks, task.sdr_radii_mm, {group.name: group.landmarks for group in task.groups}


def _nothing(
    predictions: Predictions, folder: str | Path, expected: list[str], failed: Sequence[str]
) -> tuple[str, str]:
    """Message and remedy when there is nothing to compare."""
    if failed:
        first = next(case for case in predictions.cases if case.id == failed[0])
        reason = first.error.message if first.error is not None else ""
        return f"all predictions of annotated scans failed; {first.id}: {reason}", "Mend that and predict again."
    predicted = [case.id for case in predictions.cases]
    return (
        f"no predicted case has a landmark file in {folder}: predicted {_some(predicted) or 'nothing'}; "
        f"annotated {_some(expected)}.",
        "A scan and its landmark file need the same name before the ending.",
    )


def _header(row: Row) -> list[str]:
    radii = [f"<= {one.radius_mm:g} mm %" for one in row.sdr]
    return ["landmark", "n", "MRE mm", "95 %", "SD", "median", "p95", "max", "|x|", "|y|", "|z|", *radii]


def _cells(row: Row) -> list[str]:
    spread = (row.sd_mm, row.median_mm, row.p95_mm, row.max_mm, *row.axis_mm)
    return [
        row.name,
        str(row.n),
        _figure(row.mre_mm, 3),
        _interval(row.mre_interval, 3).strip() or "-",
        *(_figure(value, 3) for value in spread),
        *(_figure(one.percent, 1) for one in row.sdr),
    ]


def _figure(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else "-"


def _interval(interval: Interval | None, digits: int) -> str:
    return "" if interval is None else f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _some(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
