"""Commands on scans: ``infer``, ``eval``."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from trt_landmarks.cli.options import (
    ENGINE,
    INPUT,
    OUTPUT,
    RUN,
    Csv,
    Engine,
    Jobs,
    LimitMemory,
    Log,
    Markups,
    Measurements,
    Model,
    Overwrite,
    Pose,
    Precision,
    Report,
    Resume,
    RetryFailed,
    Threads,
    Timeout,
    Tta,
    option,
)
from trt_landmarks.cli.support import extra, progress_bar
from trt_landmarks.errors import TrtlmError


def infer(
    context: typer.Context,
    scans: Annotated[
        list[Path],
        typer.Argument(help="Scan files, folders, zip archives, lists (.txt, .csv); - for a list on standard input."),
    ],
    out: Annotated[Path, option(OUTPUT, help="Results file; its suffix gives the format: .json or .csv.")],
    model: Model = None,
    engine: Engine = "auto",
    precision: Precision = None,
    batch: Annotated[int, option(ENGINE, min=1, help="Scans per batch.")] = 1,
    threads: Threads = None,
    preprocess: Annotated[str, option(ENGINE, help="reference, dali or auto.")] = "auto",
    pose: Pose = "auto",
    tta: Tta = False,
    devices: Annotated[str | None, option(ENGINE, help="GPUs that share the scans, such as 0,1. (default: 0)")] = None,
    csv: Csv = None,
    markups: Markups = None,
    dicom_sr: Annotated[
        Path | None, option(OUTPUT, "--dicom-sr", help="Folder for a DICOM structured report per DICOM series.")
    ] = None,
    figures: Annotated[Path | None, option(OUTPUT, help="Folder for a picture per case.")] = None,
    measurements: Measurements = None,
    series: Annotated[
        str, option(INPUT, help="DICOM series of a folder: all, largest, a series number or a SeriesInstanceUID.")
    ] = "all",
    include: Annotated[
        list[str] | None, option(INPUT, help="Pattern of scans in folders, such as '*.nrrd'. Repeatable.")
    ] = None,
    exclude: Annotated[list[str] | None, option(INPUT, help="Pattern of scans or folders to skip. Repeatable.")] = None,
    anonymize: Annotated[bool, option(OUTPUT, help="Name scans by a hash in results and messages.")] = False,
    anonymize_key: Annotated[
        Path | None, option(OUTPUT, help="File with a secret key, for the same hashes in every run. (default: random)")
    ] = None,
    jobs: Jobs = None,
    limit_memory: LimitMemory = None,
    timeout: Timeout = None,
    resume: Resume = False,
    retry_failed: RetryFailed = False,
    overwrite: Overwrite = False,
    report: Report = None,
    log: Log = None,
    quiet: Annotated[bool, option(RUN, help="Print errors only.")] = False,
) -> None:
    """Localize landmarks in scans.

    Exit codes: 0 all scans ok, 1 some failed or do not show the anatomy, 2 all failed or nothing could run, 130
    interrupted.
    """
    from trt_landmarks.bundles.bundle import open_bundle
    from trt_landmarks.cli.destinations import check_outputs, is_csv, written
    from trt_landmarks.localization.case import NOT_THIS_ANATOMY
    from trt_landmarks.outputs.dicom_sr import check_sources
    from trt_landmarks.outputs.writer import OutputWriter, Reports
    from trt_landmarks.results.case import CaseResult
    from trt_landmarks.runs.header import run_header
    from trt_landmarks.runs.isolation import Isolation, series_lister
    from trt_landmarks.runs.log import RunLog, printable
    from trt_landmarks.runs.memory import parse_memory
    from trt_landmarks.runs.run import Limits, Run, Unfinished
    from trt_landmarks.runs.workers import open_workers, parse_devices, within_memory
    from trt_landmarks.scan import find_scans
    from trt_landmarks.scan.anonymize import anonymize as hide
    from trt_landmarks.scan.anonymize import nameless, read_key
    from trt_landmarks.system import memory_bytes
    from trt_landmarks.task.task import add_measurements

    limit, gpus = parse_memory(limit_memory), parse_devices(devices)
    unfinished = Unfinished(resume, retry_failed, overwrite)
    if dicom_sr is not None:
        if anonymize or anonymize_key is not None:
            message = "--dicom-sr names the patient, as the scan does, and --anonymize names nobody."
            raise TrtlmError(message, "Give one of them.", code="usage")
        with extra("dicom"):
            import highdicom  # noqa: F401
    key = read_key(anonymize_key) if anonymize_key else None
    hidden = anonymize or key is not None
    if resume and hidden and key is None:
        raise TrtlmError("--resume cannot recognize scans under a random key.", "Give --anonymize-key.", code="usage")
    isolation = context.with_resource(Isolation(limit or memory_bytes(), partial(typer.echo, err=True)))
    with nameless() if hidden else nullcontext():
        lister = series_lister(isolation, timeout)
        files = find_scans(scans, series=series, include=include or (), exclude=exclude or (), lister=lister)
    outputs = {"--out": out, "--csv": csv, "--report": report, "--log": log}
    folders = {"--markups": markups, "--dicom-sr": dicom_sr, "--figures": figures}
    check_outputs(outputs, folders, [file.path for file in files])
    if dicom_sr is not None:
        check_sources(files)
    if hidden:
        files = hide(files, key)
    bundle = open_bundle(model)
    if measurements is not None:
        bundle = replace(bundle, task=add_measurements(bundle.task, measurements))

    opener = partial(
        open_workers, bundle, -(-len(files) // batch), engine=engine, precision=precision,
        preprocess=preprocess, threads=threads, devices=gpus, jobs=jobs,
        pose=pose, tta=tta,
    )  # fmt: skip
    workers = opener()
    if limit is not None:
        workers = within_memory(workers, limit, batch, lambda jobs: opener(jobs=jobs))
    if not quiet:
        what = f"engine: {workers.note}; preprocessing: {workers.preprocessing}; pose: {workers.pose}"
        what += "; tta" if tta else ""
        typer.echo(f"model: {bundle.name} ({bundle.root}); {what}", err=True)
    settings = {
        "batch": batch, "threads": threads, "jobs": jobs, "devices": devices, "series": series,
        "timeout_s": timeout, "limit_memory_bytes": limit,
    }  # fmt: skip
    header = run_header(bundle, workers, settings, {"pose": workers.pose, "tta": tta})
    log_file = RunLog(log)
    run = Run(files, header, out, unfinished, results=not is_csv(out))  # before the writer empties a table
    tables = [path for path in (out if is_csv(out) else None, csv) if path is not None]
    with extra("figures"):
        ids = [file.id for file in files]
        reports = None if dicom_sr is None else Reports(dicom_sr, files, header.model)
        writer = OutputWriter(
            ids, bundle.task.group_of, tables=tables, markup_folder=markups, figure_folder=figures, reports=reports
        )
    with progress_bar("scans", len(run.todo), quiet) as advance:

        def progress(case: CaseResult, done: int, count: int) -> None:
            advance(case.id)
            writer.case(case)
            if case.error is not None:
                typer.echo(f"trtlm: {printable(case.error.message)}", err=True)
            for warning in case.warnings:
                if warning.code == NOT_THIS_ANATOMY and not quiet:
                    typer.echo(f"trtlm: {printable(warning.message)}", err=True)

        outcome = run.go(
            workers.localizers, batch=batch, limits=Limits(timeout, workers.memory), log=log_file, report=report,
            settings={"threads": threads, "limit_memory_bytes": limit}, progress=progress,
            look=writer.draw, finish=writer.finish if tables or markups or reports else None, problems=writer.problems,
            isolation=isolation, opener=opener if isolation.works else None,
        )  # fmt: skip
    for problem in writer.problems:
        typer.echo(f"trtlm: {printable(problem)}", err=True)
    counts = outcome.found
    if outcome.status != "finished":
        why = (outcome.problem or "interrupted").rstrip(".")
        typer.echo(f"trtlm: {why}; {counts.done} of {len(files)} scans are in {out}; continue with --resume", err=True)
    elif not quiet:
        for line in written(counts, outputs | folders):
            typer.echo(line)
    raise typer.Exit(outcome.exit_code)


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

    from trt_landmarks.bundles.bundle import open_bundle
    from trt_landmarks.data.annotations import find_landmark_files
    from trt_landmarks.data.dataset import split_from_file
    from trt_landmarks.results.evaluation import evaluate as run
    from trt_landmarks.results.predictions import read_predictions
    from trt_landmarks.task.task import load_task

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
