"""A page on a results file: every case, the worst first and with pictures, and the errors if there are annotations.

The page is complete in itself: pictures are part of it, and it asks no other host for anything.  Scans are read one at
a time and only for the cases with a picture, so that memory does not grow with the number of cases.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np

from trt_landmarks import __version__
from trt_landmarks.errors import PredictionsError, TrtlmError
from trt_landmarks.files import write_text
from trt_landmarks.outputs.case_rows import CaseRow, case_row, worst_first
from trt_landmarks.outputs.error_plots import detection_plot, landmark_plot
from trt_landmarks.outputs.figure import encode, thumbnail
from trt_landmarks.outputs.marks import Marks
from trt_landmarks.outputs.sources import Sources
from trt_landmarks.results.predictions import Predictions
from trt_landmarks.scan import read_scan

if TYPE_CHECKING:
    from trt_landmarks.task.task import Task

#: What a cell holds: text, or a number.
Cell = str | int
#: Where there is no figure.
DASH = "–"
#: Radii that are marked where the task is not known; mm.
_RADII = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Section:
    """A heading, what is said of it, pictures (data URIs), and a table."""

    title: str
    header: list[str]
    rows: list[list[Cell]]
    note: str = ""
    plots: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card:
    """A case to look at: its picture (a data URI), or why there is none."""

    id: str
    caption: str
    picture: str = ""
    problem: str = ""


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
    failed = [row for row in rows if row.case.status == "failed"]
    drawn = [row for row in rows if row.case.landmarks][:thumbnails]
    localized = sum(bool(row.case.landmarks) for row in rows)
    by = "largest error" if any(row.errors_mm for row in drawn) else "flagged landmarks, then least confidence"
    sections = [_measurements(rows), _cases(rows)]
    if any(row.errors_mm for row in rows):
        sections.insert(0, _errors(rows, groups, task.sdr_radii_mm if task is not None else _RADII))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    flagged = sum(row.flagged > 0 for row in rows)
    page = environment.get_template("report.html.j2").render(
        title=f"{predictions.task}: {len(rows)} scans",
        counts=f"{len(rows)} scans: {len(rows) - len(failed)} ok, {len(failed)} failed; "
        f"{flagged} with flagged landmarks",
        facts=_facts(predictions, rows),
        failed=failed,
        most_failed=max(thumbnails, 1),  # they have no picture and come as lines of text
        cards=[_card(row, sources, groups) for row in drawn],
        cards_note=f"Pictures of {len(drawn)} of {localized} localized scans, the worst first ({by}).",
        sections=[section for section in sections if section is not None],
        numeric_columns=_numeric_columns,
        version=__version__,
    )
    write_text(path, page, PredictionsError)


def _facts(predictions: Predictions, rows: Sequence[CaseRow]) -> list[tuple[str, str]]:
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
    return facts


def _card(row: CaseRow, sources: Sources, groups: dict[str, str]) -> Card:
    said = [f"{row.flagged} flagged"] if row.flagged else []
    if row.worst is not None:
        said.append(f"largest error {row.worst[1]:.2f} mm ({row.worst[0]})")
    if row.least is not None:
        said.append(f"least confidence {row.least[1]:.2f} ({row.least[0]})")
    path = sources.scan(row.case)
    picture, problem = "", "the scan is not here"
    if path is not None:
        try:
            content = thumbnail(read_scan(path), Marks(row.case, sources.truth(row.case), groups))
            picture = _inline(content, "image/jpeg")
        except TrtlmError as error:
            problem = str(error)
    return Card(row.case.id, "; ".join(said), picture, problem)


def _errors(rows: Sequence[CaseRow], groups: dict[str, str], radii: Sequence[float]) -> Section:
    by_landmark: dict[str, list[float]] = {}
    for row in rows:
        for name, error in row.errors_mm.items():
            by_landmark.setdefault(name, []).append(error)
    order = {mark.name: n for row in reversed(rows) for n, mark in enumerate(row.case.landmarks)}
    by_landmark = {name: by_landmark[name] for name in sorted(by_landmark, key=lambda name: order[name])}
    everything = np.concatenate([np.array(values) for values in by_landmark.values()])
    plots = [landmark_plot(by_landmark, groups), detection_plot(everything, radii)]
    pictures = tuple(_inline(encode(plot, "png", 110), "image/png") for plot in plots)
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
    return Section("Distances from the annotations", header, lines, said, pictures)


def _measurements(rows: Iterable[CaseRow]) -> Section | None:
    values: dict[tuple[str, str], list[float]] = {}
    uncertain: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        for one in row.case.measurements:
            key: tuple[str, str] = (one.name, one.unit)
            values.setdefault(key, []).extend([] if one.value is None else [one.value])
            uncertain.setdefault(key, []).extend([] if one.uncertainty is None else [one.uncertainty])
    if not values:
        return None
    lines: list[list[Cell]] = []
    for key, found in values.items():
        figures: list[float | None] = [None] * 4
        if found:
            spread = float(np.std(found, ddof=1)) if len(found) > 1 else None
            figures = [float(np.mean(found)), spread, min(found), max(found)]
        mean = float(np.mean(uncertain[key])) if uncertain[key] else None
        lines.append([key[0], key[1], len(found), *(_figure(one, 2) for one in figures), _figure(mean, 2)])
    header = ["measurement", "unit", "n", "mean", "SD over scans", "min", "max", "mean uncertainty"]
    return Section("Measurements", header, lines)


def _cases(rows: Sequence[CaseRow]) -> Section:
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
    return Section("All scans", header, lines, "Click on a column's name to sort by it.")


def _figure(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def _inline(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _numeric_columns(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[bool]:
    """Whether each column holds numbers only: set to the right, and sorted as numbers."""
    return [bool(rows) and all(_is_number(row[at]) for row in rows) for at in range(len(header))]


def _is_number(cell: Cell) -> bool:
    if isinstance(cell, str) and cell != DASH:
        try:
            float(cell)
        except ValueError:
            return False
    return True
