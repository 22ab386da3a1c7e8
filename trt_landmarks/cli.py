"""The ``trtlm`` command.

Exit codes: 0 ok; 1 some cases failed; 2 could not run.  Heavy packages are imported by the command that needs
them, never to show help.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trt_landmarks import __version__
from trt_landmarks.errors import PipelineError, TrtlmError

if TYPE_CHECKING:
    from trt_landmarks.builds import Build
    from trt_landmarks.scan import Scan

app = typer.Typer(
    help="3D medical landmark localization, from a PyTorch checkpoint to a deployed, measured engine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[
    str | None,
    typer.Option(help="Shipped model's name or bundle folder. [default: the setting TRTLM_MODEL, else mouse-skull]"),
]
ModelArgument = Annotated[
    str | None, typer.Argument(help="Bundle folder or shipped model. [default: TRTLM_MODEL, else mouse-skull]")
]
Engine = Annotated[str, typer.Option(help="onnxruntime, tensorrt, tensorrt-rtx or auto.")]
Landmarks = Annotated[
    Path | None, typer.Option(help="Annotations, to measure the error. [default: landmarks/ in or beside the scans]")
]
Count = Annotated[int | None, typer.Option("--n", min=1, help="Scans to calibrate on. [default: 16; 4 for fp16]")]
HeldOut = Annotated[int, typer.Option(min=1, help="Other scans to measure on, at most.")]
Method = Annotated[str, typer.Option(help="INT8 ranges: entropy or max.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Layer to leave out of INT8: <graph>:<node>. Repeatable.")]
Sensitivity = Annotated[bool, typer.Option(help="Rank INT8 layers by what they cost; leave out the worst if needed.")]
Layout = Annotated[
    str, typer.Option(help="nets: inputs sampled on the host; pair, one: two graphs or one that take the scan itself.")
]
Accept = Annotated[bool, typer.Option(help="Build even if the deviation from FP32 is too large.")]


def main() -> None:
    """Run the command; errors meant for people become one line and exit code 2."""
    try:
        app()
    except TrtlmError as error:
        typer.echo(f"trtlm: {error}", err=True)
        raise SystemExit(2) from None


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trtlm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    task: Annotated[Path, typer.Argument(help="Task file (YAML).")],
    data: Annotated[Path, typer.Option(help="Folder with images/ and landmarks/.")],
    out: Annotated[Path, typer.Option(help="Run folder; a run that was stopped is resumed.")],
    split: Annotated[Path | None, typer.Option(help="JSON file with the lists train and val.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Without --split: number of folds.")] = 5,
    fold: Annotated[int, typer.Option(min=0, help="Without --split: the fold to validate on, from 0.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    keep: Annotated[str, typer.Option(help="Weights to keep: best (by validation) or last.")] = "best",
    noise: Annotated[float, typer.Option(min=0, help="Noise of the patch centres, fraction of the edge.")] = 1 / 6,
    length: Annotated[float, typer.Option(min=0.0001, help="Factor on all numbers of steps.")] = 1.0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ... or auto.")] = "auto",
    quiet: Annotated[bool, typer.Option(help="No progress bar.")] = False,
) -> None:
    """Train the coarse and the fine nets on a folder of annotated scans."""
    with _extra("train"):
        from trt_landmarks.training.command import train_command
    metrics = train_command(
        task, data, out, split=split, folds=folds, fold=fold, seed=seed, keep=keep, noise=noise, length=length,
        device=device, quiet=quiet or not sys.stderr.isatty(),
    )  # fmt: skip
    typer.echo(metrics)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Run folder of a finished training.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to make.")],
    name: Annotated[str | None, typer.Option(help="The model's name. [default: the task's]")] = None,
    scans: Annotated[Path | None, typer.Option(help="Real scans (file or folder) for the check with PyTorch.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Scans to use at most.")] = 5,
    half_storage: Annotated[bool, typer.Option(help="Store weights in FP16 (half the size).")] = False,
    provenance: Annotated[Path | None, typer.Option(help="JSON file for the manifest: data, licence, command.")] = None,
) -> None:
    """Export a checkpoint to a bundle of ONNX graphs, checked against PyTorch."""
    with _extra("export"):
        from trt_landmarks.export.bundle import export_bundle
        from trt_landmarks.training.checkpoint import load_checkpoint
    loaded = load_checkpoint(checkpoint)
    facts = _read_json(provenance) if provenance else None
    bundle = export_bundle(
        loaded, out, name=name, scans=_some_scans(scans, count), half_storage=half_storage, provenance=facts,
        say=typer.echo,
    )  # fmt: skip
    for graph, figures in bundle.manifest["parity"].items():
        if isinstance(figures, dict) and "max_voxel" in figures:
            typer.echo(f"{graph}: at most {figures['max_voxel']:.1e} voxel, {figures['max_mm']:.1e} mm from PyTorch")
    typer.echo(f"bundle {bundle.name}: {out}")


@app.command()
def build(
    model: ModelArgument = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16 or int8.")] = "fp16",
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
    layout: Layout = "nets",
    workspace: Annotated[
        int | None, typer.Option(min=1, help="TensorRT: most scratch memory, MiB. [default: 2048; none for pair, one]")
    ] = None,
    optimization_level: Annotated[int | None, typer.Option(min=0, max=5, help="TensorRT: 0 to 5.")] = None,
    version_compatible: Annotated[bool, typer.Option(help="TensorRT: runs with later versions too.")] = False,
    hardware_compatibility: Annotated[
        str, typer.Option(help="TensorRT: none, same_compute_capability or ampere_plus.")
    ] = "none",
    target: Annotated[
        list[str] | None, typer.Option(help="TensorRT for RTX: compute capability, such as 8.9. [default: portable]")
    ] = None,
) -> None:
    """Build engines for a model, at a precision: calibrated on real scans, and measured on others against FP32."""
    from trt_landmarks.engines.plan_settings import PlanSettings

    scratch = None if workspace is None else workspace << 20
    plans = PlanSettings(
        scratch, optimization_level, version_compatible, hardware_compatibility, tuple(target or ())
    )
    done = _build(
        model, engine, calib, landmarks, n, held_out, seed, precision=precision, method=method,
        exclude=tuple(exclude or ()), sensitivity=sensitivity, accept_deviation=accept_deviation, plans=plans,
        layout=layout,
    )  # fmt: skip
    typer.echo(done.summary())


@app.command()
def calibrate(
    model: ModelArgument = None,
    data: Annotated[
        Path, typer.Option(help="Scans, or a data set with images/ and landmarks/.", show_default=False)
    ] = ...,  # type: ignore[assignment]
    precision: Annotated[str, typer.Option(help="int8 or fp16.")] = "int8",
    landmarks: Landmarks = None,
    n: Count = None,
    held_out: HeldOut = 5,
    seed: Annotated[int, typer.Option(help="Seed of the choice of scans.")] = 0,
    method: Method = "entropy",
    exclude: Exclude = None,
    sensitivity: Sensitivity = False,
    accept_deviation: Accept = False,
) -> None:
    """Bring a model's graphs to lower precision on real scans, measure them on others, and report."""
    from trt_landmarks.builds import REPORT

    done = _build(
        model, "onnxruntime", data, landmarks, n, held_out, seed, precision=precision, method=method,
        exclude=tuple(exclude or ()), sensitivity=sensitivity, accept_deviation=accept_deviation,
    )  # fmt: skip
    typer.echo(done.summary())
    typer.echo(f"report: {done.folder / REPORT}")


@app.command()
def inspect(
    model: ModelArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="Plain data instead of text.")] = False,
) -> None:
    """Show what is in a model: graphs, sizes, parity, builds, their accuracy, and where they run."""
    from trt_landmarks.bundle import open_bundle
    from trt_landmarks.inspection import inspect_bundle, render

    found = inspect_bundle(open_bundle(model, verify=False))
    typer.echo(json.dumps(found, indent=1, ensure_ascii=False) if as_json else render(found))
    raise typer.Exit(0 if found["whole"] else 1)


@app.command()
def infer(
    scans: Annotated[list[Path], typer.Argument(help="Scan files and folders of scans.")],
    out: Annotated[Path, typer.Option(help="Results file (JSON).")],
    model: Model = None,
    engine: Engine = "auto",
    precision: Annotated[str | None, typer.Option(help="fp32, fp16 or int8. [default: the best here]")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Scans that go through the nets together.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads on the CPU. [default: all cores]")] = None,
    preprocess: Annotated[str, typer.Option(help="reference, dali or auto.")] = "auto",
    layout: Layout = "nets",
    devices: Annotated[str | None, typer.Option(help="GPUs that share the scans, such as 0,1. [default: 0]")] = None,
    quiet: Annotated[bool, typer.Option(help="Only errors.")] = False,
) -> None:
    """Localize landmarks in scans. Exit code 1 if some scans failed, 2 if all did."""
    from trt_landmarks.bundle import open_bundle
    from trt_landmarks.inference import infer as run
    from trt_landmarks.predictions import CaseResult, Predictions
    from trt_landmarks.scan import find_scans
    from trt_landmarks.workers import open_workers, parse_devices

    files = find_scans(scans)
    bundle = open_bundle(model)
    workers = open_workers(
        bundle, -(-len(files) // batch), engine=engine, precision=precision, layout=layout, preprocess=preprocess,
        threads=threads, devices=parse_devices(devices),
    )  # fmt: skip
    chosen, note, prepared = workers.engine, workers.note, workers.preprocessing
    if not quiet:
        typer.echo(f"model: {bundle.name} ({bundle.root}); engine: {note}; preprocessing: {prepared}", err=True)
    predictions = Predictions(
        bundle.task.name,
        {"name": bundle.name, "path": str(bundle.root), "sha256": bundle.sha256},
        {"name": chosen.name, "precision": chosen.precision, "provider": chosen.provider, "note": note,
         "preprocessing": prepared},
    )  # fmt: skip
    with _bar("scans", len(files), quiet) as advance:

        def progress(case: CaseResult, done: int, count: int) -> None:
            advance(case.id)
            if case.error is not None:
                typer.echo(f"trtlm: {case.error.message}", err=True)

        try:
            run(files, workers.localizers, predictions, out=out, batch=batch, progress=progress)
        except (KeyboardInterrupt, PipelineError) as end:
            why = "interrupted" if isinstance(end, KeyboardInterrupt) else str(end).rstrip(".")
            typer.echo(f"trtlm: {why}; {len(predictions.cases)} of {len(files)} scans are in {out}", err=True)
            raise typer.Exit(1 if predictions.cases else 2) from None
    failed = sum(case.status == "failed" for case in predictions.cases)
    if not quiet:
        typer.echo(f"{len(files) - failed} of {len(files)} scans ok: {out}")
    raise typer.Exit(0 if not failed else 2 if failed == len(files) else 1)


@app.command("eval")
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


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    deep: Annotated[bool, typer.Option(help="Load the slow packages too; takes some seconds.")] = False,
) -> None:
    """Show what is installed, what conflicts and what works here. Exit code 2 if inference on the CPU does not."""
    from trt_landmarks.doctor.command import doctor as run

    raise typer.Exit(run(as_json, deep))


def _some_scans(path: Path | None, count: int) -> list[Scan]:
    """The first ``count`` scans of a file or folder; none if no path was given."""
    if path is None:
        return []
    from trt_landmarks.scan import find_scans, read_scan

    return [read_scan(file.path) for file in find_scans([path])[:count]]


def _build(
    model: str | None, engine: str, data: Path | None, landmarks: Path | None, n: int | None, held_out: int, seed: int,
    **request: Any,
) -> Build:  # fmt: skip
    """Make a build; the scans are chosen from a folder, those that the model's training did not see for measuring."""
    from trt_landmarks.builder import Request
    from trt_landmarks.builder import build as make
    from trt_landmarks.bundle import open_bundle

    bundle = open_bundle(model)
    typer.echo(f"model: {bundle.name} ({bundle.root})", err=True)
    with _extra("calibrate"):  # the build itself imports what its precision needs
        scans = None
        if data is not None and request["precision"] != "fp32":
            from trt_landmarks.calibration.scans import choose_scans

            count = n or (4 if request["precision"] == "fp16" else 16)
            unseen = bundle.manifest.get("training", {}).get("split", {}).get("val", [])
            scans = choose_scans(data, count, held_out, seed=seed, validation=unseen, landmarks=landmarks)
            annotated = f", {len(scans.annotations)} of them annotated" if scans.annotations else ", none annotated"
            measured = f"{len(scans.held_out)} others to measure on"
            typer.echo(f"scans: {len(scans.calibration)} to calibrate on, {measured}{annotated}")
        return make(bundle, engine, Request(scans=scans, **request), typer.echo)


def _read_json(path: Path) -> Any:
    from trt_landmarks.files import read_text

    try:
        return json.loads(read_text(path, TrtlmError, "JSON file"))
    except ValueError as error:
        raise TrtlmError(f"{path}: is not valid JSON: {error}.") from None


@contextlib.contextmanager
def _extra(name: str) -> Iterator[None]:
    """Turn a missing optional package into advice."""
    try:
        yield
    except ModuleNotFoundError as error:
        command = shlex.join(["pip", "install", f"trt-landmarks[{name}]"])
        raise TrtlmError(f"this command needs the package {error.name}, which is not installed.", f"Run {command}.",
                         code="package_missing") from None  # fmt: skip


@contextlib.contextmanager
def _bar(what: str, count: int, quiet: bool) -> Iterator[Any]:
    """A progress bar on a terminal; nothing in scripts."""
    if quiet or not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task(what, total=count)
        yield lambda name: bar.update(line, advance=1, description=name)
