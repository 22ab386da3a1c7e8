"""``trtlm export``: a checkpoint becomes a bundle of ONNX graphs, checked against PyTorch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import torch

from trt_landmarks import __version__
from trt_landmarks.bundle import Bundle, open_bundle, write_bundle
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.errors import BundleError, EngineError
from trt_landmarks.export.cpu_graphs import write_cpu_graph
from trt_landmarks.export.onnx_graphs import OPSET, export_graph, store_half
from trt_landmarks.export.parity import FP32_TOLERANCE_VOXEL, compare, input_shapes, random_inputs, real_inputs
from trt_landmarks.localizer import Localizer
from trt_landmarks.nets.folding import folded, rounded_to_half
from trt_landmarks.scan import Scan
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
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out}: already exists.", "Name a new folder, or remove this one first.")
    task = checkpoint.task
    original = {graph: folded(net) for graph, net in checkpoint.nets.items()}
    nets = {graph: rounded_to_half(net) for graph, net in original.items()} if half_storage else original
    localizer = Localizer(task, checkpoint.mean_shape, TorchEngine(nets))
    shapes = input_shapes(task)
    inputs = real_inputs(localizer, scans) if scans else random_inputs(task, 5)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise BundleError(f"{out}: cannot be written: {error.strerror}.", "Name a folder you may write to.") from None
    try:
        (staging / "graphs").mkdir()
        graphs, cpu_graphs = {}, {}
        for graph, net in nets.items():
            say(f"exporting {graph}")
            graphs[graph] = f"graphs/{graph}.onnx"
            export_graph(net, graph, shapes[graph], staging / graphs[graph])
            if half_storage:
                store_half(staging / graphs[graph])
            file = write_cpu_graph(net, graph, shapes[graph], staging / graphs[graph])
            if file != staging / graphs[graph]:
                cpu_graphs[graph] = f"graphs/{file.name}"
        say("comparing with PyTorch")
        reference = TorchEngine(nets)
        engine = OnnxRuntimeEngine({graph: staging / file for graph, file in graphs.items()})
        parity = compare(reference, engine, task, inputs)
        _check(parity)
        on_cpu = OnnxRuntimeEngine({graph: staging / file for graph, file in cpu_graphs.items()})
        cpu_parity = compare(reference, on_cpu, task, {graph: inputs[graph] for graph in cpu_graphs})
        _check(cpu_parity)
        facts: dict[str, Any] = {
            "precision": "fp32",
            "opset": OPSET,
            "weights_storage": "fp16" if half_storage else "fp32",
            "parity": {"against": "PyTorch FP32", "on": _described(scans), **parity, "cpu_form": cpu_parity},
            "versions": _versions(),
            "training": _training(checkpoint),
            "provenance": provenance or {},
        }
        if half_storage:
            rounding = compare(TorchEngine(original), engine, task, inputs, batches=(1,))
            facts["parity"]["rounding_of_weights"] = rounding
        write_bundle(staging, name or task.name, task.to_yaml(), checkpoint.mean_shape, graphs, cpu_graphs, facts)
        open_bundle(staging)
        if out.exists():
            out.rmdir()
        staging.chmod(0o755)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return open_bundle(out)


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
