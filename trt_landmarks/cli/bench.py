"""The command ``bench``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from trt_landmarks.cli.options import Model
from trt_landmarks.cli.support import extra
from trt_landmarks.errors import TrtlmError
from trt_landmarks.system import install_command


def bench(
    model: Model = None,
    scans: Annotated[
        Path | None, typer.Option(help="Real scans. (default: the mouse skulls in TRTLM_DATA, for their model)")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for bench.json, bench.md and figures.")] = Path("report"),
    engines: Annotated[
        str,
        typer.Option(help="all, or of: torch,torch-bf16,onnxruntime,onnxruntime-cuda,tensorrt,tensorrt-rtx,dali."),
    ] = "all",
    precisions: Annotated[str, typer.Option(help="all, or of: fp32,fp16,int8.")] = "all",
    rounds: Annotated[int, typer.Option(min=1, help="How often every way runs every scan.")] = 5,
    count: Annotated[int, typer.Option(min=1, help="Scans of a round.")] = 5,
    cold: Annotated[int, typer.Option(min=1, help="Fresh processes of every way.")] = 2,
    folder: Annotated[int, typer.Option(min=0, help="Scans of the folder whose throughput is measured.")] = 12,
    folder_rounds: Annotated[int, typer.Option(min=1, help="How often.")] = 2,
    landmarks: Annotated[
        Path | None, typer.Option(help="Annotations. (default: landmarks/ in or beside the scans)")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of every way. (default: all cores)")] = None,
    device: Annotated[str, typer.Option(help="Of PyTorch: cpu, cuda or auto.")] = "auto",
    compare: Annotated[Path | None, typer.Option(help="Earlier bench.json: show what changed since.")] = None,
    report: Annotated[Path | None, typer.Option(help="With --compare: take this bench.json and run nothing.")] = None,
    threshold: Annotated[float, typer.Option(min=0, help="Percent a time may grow before it is a regression.")] = 10,
    force: Annotated[bool, typer.Option(help="Compare what is not comparable.")] = False,
    quiet: Annotated[bool, typer.Option(help="No progress.")] = False,
) -> None:
    """Measure every way of running a model here, against PyTorch. Exit code 1 if --compare finds a regression."""
    from trt_landmarks.bench.compare import read_report

    if report is not None and compare is None:
        raise TrtlmError("--report goes with --compare.", "Name the earlier report: --compare old.json.")
    old = None if compare is None else read_report(compare)
    if report is not None:
        new = read_report(report)
    else:
        from trt_landmarks.bench.run import Settings
        from trt_landmarks.bench.ways import ENGINES
        from trt_landmarks.bundles.builds import PRECISIONS

        settings = Settings(
            model, scans, landmarks, _several(engines, ENGINES), _several(precisions, PRECISIONS), count, rounds, cold,
            folder, folder_rounds, threads, device,
        )  # fmt: skip
        new = _run(settings, out, quiet)
    if old is not None:
        raise typer.Exit(_compare(old, new, threshold, force))


def _several(text: str, all_of_them: tuple[str, ...]) -> tuple[str, ...]:
    return all_of_them if text == "all" else tuple(word.strip() for word in text.split(",") if word.strip())


def _run(settings: Any, out: Path, quiet: bool) -> dict[str, Any]:
    """Measure, print and write."""
    from rich.console import Console

    from trt_landmarks.bench.report import JSON_NAME, MARKDOWN_NAME, render, write_report
    from trt_landmarks.bench.run import bench as measure

    with extra("bench"):
        report = measure(settings, (lambda text: None) if quiet else lambda text: typer.echo(text, err=True))
    write_report(report, out)
    render(report, Console(width=None if sys.stdout.isatty() else 240))
    written = [JSON_NAME, MARKDOWN_NAME]
    try:
        from trt_landmarks.bench.figures import write_figures

        written += [path.name for path in write_figures(report, out)]
    except ModuleNotFoundError as error:
        typer.echo(f"no figures: {error.name} is not installed ({install_command('figures')})", err=True)
    typer.echo(f"written to {out}: {', '.join(written)}")
    return report


def _compare(old: dict[str, Any], new: dict[str, Any], threshold: float, force: bool) -> int:
    """Print what changed; the exit code."""
    from trt_landmarks.bench.compare import compare, differences

    apart = differences(old, new)
    if apart and not force:
        raise TrtlmError(f"the reports are not comparable: {'; '.join(apart)}.", "Take --force to compare them anyway.",
                         code="not_comparable")  # fmt: skip
    if apart:
        typer.echo(f"not comparable, compared all the same: {'; '.join(apart)}", err=True)
    changes = compare(old, new, threshold)
    for one in changes:
        typer.echo(one.line())
    slower = sum(one.regressed for one in changes)
    typer.echo(f"{len(changes)} figures compared, {slower} slower by more than {threshold:g} %")
    return 1 if slower else 0
