"""How far an engine's numbers are from PyTorch's, on real patches, in voxels and in mm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from trt_landmarks.engines.base import Engine
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.errors import EngineError
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.nets.decoding import HeatmapDecoder, SliceDecoder
from trt_landmarks.scan import Scan
from trt_landmarks.task.graphs import COARSE, input_shapes
from trt_landmarks.task.task import Task

#: Batches at which graphs are compared.
BATCHES = (1, 2, 5)
#: Largest allowed difference of a position between an FP32 graph and PyTorch, in voxels of its grid.
FP32_TOLERANCE_VOXEL = 1e-3
#: Largest allowed difference of a heatmap, of its largest value or 1: FP32's rounding makes about a tenth of it.
HEATMAP_TOLERANCE = 5e-5
#: Random changes, each in both directions, that a peak must stand.
PERTURBATIONS = 3

Inputs = Mapping[str, NDArray[np.float32]]
Flags = NDArray[np.bool_]


def real_inputs(localizer: Localizer, scans: Sequence[Scan]) -> Inputs:
    """The nets' inputs on real scans, patches about the coarse net's own points: graph name to ``[scans, ...]``."""
    collected: dict[str, list[np.ndarray]] = {}
    for scan in scans:
        volume = localizer.coarse_volume(scan)
        (offsets,) = localizer.engine.run(COARSE, volume[None])
        points = scan.geometry.centre + offsets[0].astype(np.float64)
        for graph, array in {COARSE: volume, **localizer.patches(scan, points)}.items():
            collected.setdefault(graph, []).append(array)
    return {graph: np.stack(arrays) for graph, arrays in collected.items()}


def random_inputs(task: Task, count: int, seed: int = 0) -> Inputs:
    """Smooth random inputs, for a parity check without scans: graph name to ``[count, ...]``."""
    rng = np.random.default_rng(seed)
    inputs = {}
    for graph, shape in input_shapes(task).items():
        noise = rng.random((count, *shape), dtype=np.float32)
        for axis in (-1, -2, -3):
            noise = ((noise + np.roll(noise, 1, axis) + np.roll(noise, -1, axis)) / 3).astype(np.float32)
        inputs[graph] = noise
    return inputs


def parity(
    nets: Mapping[str, nn.Module],
    files: Mapping[str, Path],
    task: Task,
    inputs: Inputs,
    batches: Sequence[int] = BATCHES,
    allowed: float = FP32_TOLERANCE_VOXEL,
) -> dict[str, dict[str, Any]]:
    """Compare FP32 graphs with the nets they were made from.

    A position is compared where its heatmap has a peak: where differences as large as a graph's may be do not move it.
    Everywhere else, as in the flat heatmaps of a net that has hardly been trained, the maximum lies anywhere.  The
    heatmaps themselves are compared for all.

    Returns:
        :func:`compare`'s figures; for fine graphs also ``max_heatmap``, the largest difference of heatmaps (relative
        to their largest value where that is above 1), ``positions``, and ``judged``, how many of them have a peak.

    Raises:
        EngineError: naming the graph whose positions or heatmaps differ by more than allowed.
    """
    seen = {graph: _seen(nets[graph], arrays) for graph, arrays in inputs.items() if graph in files and graph != COARSE}
    judged = {graph: _peaks(nets[graph], heatmaps, task) for graph, heatmaps in seen.items()}
    chosen = {graph: inputs[graph] for graph in files}
    report: dict[str, dict[str, Any]] = compare(
        TorchEngine(nets), OnnxRuntimeEngine(files), task, chosen, batches, judged
    )
    for graph, heatmaps in seen.items():
        differences = [0.0]
        for expected, got in zip(heatmaps, _heatmaps_of(files[graph], inputs[graph]), strict=True):
            apart = np.abs(expected - got.reshape(expected.shape)).max()
            differences.append(float(apart / max(1.0, np.abs(expected).max())))
        peaks = judged[graph][0]
        report[graph] |= {
            "max_heatmap": round(max(differences), 8), "positions": peaks.size, "judged": int(peaks.sum())
        }  # fmt: skip
    for graph, figures in report.items():
        for name, limit, unit in (
            ("max_voxel", allowed, "voxel"),
            ("max_key_slice_mm", allowed, "mm (key slice)"),
            ("max_heatmap", HEATMAP_TOLERANCE, "of a heat map's height"),
        ):
            if name in figures and not figures[name] <= limit:
                raise EngineError(
                    f"{graph}: the ONNX graph differs from PyTorch by {figures[name]:.2g} {unit} (allowed: {limit:g}).",
                    "Nothing was written. Please report the task file and the versions of torch, onnx and onnxruntime.",
                    code="parity_failed",
                )
    return report


def unjudged(report: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence for each graph of which a large part could not be judged by positions."""
    return [
        f"{graph}: only {figures['judged']} of {figures['positions']} heat maps have a peak, the others were compared "
        "as a whole: the model is hardly trained, or the inputs are not its scans (--scans)"
        for graph, figures in report.items()
        if 2 * figures.get("judged", 0) < figures.get("positions", 0)
    ]


def _seen(net: nn.Module, arrays: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """What a fine net's decoders take: heatmaps ``[inputs, L, Z, Y, X]`` and, with a slice branch, ``[inputs, D]``."""
    seen: list[list[NDArray[np.float32]]] = []
    hooks = []
    for decoder in _decoders(net):
        taken: list[NDArray[np.float32]] = []
        hooks.append(decoder.register_forward_pre_hook(lambda _, x, taken=taken: taken.append(x[0].numpy())))
        seen.append(taken)
    try:
        with torch.inference_mode():
            for array in arrays:
                net(torch.from_numpy(array[None]))
    finally:
        for hook in hooks:
            hook.remove()
    return [np.concatenate(taken) for taken in seen]


def _decoders(net: nn.Module) -> list[nn.Module]:
    return [part for part in net.modules() if isinstance(part, (HeatmapDecoder, SliceDecoder))]


def _peaks(net: nn.Module, heatmaps: Sequence[NDArray[np.float32]], task: Task) -> list[Flags]:
    """Which positions ``[inputs, L]`` and key slices ``[inputs]`` small changes of the heatmaps do not move."""
    flags: list[Flags] = []
    random = torch.Generator().manual_seed(0)
    for decoder, values in zip(_decoders(net), heatmaps, strict=True):
        whole = torch.from_numpy(values)
        size = HEATMAP_TOLERANCE * max(1.0, float(whole.abs().max()))

        def places(maps: torch.Tensor, decoder: nn.Module = decoder) -> torch.Tensor:
            found = decoder(maps)
            return found if isinstance(found, torch.Tensor) else found[0]

        with torch.inference_mode():
            old = places(whole)
            steady = torch.ones(old.shape, dtype=torch.bool)
            for _ in range(PERTURBATIONS):
                change = size * (2 * torch.randint(2, whole.shape, generator=random) - 1)
                for sign in (1, -1):
                    steady &= (places(whole + sign * change) - old).abs() <= FP32_TOLERANCE_VOXEL
        flags.append(np.asarray((steady if steady.ndim == 1 else steady.all(dim=-1)).numpy()))
    return flags


def _heatmaps_of(file: Path, arrays: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The heatmaps within a graph, in the order and number of values of :func:`_seen`."""
    model = onnx.load(file)
    names = _heatmap_tensors(model)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (value,) = session.get_inputs()
    parts = [session.run(names, {value.name: array[None]}) for array in arrays]
    return [np.concatenate(maps) for maps in zip(*parts, strict=True)]


def _heatmap_tensors(model: onnx.ModelProto) -> list[str]:
    """What a graph searches for its maxima, before it is smoothed: 3D heatmaps first."""
    producers = {name: node for node in model.graph.node for name in node.output}
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    found: dict[str, int] = {}
    for search in (node for node in model.graph.node if node.op_type == "ArgMax"):
        name, rank = search.input[0], 0
        while (node := producers.get(name)) is not None:
            kernel = stored.get(node.input[1], ()) if node.op_type == "Conv" else ()
            smooths = kernel[:2] == (1, 1) and sum(n > 1 for n in kernel[2:]) == 1
            if node.op_type not in ("Reshape", "Squeeze", "Unsqueeze", "Flatten") and not smooths:
                break
            name, rank = node.input[0], max(rank, len(kernel))
        found[name] = rank
    return sorted(found, key=lambda name: -found[name])


def compare(
    reference: Engine,
    engine: Engine,
    task: Task,
    inputs: Inputs,
    batches: Sequence[int] = BATCHES,
    judged: Mapping[str, Sequence[Flags]] | None = None,
) -> Any:
    """Compare two engines graph by graph, at several batch sizes.

    Args:
        judged: graph name to which of its positions ``[inputs, L]`` and key slices ``[inputs]`` to compare; all by
            default.

    Returns:
        Plain data: per graph the largest and mean difference of positions in voxels of the graph's grid and in
        mm, the largest difference of confidences and of key slices, and the number of inputs and the batches used.
    """
    report = {}
    for graph, arrays in inputs.items():
        spacing = np.asarray(task.coarse.spacing_mm if graph == COARSE else task.fine.spacing_mm)
        mm, voxels, confidence, slices = [], [], [0.0], [0.0]
        flags = (judged or {}).get(graph, ())
        for batch in batches:
            for start in range(0, len(arrays), batch):
                # Begin again where the inputs end, so that every batch has its full size.
                index = np.arange(start, start + batch) % len(arrays)
                expected, got = reference.run(graph, arrays[index]), engine.run(graph, arrays[index])
                difference = np.abs(expected[0].astype(np.float64) - got[0])
                chosen = [flag[index] for flag in flags] or [np.ones(x.shape, bool) for x in expected[1:]]
                points = chosen[0] if chosen else np.ones(difference.shape[:2], bool)
                mm.append(np.linalg.norm(difference, axis=-1)[points])
                voxels.append((difference / spacing).max(axis=-1)[points])
                for figures, flag, old, new in zip((confidence, slices), chosen, expected[1:], got[1:], strict=False):
                    figures.append(float(np.abs(old - new)[flag].max(initial=0)))
        distance, steps = np.concatenate(mm), np.concatenate(voxels)
        report[graph] = {
            "max_voxel": round(float(steps.max(initial=0)), 7),
            "mean_voxel": round(float(steps.mean()) if len(steps) else 0.0, 7),
            "max_mm": round(float(distance.max(initial=0)), 7),
            "mean_mm": round(float(distance.mean()) if len(distance) else 0.0, 7),
            "max_confidence": round(max(confidence), 7),
            "max_key_slice_mm": round(max(slices), 7),
            "inputs": len(arrays),
            "batches": list(batches),
        }
    return report
