"""PyTorch at its best: what it offers to run a net faster, tried on real inputs, taken where it is faster and agrees.

What is tried: channels-last memory, autocast to bfloat16 (CPU) or float16 (GPU), both, and ``torch.compile`` on top of
the fastest.  Batch normalization is folded and inference mode is on in all of them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trt_landmarks.engines.base import Arrays
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.errors import EngineError
from trt_landmarks.export.parity import compare
from trt_landmarks.task.task import Task

#: Runs that are timed for a trial.
RUNS = 3
#: What a variant may deviate from eager FP32, voxels of the net's grid: on the mean and at most.
MEAN_VOXEL, MAX_VOXEL = 0.05, 0.25
#: How much faster ``torch.compile`` has to be, as it takes its time whenever a process starts.
LEAST_GAIN = 1.05


@dataclass(frozen=True)
class Variant:
    """How PyTorch runs a net."""

    channels_last: bool = False
    half: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """For people."""
        parts = {"channels-last": self.channels_last, "half": self.half, "compiled": self.compiled}
        return " ".join(part for part, there in parts.items() if there) or "eager"


#: What is tried before ``torch.compile``.
VARIANTS = (Variant(), Variant(channels_last=True), Variant(half=True), Variant(channels_last=True, half=True))


class TunedTorchEngine:
    """Runs each net by its variant.

    Args:
        nets: graph name to net, in eval mode, folded; they are not changed.
        variants: graph name to variant.
        device: of PyTorch.
    """

    name = "torch"

    def __init__(self, nets: Mapping[str, nn.Module], variants: Mapping[str, Variant], device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.provider = str(self.device)
        self.half = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        self.variants = dict(variants)
        low = any(variant.half for variant in variants.values())
        self.precision = str(self.half).removeprefix("torch.") if low else "fp32"
        self.nets = {}
        for graph, variant in variants.items():
            net = copy.deepcopy(nets[graph]).to(self.device)
            if variant.channels_last:
                net = net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
            self.nets[graph] = torch.compile(net) if variant.compiled else net

    def run(self, graph: str, *arrays: NDArray[np.float32]) -> Arrays:
        variant = self.variants[graph]
        layout = torch.channels_last_3d if variant.channels_last else torch.contiguous_format
        with torch.inference_mode(), torch.autocast(self.device.type, self.half, enabled=variant.half):
            inputs = (torch.from_numpy(array).to(self.device, memory_format=layout) for array in arrays)
            outputs = self.nets[graph](*inputs)
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        return tuple(output.float().cpu().numpy() for output in outputs)


def trial(
    task: Task, graph: str, net: nn.Module, inputs: NDArray[np.float32], variant: Variant, device: str = "cpu"
) -> dict[str, Any]:
    """Time a variant of a net, and compare its results with eager FP32.

    Args:
        task: what is localized.
        graph: the net's name.
        net: in eval mode, folded.
        inputs: ``[scans, C, Z, Y, X]``, run one by one.
        variant: what is tried.
        device: of PyTorch.

    Returns:
        Plain data: ``graph``, ``variant``, ``first_s`` (the first run, with compiling), ``ms`` (median of a run),
        ``mean_voxel``, ``max_voxel`` and whether it ``agrees``.
    """
    engine = TunedTorchEngine({graph: net}, {graph: variant}, device)
    start = time.perf_counter()
    engine.run(graph, inputs[:1])
    first = time.perf_counter() - start
    times = []
    for n in range(RUNS):
        start = time.perf_counter()
        engine.run(graph, inputs[n % len(inputs)][None])
        times.append(1000 * (time.perf_counter() - start))
    reference = TorchEngine({graph: net}, device)
    apart = compare(reference, engine, task, {graph: inputs}, batches=(1,))[graph]
    return {
        "graph": graph,
        "variant": asdict(variant),
        "name": variant.name.replace("half", str(engine.half).removeprefix("torch.")),
        "first_s": round(first, 2),
        "ms": round(float(np.median(times)), 3),
        "mean_voxel": apart["mean_voxel"],
        "max_voxel": apart["max_voxel"],
        "agrees": bool(apart["mean_voxel"] <= MEAN_VOXEL and apart["max_voxel"] <= MAX_VOXEL),
    }


def fastest(trials: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The fastest trial of one net that agrees; a compiled one only if it is faster by :data:`LEAST_GAIN`.

    Raises:
        EngineError: if none agrees that is not compiled.
    """
    agreeing = [one for one in trials if one["agrees"]]
    plain = min((one for one in agreeing if not one["variant"]["compiled"]), key=lambda one: one["ms"], default=None)
    if plain is None:
        raise EngineError(f"PyTorch does not run the net: {'; '.join(one.get('problem', '') for one in trials)}.")
    compiled = [one for one in agreeing if one["variant"]["compiled"] and one["ms"] * LEAST_GAIN <= plain["ms"]]
    return min(compiled, key=lambda one: one["ms"], default=plain)


def choose(
    task: Task, graph: str, net: nn.Module, inputs: NDArray[np.float32], device: str = "cpu", compiled: bool = True
) -> list[dict[str, Any]]:
    """All trials of a net, one of them ``taken``; those that raised have a ``problem``.

    Args:
        task, graph, net, inputs, device: see :func:`trial`.
        compiled: whether ``torch.compile`` is tried on top of the fastest.

    Raises:
        EngineError: if nothing runs the net.
    """

    def attempt(variant: Variant) -> dict[str, Any]:
        try:
            return {**trial(task, graph, net, inputs, variant, device), "taken": False}
        except Exception as error:  # of a kernel or a compiler: the next variant may run
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return {"graph": graph, "variant": asdict(variant), "name": variant.name, "agrees": False, "taken": False,
                    "problem": lines[0]}  # fmt: skip

    trials = [attempt(variant) for variant in VARIANTS]
    if compiled:
        trials.append(attempt(replace(Variant(**fastest(trials)["variant"]), compiled=True)))
    taken = fastest(trials)
    next(row for row in trials if row is taken)["taken"] = True
    return trials
