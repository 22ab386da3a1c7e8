"""Commands from a bundle to engines: ``build``, ``inspect``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from trt_landmarks.cli.options import (
    Accept,
    Count,
    Engine,
    Exclude,
    HeldOut,
    Landmarks,
    Method,
    ModelArgument,
    Sensitivity,
)
from trt_landmarks.cli.support import extra


def build(
    model: ModelArgument = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8, or bf16 (openvino).")] = "fp16",
    engine: Engine = "auto",
    calib: Annotated[Path | None, typer.Option(help="Real scans, to calibrate on and to measure on.")] = None,
    landmarks: Landmarks = None,
    n: Count = None,
    held_out: HeldOut = 5,
    seed: Annotated[int, typer.Option(help="Seed of the choice of scans.")] = 0,
    method: Method = "entropy",
    exclude: Exclude = None,
    sensitivity: Sensitivity = False,
    accept_deviation: Accept = False,
    workspace: Annotated[int | None, typer.Option(min=1, help="TensorRT: most scratch memory, MiB.")] = None,
    optimization_level: Annotated[int | None, typer.Option(min=0, max=5, help="TensorRT: 0 to 5.")] = None,
    version_compatible: Annotated[bool, typer.Option(help="TensorRT: runs with later versions too.")] = False,
    hardware_compatibility: Annotated[
        str, typer.Option(help="TensorRT: none, same_compute_capability or ampere_plus.")
    ] = "none",
    target: Annotated[
        list[str] | None, typer.Option(help="TensorRT for RTX: compute capability, such as 8.9. (default: portable)")
    ] = None,
) -> None:
    """Build engines for a model, at a precision: calibrated on real scans, and measured on others against FP32."""
    from trt_landmarks.build import Request
    from trt_landmarks.build import build as make
    from trt_landmarks.bundles.builds import REPORT
    from trt_landmarks.bundles.bundle import open_bundle
    from trt_landmarks.engines.tensorrt.settings import PlanSettings

    bundle = open_bundle(model)
    typer.echo(f"model: {bundle.name} ({bundle.root})", err=True)
    scans = None
    with extra("calibrate"):  # the build itself imports what its precision needs
        if calib is not None and precision != "fp32":
            from trt_landmarks.calibration.scans import choose_scans

            count = {"bf16": 0}.get(precision, n or (4 if precision == "fp16" else 16))
            unseen = bundle.manifest.get("training", {}).get("split", {}).get("val", [])
            scans = choose_scans(calib, count, held_out, seed=seed, validation=unseen, landmarks=landmarks)
            annotated = f"{len(scans.annotations) or 'none'} annotated"
            typer.echo(f"scans: {count} to calibrate on, {len(scans.held_out)} others to measure on, {annotated}")
        scratch = None if workspace is None else workspace << 20
        plans = PlanSettings(
            scratch, optimization_level, version_compatible, hardware_compatibility, tuple(target or ())
        )
        request = Request(precision, scans, method, tuple(exclude or ()), sensitivity, accept_deviation, plans)
        done = make(bundle, engine, request, typer.echo)
    typer.echo(done.summary())
    if (done.folder / REPORT).is_file():
        typer.echo(f"report: {done.folder / REPORT}")


def inspect(
    model: ModelArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="Plain data instead of text.")] = False,
) -> None:
    """Show what is in a model: graphs, sizes, parity, builds, their accuracy, and where they run."""
    from trt_landmarks.bundles.bundle import open_bundle
    from trt_landmarks.bundles.inspection import inspect_bundle, render

    found = inspect_bundle(open_bundle(model, verify=False))
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else render(found))
    raise typer.Exit(0 if found["whole"] else 1)
