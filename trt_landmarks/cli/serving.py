"""The command ``serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trt_landmarks.cli.options import ENGINE, RUN, Engine, Jobs, LimitMemory, Precision, Threads, option
from trt_landmarks.cli.support import extra


def serve(
    model: Annotated[
        list[str] | None, option(ENGINE, help="Shipped model or bundle folder. Repeatable. (default: as infer)")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; others than this machine's need a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 for any.")] = 8000,
    token_file: Annotated[Path | None, typer.Option(help="File with the token that requests need.")] = None,
    engine: Engine = "auto",
    precision: Precision = None,
    threads: Threads = None,
    devices: Annotated[str | None, option(ENGINE, help="GPUs that share the scans, such as 0,1. (default: 0)")] = None,
    jobs: Jobs = 1,
    max_upload: Annotated[str, option(RUN, help="Size of a request at most.")] = "1G",
    queue: Annotated[int, option(RUN, min=1, help="Scans that wait or are under way, at most.")] = 32,
    timeout: Annotated[
        float, option(RUN, min=0.001, help="Seconds for reading a scan, and for computing it, before it fails.")
    ] = 300,
    limit_memory: LimitMemory = None,
) -> None:
    """Serve models: a page in the browser, 3D Slicer (MONAI Label), Triton's clients (Open Inference Protocol).

    Exit codes: 0 stopped by Ctrl-C or SIGTERM, 2 could not run.
    """
    with extra("server"):
        from trt_landmarks.server import run
    from trt_landmarks.runs.memory import parse_memory
    from trt_landmarks.runs.workers import parse_devices

    settings = run.Settings(
        host, port, token_file, parse_memory(max_upload) or 0, queue, timeout, parse_memory(limit_memory)
    )
    gpus = parse_devices(devices)
    models, scans = run.open_models(
        model or [None], settings.memory, engine=engine, precision=precision, threads=threads, devices=gpus,
        jobs=None if gpus else jobs,
    )  # fmt: skip
    for bundle, workers in models:
        typer.echo(f"model: {bundle.name} ({bundle.root}); engine: {workers.note}", err=True)
    raise typer.Exit(run.serve(models, scans, settings, lambda address: typer.echo(f"serving at {address}", err=True)))
