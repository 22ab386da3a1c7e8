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
from trt_landmarks.bundles.bundle import Bundle, open_bundle, write_bundle
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.errors import BundleError, EngineError
from trt_landmarks.export.cpu_graphs import write_cpu_graph
from trt_landmarks.export.onnx_graphs import OPSET, export_graph, store_half
from trt_landmarks.export.parity import FP32_TOLERANCE_VOXEL, Inputs, compare, random_inputs, real_inputs
from trt_landmarks.export.weights import nets_from_bundle
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.nets.folding import folded, rounded_to_half
from trt_landmarks.scan import Scan
from trt_landmarks.task.graphs import input_shapes
from trt_landmarks.task.task import Task
from trt_landmarks.training.checkpoint import Checkpoint


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    name: str | None = None,
    scans: Sequence[Scan] = (),
    half_storage: bool = False,
    provenance: dict[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Bundle:
    """Write a bundle.

    Args:
        checkpoint: a finished training.
        out: folder to make; must not exist yet or be an empty folder.
        name: the model's name; the task's by default.
        scans: real scans for the parity check; without them smooth random inputs are used, and the manifest says so.
        half_storage: store the large weights in FP16 (half the size; they are rounded once, before the check).
        provenance: data, licence and training notes for the manifest.
        say: receives one line per step.

    Raises:
        BundleError: if ``out`` is in use, or a graph differs from PyTorch by more than the tolerance.
    """
    task = checkpoint.task
    original = {graph: folded(net) for graph, net in checkpoint.nets.items()}
    nets = {graph: rounded_to_half(net) for graph, net in original.items()} if half_storage else original
    inputs = _inputs(Localizer(task, checkpoint.mean_shape, TorchEngine(nets)), scans)
    with _new_folder(out) as staging:
        (staging / "graphs").mkdir()
        graphs = {graph: f"graphs/{graph}.onnx" for graph in nets}
        shapes = input_shapes(task)
        for graph, net in nets.items():
            say(f"exporting {graph}")
            export_graph(net, graph, shapes[graph], staging / graphs[graph])
            if half_storage:
                store_half(staging / graphs[graph])
        say("comparing with PyTorch")
        engine = OnnxRuntimeEngine({graph: staging / file for graph, file in graphs.items()})
        parity = compare(TorchEngine(nets), engine, task, inputs)
        _check(parity)
        facts: dict[str, Any] = {
            "precision": "fp32",
            "opset": OPSET,
            "weights_storage": "fp16" if half_storage else "fp32",
            "parity": {"against": "PyTorch FP32", "on": _described(scans), **parity},
            "versions": _versions(),
            "training": _training(checkpoint),
            "provenance": provenance or {},
        }
        if half_storage:
            rounding = compare(TorchEngine(original), engine, task, inputs, batches=(1,))
            facts["parity"]["rounding_of_weights"] = rounding
        cpu_graphs = _add_cpu_graphs(staging, task, nets, graphs, inputs, facts, say)
        write_bundle(staging, name or task.name, task.to_yaml(), checkpoint.mean_shape, graphs, cpu_graphs, facts)
    return open_bundle(out)


def renew_bundle(
    old: Bundle, out: Path, *, scans: Sequence[Scan] = (), say: Callable[[str], None] = lambda text: None
) -> Bundle:
    """Write a bundle again, with what this version of the toolkit adds: graphs in their form for the CPU.

    The plain graphs stay as they are to the bit, and so does what they compute.  Builds are not taken along.

    Args:
        old: the bundle.
        out: folder to make; must not exist yet or be an empty folder.
        scans: real scans for the parity check; without them smooth random inputs are used.
        say: receives one line per step.

    Raises:
        BundleError: if ``out`` is in use, or the graphs do not hold the weights of the task's nets.
        EngineError: if a graph differs from PyTorch by more than the tolerance.
    """
    task, graphs = old.task, dict(old.manifest["graphs"])
    nets = {graph: folded(net) for graph, net in nets_from_bundle(old, scans).items()}
    if old.manifest.get("weights_storage") == "fp16":  # folding may have moved them by a rounding
        nets = {graph: rounded_to_half(net) for graph, net in nets.items()}
    inputs = _inputs(Localizer(task, old.mean_shape, TorchEngine(nets)), scans)
    written = ("format", "name", "graphs", "cpu_graphs", "mean_shape_mm", "files")
    facts = {key: value for key, value in old.manifest.items() if key not in written}
    with _new_folder(out) as staging:
        own = set(old.manifest.get("cpu_graphs", {}).values())
        for file in set(old.manifest["files"]) - own:
            (staging / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(old.root / file, staging / file)
        cpu_graphs = _add_cpu_graphs(staging, task, nets, graphs, inputs, facts, say)
        text = (staging / "task.yaml").read_text(encoding="utf-8")
        write_bundle(staging, old.name, text, old.mean_shape, graphs, cpu_graphs, facts)
    return open_bundle(out)


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
    engine = OnnxRuntimeEngine({graph: root / file for graph, file in files.items()})
    parity = compare(TorchEngine(nets), engine, task, {graph: inputs[graph] for graph in files})
    _check(parity)
    facts["parity"] = {**facts["parity"], "cpu_form": parity}
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
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _inputs(localizer: Localizer, scans: Sequence[Scan]) -> Inputs:
    return real_inputs(localizer, scans) if scans else random_inputs(localizer.task, 5)


def _check(parity: Any) -> None:
    for graph, figures in parity.items():
        if not max(figures["max_voxel"], figures["max_key_slice_mm"]) <= FP32_TOLERANCE_VOXEL:
            raise EngineError(
                f"{graph}: the ONNX graph differs from PyTorch by {figures['max_voxel']:.2g} voxel "
                f"(allowed: {FP32_TOLERANCE_VOXEL:g}).",
                "Nothing was written. Please report the task file and the versions of torch, onnx and onnxruntime.",
            )


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
