"""The command that makes a model's confidence mean something: ``confidence``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from trt_landmarks.cli.options import ModelArgument
from trt_landmarks.cli.support import progress_bar
from trt_landmarks.errors import TrtlmError


def confidence(
    model: ModelArgument = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with images/ and landmarks/: training and validation cases.")
    ] = None,
    split: Annotated[
        Path | None, typer.Option(help="JSON file with the lists train and val. (default: the model's own)")
    ] = None,
    observations: Annotated[
        Path | None, typer.Option(help="File (.npz) that keeps what was found in the perturbed scans, to fit again.")
    ] = None,
    fitted: Annotated[
        Path | None, typer.Option("--from", help="Instead of --data: a confidence.json fitted before, put in as it is.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the figures here (.json), and beside them a .md.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the perturbations.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on the CPU. (default: all cores)")] = None,
    quiet: Annotated[bool, typer.Option(help="Only errors.")] = False,
) -> None:
    """Fit a model's confidence and expected errors on its validation scans and put them into the bundle.

    The scans are perturbed in about 40 ways each, which gives the errors to learn from; all is measured on cases left
    out. That of a shipped model goes to the user's cache folder. Builds of another bundle are to be made again.
    """
    from trt_landmarks.bundles.bundle import attach_confidence, open_bundle

    if (data is None) == (fitted is None):
        raise TrtlmError("Name either --data or --from.", "See trtlm confidence --help.", code="usage")
    bundle = open_bundle(model)
    if fitted is not None:
        from trt_landmarks.localization.confidence import read_confidence

        path = attach_confidence(bundle, read_confidence(fitted, bundle.task))
    else:
        from trt_landmarks.confidence.command import fit, gather, shape_and_cases
        from trt_landmarks.confidence.report import report as render
        from trt_landmarks.confidence.report import summary
        from trt_landmarks.files import write_text

        assert data is not None
        shape, cases = shape_and_cases(bundle, data, split)
        with progress_bar("cases", len(cases), quiet) as advance:
            seen = gather(bundle, cases, observations, seed=seed, threads=threads, progress=advance)
        done = fit(bundle, shape, seen)
        if report is not None:
            write_text(report.with_suffix(".json"), json.dumps(done.report, indent=1) + "\n", TrtlmError)
            write_text(report.with_suffix(".md"), render(done.report), TrtlmError)
        path = attach_confidence(bundle, done.model)
        if not quiet:
            typer.echo(summary(done.report))
    if not quiet:
        typer.echo(f"confidence of {bundle.name}: {path}")
