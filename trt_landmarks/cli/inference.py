"""Commands on scans: ``infer``, ``eval``."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from trt_landmarks.cli.options import Csv, Engine, Layout, Markups, Measurements, Model
from trt_landmarks.cli.support import extra, progress_bar
from trt_landmarks.errors import PipelineError


def infer(
    scans: Annotated[
        list[Path],
        typer.Argument(help="Scan files, folders, zip archives, lists (.txt, .csv); - for a list on standard input."),
    ],
    out: Annotated[Path, typer.Option(help="Results file (JSON).")],
    model: Model = None,
    engine: Engine = "auto",
    precision: Annotated[str | None, typer.Option(help="fp32, fp16 or int8. [default: the best here]")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Scans that go through the nets together.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on the CPU. [default: all cores]")] = None,
    preprocess: Annotated[str, typer.Option(help="reference, dali or auto.")] = "auto",
    layout: Layout = "nets",
    devices: Annotated[str | None, typer.Option(help="GPUs that share the scans, such as 0,1. [default: 0]")] = None,
    csv: Csv = None,
    markups: Markups = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for a picture of each case.")] = None,
    measurements: Measurements = None,
    series: Annotated[
        str, typer.Option(help="DICOM series of a folder: all, largest, a series number or a SeriesInstanceUID.")
    ] = "all",
    include: Annotated[
        list[str] | None, typer.Option(help="Pattern of scans in folders, '*.nrrd'. Repeatable.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Pattern of scans and folders to skip. Repeatable.")] = None,
    anonymize: Annotated[bool, typer.Option(help="Results and messages name scans by a hash.")] = False,
    anonymize_key: Annotated[
        Path | None, typer.Option(help="File with a secret key, for the same hashes in every run. [default: random]")
    ] = None,
    quiet: Annotated[bool, typer.Option(help="Only errors.")] = False,
) -> None:
    """Localize landmarks in scans. Exit code 1 if some scans failed, 2 if all did."""
    from trt_landmarks.bundle import open_bundle
    from trt_landmarks.case_result import CaseResult
    from trt_landmarks.inference import infer as run
    from trt_landmarks.outputs.writer import OutputWriter
    from trt_landmarks.predictions import Predictions
    from trt_landmarks.scan import find_scans
    from trt_landmarks.scan.anonymize import anonymize as hide
    from trt_landmarks.scan.anonymize import nameless, read_key
    from trt_landmarks.task import add_measurements
    from trt_landmarks.workers import open_workers, parse_devices

    key = read_key(anonymize_key) if anonymize_key else None
    hidden = anonymize or key is not None
    with nameless() if hidden else nullcontext():
        files = find_scans(scans, series=series, include=include or (), exclude=exclude or ())
    if hidden:
        files = hide(files, key)
    bundle = open_bundle(model)
    if measurements is not None:
        bundle = replace(bundle, task=add_measurements(bundle.task, measurements))
    workers = open_workers(
        bundle, -(-len(files) // batch), engine=engine, precision=precision, layout=layout, preprocess=preprocess,
        threads=threads, devices=parse_devices(devices),
    )  # fmt: skip
    with extra("figures"):
        ids = [file.id for file in files]
        writer = OutputWriter(ids, bundle.task.group_of, csv=csv, markup_folder=markups, figure_folder=figures)
    chosen, note, prepared = workers.engine, workers.note, workers.preprocessing
    if not quiet:
        typer.echo(f"model: {bundle.name} ({bundle.root}); engine: {note}; preprocessing: {prepared}", err=True)
    predictions = Predictions(
        bundle.task.name,
        {"name": bundle.name, "path": str(bundle.root), "sha256": bundle.sha256},
        {"name": chosen.name, "precision": chosen.precision, "provider": chosen.provider, "note": note,
         "preprocessing": prepared},
    )  # fmt: skip
    with progress_bar("scans", len(files), quiet) as advance:

        def progress(case: CaseResult, done: int, count: int) -> None:
            advance(case.id)
            writer.case(case)
            if case.error is not None:
                typer.echo(f"trtlm: {case.error.message}", err=True)

        try:
            run(files, workers.localizers, predictions, out=out, batch=batch, progress=progress, look=writer.draw)
        except (KeyboardInterrupt, PipelineError) as end:
            why = "interrupted" if isinstance(end, KeyboardInterrupt) else str(end).rstrip(".")
            typer.echo(f"trtlm: {why}; {len(predictions.cases)} of {len(files)} scans are in {out}", err=True)
            writer.finish(predictions.cases)
            raise typer.Exit(1 if predictions.cases else 2) from None
    writer.finish(predictions.cases)
    for problem in writer.problems:
        typer.echo(f"trtlm: {problem}", err=True)
    failed = sum(case.status == "failed" for case in predictions.cases)
    if not quiet:
        typer.echo(f"{len(files) - failed} of {len(files)} scans ok: {out}")
    raise typer.Exit(2 if failed == len(files) else 1 if failed or writer.problems else 0)


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Results file of trtlm infer.")],
    landmarks: Annotated[Path, typer.Argument(help="Folder of annotations (.mrk.json, .fcsv, .csv).")],
    model: Model = None,
    task: Annotated[Path | None, typer.Option(help="Task file, instead of the model's.")] = None,
    split: Annotated[Path | None, typer.Option(help="Split file: expect only its validation cases.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the figures here too (JSON).")] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples for the 95 % intervals.")] = 2000,
) -> None:
    """Compare results with annotations: MRE, SDR and the rest, in mm. Exit code 1 if cases failed or are missing."""
    from rich.console import Console

    from trt_landmarks.bundle import open_bundle
    from trt_landmarks.dataset import split_from_file
    from trt_landmarks.evaluation import evaluate as run
    from trt_landmarks.landmark_files import find_landmark_files
    from trt_landmarks.predictions import read_predictions
    from trt_landmarks.task import load_task

    found = read_predictions(predictions)
    subject = load_task(task) if task else open_bundle(model or found.model.get("path"), verify=False).task
    cases = None
    if split is not None:
        annotated = find_landmark_files(landmarks)
        cases = split_from_file(split, annotated).validation
    evaluation = run(found, landmarks, subject, bootstrap=bootstrap, cases=cases)
    if out is not None:
        evaluation.write(out)
    evaluation.render(Console(width=None if sys.stdout.isatty() else 140))
    raise typer.Exit(1 if evaluation.failed or evaluation.missing else 0)
