"""``trtlm export``: a checkpoint becomes a bundle of ONNX graphs, checked against PyTorch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch
from torch import nn

from trt_landmarks import __version__
from trt_landmarks.bundles.bundle import CONFIDENCE, Bundle, open_bundle, write_bundle
from trt_landmarks.bundles.packing import read_packed
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.errors import BundleError
from trt_landmarks.export.cpu_graphs import write_cpu_graph
from trt_landmarks.export.onnx_graphs import OPSET, export_graph
from trt_landmarks.export.packing import movement_of_points, pack_graphs, round_nets, weight_offsets
from trt_landmarks.export.parity import Inputs, parity, random_inputs, real_inputs, unjudged
from trt_landmarks.export.rounding import RoundedNet
from trt_landmarks.export.weights import nets_from_bundle
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.nets.defaults import usual_defaults
from trt_landmarks.nets.folding import folded, rounded_to_half
from trt_landmarks.scan import Scan
from trt_landmarks.task.graphs import graph_file, input_shapes
from trt_landmarks.task.task import Task
from trt_landmarks.training.checkpoint import Checkpoint


@usual_defaults()
def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    name: str | None = None,
    scans: Sequence[Scan] = (),
    compact: float | None = None,
    provenance: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Bundle:
    """Write a bundle.

    Args:
        checkpoint: a finished training.
        out: folder to make; must not exist yet or be an empty folder.
        name: the model's name; the task's by default.
        scans: real scans for the parity check; without them smooth random inputs are used, and the manifest says so.
        compact: round the weights and pack the graphs (about a quarter of the size): the mean movement of points to
            aim at, voxels; None stores FP32.
        provenance: data, licence and training notes for the manifest.
        say: receives one line per step.

    Raises:
        BundleError: if ``out`` is in use, or a graph differs from PyTorch by more than the tolerance.
    """
    task = checkpoint.task
    nets = {graph: folded(net) for graph, net in checkpoint.nets.items()}
    facts = {"training": _training(checkpoint), "provenance": provenance or {}}
    with _new_folder(out) as staging:
        text = task.to_yaml()
        _write(staging, name or task.name, task, text, checkpoint.mean_shape, nets, scans, compact, facts, say)
    return open_bundle(out)


@usual_defaults()
def renew_bundle(
    old: Bundle,
    out: Path,
    *,
    scans: Sequence[Scan] = (),
    compact: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Bundle:
    """Write a bundle again, with what this version of the toolkit adds: graphs in their form for the CPU.

    The plain graphs stay as they are to the bit, and so does what they compute, unless their weights are to be rounded.
    Builds are not taken along.

    Args:
        old: the bundle.
        out: folder to make; must not exist yet or be an empty folder.
        scans: real scans for the parity check; without them smooth random inputs are used.
        compact: as in :func:`export_bundle`; None keeps how the weights are stored.
        say: receives one line per step.

    Raises:
        BundleError: if ``out`` is in use, or the graphs do not hold the weights of the task's nets.
        EngineError: if a graph differs from PyTorch by more than the tolerance.
    """
    nets = {graph: folded(net) for graph, net in nets_from_bundle(old, scans).items()}
    if old.manifest.get("weights_storage") == "fp16":  # folding may have moved them by a rounding
        nets = {graph: rounded_to_half(net) for graph, net in nets.items()}
    written = ("format", "name", "graphs", "cpu_graphs", "mean_shape_mm", "packed", "files")
    facts = {key: value for key, value in old.manifest.items() if key not in written}
    text = (old.root / "task.yaml").read_text(encoding="utf-8")
    with _new_folder(out) as staging:
        if CONFIDENCE in old.manifest["files"]:
            shutil.copyfile(old.root / CONFIDENCE, staging / CONFIDENCE)
        if compact is None:
            _write_same(staging, old, text, nets, scans, facts, say)
        else:
            _write(staging, old.name, old.task, text, old.mean_shape, nets, scans, compact, facts, say)
    return open_bundle(out)


def _write_same(
    staging: Path,
    old: Bundle,
    text: str,
    nets: Mapping[str, nn.Module],
    scans: Sequence[Scan],
    facts: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    """The same plain graphs, stored as they were; forms for the CPU and manifest are written anew."""
    graphs = dict(old.manifest["graphs"])
    for file in graphs.values():
        (staging / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(old.graphs_root / file, staging / file)
    inputs = _inputs(Localizer(old.task, old.mean_shape, TorchEngine(nets)), scans)
    cpu_graphs = _add_cpu_graphs(staging, old.task, nets, graphs, inputs, facts, say)
    packed = None
    if old.packed:
        stored = {file: (old.root / old.packed[file]["file"]).read_bytes() for file in graphs.values()}
        weights = {file: read_packed(content)[1] for file, content in stored.items()}
        packed = pack_graphs(staging, [*graphs.values(), *cpu_graphs.values()], weights)
    write_bundle(staging, old.name, text, old.mean_shape, graphs, cpu_graphs, facts, packed)


def _write(
    staging: Path,
    name: str,
    task: Task,
    text: str,
    mean_shape: Floats,
    nets: dict[str, nn.Module],
    scans: Sequence[Scan],
    compact: float | None,
    facts: dict[str, Any],
    say: Callable[[str], None],
) -> None:
    """Export nets into a folder, check the graphs, and write the manifest."""
    inputs = _inputs(Localizer(task, mean_shape, TorchEngine(nets)), scans)
    rounding: dict[str, Any] = {}
    rounded: dict[str, RoundedNet] = {}
    if compact is not None:
        rounded = round_nets(task, nets, inputs, compact, say)
        moved = movement_of_points(task, mean_shape, nets, rounded, inputs, scans)
        rounding = {"rounding_of_weights": {"aim_voxel": compact, **moved}}
        nets = {graph: net.net for graph, net in rounded.items()}
    (staging / "graphs").mkdir()
    graphs = {graph: f"graphs/{graph_file(graph)}" for graph in nets}
    for graph, shape in input_shapes(task).items():
        say(f"exporting {graph}")
        export_graph(nets[graph], graph, shape, staging / graphs[graph])
    say("comparing with PyTorch")
    report = parity(nets, {graph: staging / file for graph, file in graphs.items()}, task, inputs)
    for line in unjudged(report):
        say(line)
    facts |= {
        "precision": "fp32",
        "opset": OPSET,
        "weights_storage": "fp32" if compact is None else "packed",
        "parity": {"against": "PyTorch FP32", "on": _described(scans), **report, **rounding},
        "versions": _versions(),
    }
    cpu_graphs = _add_cpu_graphs(staging, task, nets, graphs, inputs, facts, say)
    packed = None
    if rounded:
        weights = {file: weight_offsets(staging / file, rounded[graph].weights) for graph, file in graphs.items()}
        packed = pack_graphs(staging, [*graphs.values(), *cpu_graphs.values()], weights)
    write_bundle(staging, name, text, mean_shape, graphs, cpu_graphs, facts, packed)


def _add_cpu_graphs(
    root: Path,
    task: Task,
    nets: Mapping[str, nn.Module],
    graphs: Mapping[str, str],
    inputs: Inputs,
    facts: dict[str, Any],
    say: Callable[[str], None],
) -> dict[str, str]:
    """Write the graphs that have a form for the CPU, check them, and note that; graph name to file."""
    shapes, files = input_shapes(task), {}
    for graph, net in nets.items():
        say(f"exporting {graph} for the CPU")
        file = write_cpu_graph(net, graph, shapes[graph], root / graphs[graph])
        if file != root / graphs[graph]:
            files[graph] = str(file.relative_to(root))
    report = parity(nets, {graph: root / file for graph, file in files.items()}, task, inputs)
    facts["parity"] = {**facts["parity"], "cpu_form": report}
    return files


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``out`` at the end if it is a whole bundle then."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out}: already exists.", "Name a new folder, or remove this one first.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise BundleError(f"{out}: cannot be written: {error.strerror}.", "Name a folder you may write to.") from None
    try:
        yield staging
        open_bundle(staging)
        if out.exists():
            out.rmdir()
        staging.chmod(0o755)
        staging.rename(out)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BundleError(f"{out}: cannot be written: {reason}.", "Free space, or name another folder.") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _inputs(localizer: Localizer, scans: Sequence[Scan]) -> Inputs:
    return real_inputs(localizer, scans) if scans else random_inputs(localizer.task, 5)


def _described(scans: Sequence[Scan]) -> Any:
    return [scan.id for scan in scans] if scans else "smooth random inputs"


def _versions() -> dict[str, str]:
    return {
        "trt_landmarks": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _training(checkpoint: Checkpoint) -> dict[str, Any]:
    kept = ("versions", "seed", "settings", "split", "metrics")
    return {key: checkpoint.record[key] for key in kept if key in checkpoint.record}
