"""A page on a results file: every case, the worst first and with pictures, and the errors if there are annotations.

The page is complete in itself: pictures are part of it, and it asks no other host for anything.  Scans are read one at
a time and only for the cases with a picture, so that memory does not grow with the number of cases.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trt_landmarks.errors import PredictionsError, TrtlmError
from trt_landmarks.files import write_text
from trt_landmarks.outputs.case_rows import CaseRow, case_row, worst_first
from trt_landmarks.outputs.error_plots import detection_plot, landmark_plot
from trt_landmarks.outputs.figure import encode, thumbnail
from trt_landmarks.outputs.html_page import DASH, Cell, page, table
from trt_landmarks.outputs.marks import Marks
from trt_landmarks.outputs.sources import Sources
from trt_landmarks.results.predictions import Predictions
from trt_landmarks.scan import read_scan

if TYPE_CHECKING:
    from trt_landmarks.task.task import Task

#: Radii that are marked where the task is not known; mm.
_RADII = (1.0, 2.0, 4.0)


def write_report(
    path: str | Path, predictions: Predictions, sources: Sources, task: Task | None, *, thumbnails: int = 24
) -> None:
    """Write the page; the file appears whole or not at all.

    Args:
        path: HTML file to write.
        predictions: the results.
        sources: where scans and annotations are.
        task: for groups and radii; None if it is not known.
        thumbnails: cases with a picture at most, the worst first.

    Raises:
        PredictionsError: if the file cannot be written.
        LandmarkFileError: if an annotation cannot be read or is of another task.
    """
    rows = worst_first(case_row(case, sources.truth(case)) for case in predictions.cases)
    groups = task.group_of if task is not None else {}
    parts = [_summary(predictions, rows), _outliers(rows, sources, groups, thumbnails)]
    if any(row.errors_mm for row in rows):
        parts.append(_errors(rows, groups, task.sdr_radii_mm if task is not None else _RADII))
    parts += [_measurements(rows), _cases(rows)]
    write_text(path, page(f"{predictions.task}: {len(rows)} scans", parts), PredictionsError)


def _summary(predictions: Predictions, rows: Sequence[CaseRow]) -> str:
    failed = sum(row.case.status == "failed" for row in rows)
    flagged = sum(row.flagged > 0 for row in rows)
    counts = f"{len(rows)} scans: {len(rows) - failed} ok, {failed} failed; {flagged} with flagged landmarks"
    model, engine = predictions.model, predictions.engine
    digest = str(model.get("sha256") or "")[:12]
    facts = [
        ("task", predictions.task),
        ("model", f"{model['name']} {digest}".strip()),
        ("engine", " ".join(str(engine[key]) for key in ("name", "precision", "provider") if engine.get(key))),
    ]
    errors = [error for row in rows for error in row.errors_mm.values()]
    if errors:
        spread = f", SD {np.std(errors, ddof=1):.3f} mm" if len(errors) > 1 else ""
        facts.append(("mean radial error", f"{np.mean(errors):.3f} mm{spread}, {len(errors)} points"))
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts)
    return f"<p class='counts'>{escape(counts)}</p><dl>{listed}</dl>"


def _outliers(rows: Sequence[CaseRow], sources: Sources, groups: dict[str, str], most: int) -> str:
    """Cards of the worst cases.  Failed ones have no picture and come as lines of text, as many again at most."""
    failed = [row for row in rows if row.case.status == "failed"]
    drawn = [row for row in rows if row.case.landmarks][:most]
    lines = "".join(
        f"<li><b>{escape(row.case.id)}</b> {escape(row.case.error.message if row.case.error else '')}</li>"
        for row in failed[: max(most, 1)]
    )
    if len(failed) > max(most, 1):
        lines += f"<li>and {len(failed) - max(most, 1)} more: see the table</li>"
    cards = "".join(_card(row, sources, groups) for row in drawn)
    localized = sum(bool(row.case.landmarks) for row in rows)
    by = "largest error" if any(row.errors_mm for row in drawn) else "flagged landmarks, then least confidence"
    said = f"Pictures of {len(drawn)} of {localized} localized scans, the worst first ({by})."
    parts = [f"<h2>Failed</h2><ul class='failed'>{lines}</ul>" if lines else ""]
    if drawn:
        parts.append(f"<h2>To look at first</h2><p>{said}</p><div class='cards'>{cards}</div>")
    return "".join(parts)


def _card(row: CaseRow, sources: Sources, groups: dict[str, str]) -> str:
    said = [f"{row.flagged} flagged"] if row.flagged else []
    if row.worst is not None:
        said.append(f"largest error {row.worst[1]:.2f} mm ({row.worst[0]})")
    if row.least is not None:
        said.append(f"least confidence {row.least[1]:.2f} ({row.least[0]})")
    path = sources.scan(row.case)
    picture = "<div class='none'>the scan is not here</div>"
    if path is not None:
        try:
            content = thumbnail(read_scan(path), Marks(row.case, sources.truth(row.case), groups))
            picture = f"<img alt='' src='{_inline(content, 'image/jpeg')}'>"
        except TrtlmError as problem:
            picture = f"<div class='none'>{escape(str(problem))}</div>"
    caption = f"<b>{escape(row.case.id)}</b><br>{escape('; '.join(said))}"
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _errors(rows: Sequence[CaseRow], groups: dict[str, str], radii: Sequence[float]) -> str:
    by_landmark: dict[str, list[float]] = {}
    for row in rows:
        for name, error in row.errors_mm.items():
            by_landmark.setdefault(name, []).append(error)
    order = {mark.name: n for row in reversed(rows) for n, mark in enumerate(row.case.landmarks)}
    by_landmark = {name: by_landmark[name] for name in sorted(by_landmark, key=lambda name: order[name])}
    everything = np.concatenate([np.array(values) for values in by_landmark.values()])
    plots = [landmark_plot(by_landmark, groups), detection_plot(everything, radii)]
    inline = (_inline(encode(plot, "png", 110), "image/png") for plot in plots)
    pictures = "".join(f"<img class='plot' alt='' src='{one}'>" for one in inline)
    header = ["landmark", "group", "n", "mean mm", "SD", "median", "p95", "max", *(f"≤ {r:g} mm %" for r in radii)]
    lines: list[list[Cell]] = []
    for name, values in [*by_landmark.items(), ("all", everything.tolist())]:
        array = np.array(values)
        spread = float(array.std(ddof=1)) if len(array) > 1 else None
        figures = (float(array.mean()), spread, *(float(np.percentile(array, p)) for p in (50, 95, 100)))
        within = (100 * float((array <= radius + 1e-9).mean()) for radius in radii)
        shown = [*(_figure(one, 3) for one in figures), *(_figure(one, 1) for one in within)]
        lines.append([name, groups.get(name, ""), len(array), *shown])
    annotated = sum(bool(row.errors_mm) for row in rows)
    said = f"{annotated} scans with annotations, failed ones not among them. Boxes: quartiles; whiskers: 5 to 95 %."
    return f"<h2>Distances from the annotations</h2><p>{said}</p>{pictures}{table(header, lines)}"


def _measurements(rows: Iterable[CaseRow]) -> str:
    values: dict[tuple[str, str], list[float]] = {}
    uncertain: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        for one in row.case.measurements:
            key = (one.name, one.unit)
            values.setdefault(key, []).extend([] if one.value is None else [one.value])
            uncertain.setdefault(key, []).extend([] if one.uncertainty is None else [one.uncertainty])
    if not values:
        return ""
    lines: list[list[Cell]] = []
    for key, found in values.items():
        figures: list[float | None] = [None] * 4
        if found:
            spread = float(np.std(found, ddof=1)) if len(found) > 1 else None
            figures = [float(np.mean(found)), spread, min(found), max(found)]
        mean = float(np.mean(uncertain[key])) if uncertain[key] else None
        lines.append([key[0], key[1], len(found), *(_figure(one, 2) for one in figures), _figure(mean, 2)])
    header = ["measurement", "unit", "n", "mean", "SD over scans", "min", "max", "mean uncertainty"]
    return f"<h2>Measurements</h2>{table(header, lines)}"


def _cases(rows: Sequence[CaseRow]) -> str:
    annotated = any(row.errors_mm for row in rows)
    header = ["case", "status", "flagged", "least confident", "confidence"]
    header += ["mean error mm", "largest mm", "landmark"] if annotated else []
    header += ["ms", "error, warnings"]
    lines: list[list[Cell]] = []
    for row in rows:
        case = row.case
        name, confidence = row.least if row.least is not None else ("", None)
        said = [f"{case.error.code}: {case.error.message}"] if case.error is not None else []
        said += [f"{one.code}: {one.message}" for one in case.warnings]
        line: list[Cell] = [case.id, case.status, row.flagged, name, _figure(confidence, 3)]
        if annotated:
            worst = row.worst
            line += [_figure(row.mean_mm, 3), _figure(worst[1] if worst else None, 3), worst[0] if worst else ""]
        lines.append([*line, _figure(case.timing_ms.get("total"), 0), " ".join(said)])
    return f"<h2>All scans</h2><p>Click on a column's name to sort by it.</p>{table(header, lines)}"


def _figure(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def _inline(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
