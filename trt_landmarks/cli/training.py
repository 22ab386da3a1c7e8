"""Commands from annotations to a bundle: ``init``, ``train``, ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trt_landmarks.cli.support import extra

if TYPE_CHECKING:
    from trt_landmarks.scan import Scan


def init(
    landmarks: Annotated[Path, typer.Option("--from", help="Folder of landmark files: <case>.mrk.json, .fcsv, .csv.")],
    out: Annotated[Path, typer.Option(help="Task file to write; one that exists is kept.")],
    scans: Annotated[Path | None, typer.Option(help="Folder of the scans, for the sizes of the grids.")] = None,
    name: Annotated[str | None, typer.Option(help="The task's name. (default: the file's)")] = None,
) -> None:
    """Propose a task file: names, groups, mirror pairs and grids from annotations and scans."""
    from trt_landmarks.data.proposal import propose_task
    from trt_landmarks.errors import TaskError
    from trt_landmarks.files import write_text

    if out.exists():
        raise TaskError(f"{out}: exists already.", "Name another file.")
    proposal = propose_task(landmarks, scans, name or out.stem)
    write_text(out, proposal.text, TaskError)
    for remark in proposal.remarks:
        typer.echo(f"- {remark}")
    typer.echo(f"task file, to be checked: {out}")


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
    contrast: Annotated[float, typer.Option(min=0, max=1, help="Share of views with other grey values (MRI).")] = 0.0,
    length: Annotated[float, typer.Option(min=0.0001, help="Factor on all numbers of steps.")] = 1.0,
    steps: Annotated[
        list[str] | None,
        typer.Option(help="Steps of coarse, shared, independent or correlated nets: coarse=3000. Repeatable."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ... or auto.")] = "auto",
    quiet: Annotated[bool, typer.Option(help="No progress.")] = False,
) -> None:
    """Train the coarse and the fine nets on a folder of annotated scans."""
    with extra("train"):
        from trt_landmarks.training.command import train_command
    metrics = train_command(
        task, data, out, split=split, folds=folds, fold=fold, seed=seed, keep=keep, noise=noise,
        contrast=contrast, length=length, steps=steps or (), device=device,
        quiet=quiet, notify=lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    typer.echo(metrics)


def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="Run folder of a finished training; or a bundle, to bring it to this version's form.")
    ],
    out: Annotated[Path, typer.Option(help="Bundle folder to make.")],
    name: Annotated[str | None, typer.Option(help="The model's name. (default: the task's)")] = None,
    scans: Annotated[Path | None, typer.Option(help="Real scans (file or folder) for the check with PyTorch.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Scans to use at most.")] = 5,
    compact: Annotated[bool, typer.Option(help="Round the weights and pack the graphs.")] = False,
    movement: Annotated[
        float, typer.Option(min=1e-5, help="With --compact: mean movement of points to aim at, voxels.")
    ] = 0.0005,
    provenance: Annotated[Path | None, typer.Option(help="JSON file for the manifest: data, licence, command.")] = None,
) -> None:
    """Export a checkpoint to a bundle of ONNX graphs, checked against PyTorch."""
    from trt_landmarks.bundles.bundle import MANIFEST, open_bundle

    with extra("export"):
        from trt_landmarks.errors import TrtlmError
        from trt_landmarks.export.bundle import export_bundle, renew_bundle
        from trt_landmarks.files import read_json
        from trt_landmarks.training.checkpoint import load_checkpoint
    if compact and scans is None:
        raise typer.BadParameter(
            "needs --scans: how far rounding moves the points is measured on real scans.", param_hint="--compact"
        )
    some, aim = _some_scans(scans, count), movement if compact else None
    if (checkpoint / MANIFEST).is_file():
        bundle = renew_bundle(open_bundle(checkpoint), out, scans=some, compact=aim, say=typer.echo)
    else:
        loaded = load_checkpoint(checkpoint)
        facts = read_json(provenance, TrtlmError, "JSON file") if provenance else None
        bundle = export_bundle(loaded, out, name=name, scans=some, compact=aim, provenance=facts, say=typer.echo)
    for graph, figures in bundle.manifest["parity"].items():
        if isinstance(figures, dict) and "max_voxel" in figures:
            typer.echo(f"{graph}: at most {figures['max_voxel']:.1e} voxel, {figures['max_mm']:.1e} mm from PyTorch")
    if compact:
        moved = bundle.manifest["parity"]["rounding_of_weights"]["points"]
        typer.echo(
            f"rounding moved the points by mean {moved['mean_voxel']:.4f}, p99 {moved['p99_voxel']:.4f}, "
            f"max {moved['max_voxel']:.4f} voxel on {moved['scans']} scans"
        )
    typer.echo(f"bundle {bundle.name}: {out}")


def _some_scans(path: Path | None, count: int) -> list[Scan]:
    """The first ``count`` scans of a file or folder; none if no path was given."""
    if path is None:
        return []
    from trt_landmarks.scan import find_scans, read_scan

    return [read_scan(file) for file in find_scans([path])[:count]]
