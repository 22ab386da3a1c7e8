"""Commands on results: ``convert``, ``view``, ``report``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trt_landmarks.cli.options import Csv, Markups, Measurements, Model, TaskFile
from trt_landmarks.cli.support import extra
from trt_landmarks.errors import BundleError, TrtlmError

if TYPE_CHECKING:
    from trt_landmarks.results.predictions import Predictions
    from trt_landmarks.task.task import Task

PredictionsFile = Annotated[Path, typer.Argument(help="Results file of trtlm infer.")]
Annotations = Annotated[Path | None, typer.Option(help="Folder of annotations (.mrk.json, .fcsv, .csv), or one file.")]
Scans = Annotated[Path | None, typer.Option(help="Folder of the scans. (default: the paths in the results)")]


def convert(
    predictions: PredictionsFile,
    csv: Csv = None,
    markups: Markups = None,
    measurements: Measurements = None,
    model: Model = None,
    task: TaskFile = None,
) -> None:
    """Write results that exist as tables or as 3D Slicer's files."""
    from trt_landmarks.outputs.writer import OutputWriter
    from trt_landmarks.results.measurements import measure
    from trt_landmarks.results.predictions import read_predictions
    from trt_landmarks.task.task import add_measurements

    if csv is None and markups is None:
        raise TrtlmError("nothing to write.", "Name a --csv file, a --markups folder, or both.", code="usage")
    found = read_predictions(predictions)
    subject = _task(found, model, task)
    if measurements is not None:
        if subject is None:
            raise TrtlmError("measurements need the task.", "Name it: --task or --model.", code="usage")
        subject = add_measurements(subject, measurements)
        found.cases = [
            replace(one, measurements=measure(subject.measurements, one.landmarks)) if one.status == "ok" else one
            for one in found.cases
        ]
    groups = subject.group_of if subject is not None else {}
    writer = OutputWriter([case.id for case in found.cases], groups, tables=[csv] if csv else [], markup_folder=markups)
    writer.finish(found.cases)
    typer.echo(f"{len(found.cases)} cases: {', '.join(str(path) for path in (csv, markups) if path is not None)}")


def view(
    case: Annotated[str, typer.Argument(help="Id of a case of the results, or its scan.")],
    preds: Annotated[Path, typer.Option(help="Results file of trtlm infer.")],
    landmarks: Annotations = None,
    scans: Scans = None,
    landmark: Annotated[
        str | None, typer.Option(help="Show planes through this one. (default: a doubtful one, else one in the middle)")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Picture to write: .png, .jpg, .pdf or .svg. (default: view.png)")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Page to write instead, with points that can be moved.")] = None,
    dpi: Annotated[int, typer.Option(min=30, max=600, help="Dots per inch; the picture is 13 inches wide.")] = 110,
    model: Model = None,
    task: TaskFile = None,
) -> None:
    """Draw a case: planes through a landmark and projections, with the points found (and annotated).

    With --html, write an offline page for the browser, in which points can be corrected and saved for 3D Slicer.
    """
    from trt_landmarks.outputs.figure import case_figure, format_of, save
    from trt_landmarks.outputs.marks import Marks
    from trt_landmarks.outputs.sources import Sources, find_case
    from trt_landmarks.outputs.view_page import write_page
    from trt_landmarks.results.predictions import read_predictions
    from trt_landmarks.scan import read_scan

    if out is not None and html is not None:
        raise TrtlmError("--out and --html: a picture or a page.", "Give one of them.", code="usage")
    picture = out or Path("view.png")
    format_of(picture)
    found = read_predictions(preds)
    one = find_case(found, case)
    sources = Sources.open(scans, landmarks)
    path = Path(case) if Path(case).exists() else sources.scan(one)
    if path is None:
        raise TrtlmError(f"{one.path}: the scan is not there.", "Name its folder: --scans.", code="scan_missing")
    subject = _task(found, model, task)
    groups = subject.group_of if subject is not None else {}
    if html is not None:
        write_page(html, replace(found, cases=[one]), groups, read_scan(path))
    else:
        with extra("figures"):
            save(case_figure(read_scan(path), Marks(one, sources.truth(one), groups), landmark), picture, dpi)
    typer.echo(f"{one.id}: {html or picture}")


def report(
    predictions: PredictionsFile,
    out: Annotated[Path, typer.Option(help="Page to write (HTML, complete in itself).")],
    landmarks: Annotations = None,
    scans: Scans = None,
    thumbnails: Annotated[int, typer.Option(min=0, help="Cases with a picture at most, the worst first.")] = 24,
    model: Model = None,
    task: TaskFile = None,
) -> None:
    """Write a page to read: all cases, outliers first with pictures, and the errors if there are annotations."""
    from trt_landmarks.results.predictions import read_predictions

    with extra("figures"):
        import matplotlib  # noqa: F401

        from trt_landmarks.outputs.html_report import write_report
        from trt_landmarks.outputs.sources import Sources
    found = read_predictions(predictions)
    write_report(out, found, Sources.open(scans, landmarks), _task(found, model, task), thumbnails=thumbnails)
    typer.echo(f"{len(found.cases)} cases: {out}")


def _task(found: Predictions, model: str | None, task: Path | None) -> Task | None:
    """The task that was asked for, else that of the results' model; None if that model is not here."""
    from trt_landmarks.bundles.bundle import open_bundle
    from trt_landmarks.task.task import load_task

    if task is not None:
        return load_task(task)
    if model is not None:
        return open_bundle(model, verify=False).task
    for name in (found.model.get("path"), found.model["name"]):
        try:
            subject = open_bundle(name, verify=False).task if name else None
        except BundleError:
            continue
        if subject is not None and subject.name == found.task:
            return subject
    typer.echo("trtlm: the model of these results is not here: groups are not shown (--task or --model).", err=True)
    return None
