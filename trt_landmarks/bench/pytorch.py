"""What the processes of PyTorch are given: nets, inputs to try them on, and the variants that proved fastest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks.bench.child import Child
from trt_landmarks.bench.measure import Say
from trt_landmarks.bench.ways import NETS_FILE, Spec
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.errors import EngineError
from trt_landmarks.scan import Scan

#: Seconds for a trial without ``torch.compile``.
PATIENCE = 120.0


def prepare_nets(bundle: Bundle, scan: Scan, folder: Path, run: Path | None = None) -> None:
    """Write the nets for the processes of PyTorch, and inputs to try them on.

    :data:`~trt_landmarks.bench.ways.NETS_FILE`: their weights, as trained; ``inputs.npz``.

    Args:
        bundle: the model.
        scan: a real scan, for the inputs.
        folder: where the files go.
        run: training run whose nets are taken; None takes them from the bundle's graphs.

    Raises:
        BundleError: if the graphs do not give the nets.
        CheckpointError: if the run cannot be read.
        EngineError: if the run is of another task.
        ModuleNotFoundError: if a package is missing.
    """
    import torch
    from safetensors.torch import save_file

    from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
    from trt_landmarks.export.parity import real_inputs
    from trt_landmarks.localization.localizer import Localizer

    if run is not None:
        from trt_landmarks.training.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(run)
        if checkpoint.task != bundle.task:
            raise EngineError(f"{run}: is of another task than the model {bundle.name}.", "Name the run it came from.")
        nets = checkpoint.nets
    else:
        from trt_landmarks.export.weights import nets_from_bundle

        nets = nets_from_bundle(bundle, [scan])
    weights: dict[str, torch.Tensor] = {}
    for graph, net in nets.items():
        weights |= {f"{graph}/{name}": value.contiguous() for name, value in net.state_dict().items()}
    save_file(weights, folder / NETS_FILE)
    localizer = Localizer(bundle.task, bundle.mean_shape, OnnxRuntimeEngine(bundle.graphs))
    np.savez(folder / "inputs.npz", **real_inputs(localizer, [scan]))  # type: ignore[arg-type]


def choose_variants(spec: Spec, graphs: Sequence[str], folder: Path, limit: float, say: Say) -> list[dict[str, Any]]:
    """Try PyTorch's variants net by net, in processes that are ended if they take too long.

    Args:
        spec: of the way that the variants are for.
        graphs: names of the nets.
        folder: what :func:`prepare_nets` wrote.
        limit: seconds for all trials of ``torch.compile`` together.
        say: receives what was taken.

    Returns:
        All trials, one of each net ``taken``; those that failed have a ``problem``.

    Raises:
        EngineError: if nothing runs a net.
    """
    from trt_landmarks.bench.best import VARIANTS, Variant, fastest

    trials: dict[str, list[dict[str, Any]]] = {graph: [] for graph in graphs}
    child = _ready(spec, folder)

    def attempt(graph: str, variant: Variant, seconds: float) -> None:
        nonlocal child
        if child.gone:
            child = _ready(spec, folder)
        order = {"graph": graph, "variant": asdict(variant), "inputs": str(folder / "inputs.npz")}
        try:
            found = child.ask({"trial": order}, seconds)
        except EngineError as error:
            found = {"graph": graph, "variant": asdict(variant), "name": variant.name, "agrees": False,
                     "problem": error.message}  # fmt: skip
        trials[graph].append({**found, "taken": False})

    try:
        for graph in graphs:
            for variant in VARIANTS:
                attempt(graph, variant, PATIENCE)
        left = limit
        for graph in graphs:
            start = time.perf_counter()
            if left >= 1:
                attempt(graph, replace(Variant(**fastest(trials[graph])["variant"]), compiled=True), left)
            else:
                trials[graph].append({"graph": graph, "variant": asdict(Variant(compiled=True)), "name": "compiled",
                                      "agrees": False, "taken": False, "problem": "no time was left"})  # fmt: skip
            left -= time.perf_counter() - start
    finally:
        child.close()
    for graph in graphs:
        taken = fastest(trials[graph])
        next(one for one in trials[graph] if one is taken)["taken"] = True
        say(f"torch-best, {graph}: {taken['name']} ({taken['ms']:.0f} ms)")
    return [one for graph in graphs for one in trials[graph]]


def _ready(spec: Spec, folder: Path) -> Child:
    child = Child(spec, folder)
    child.open(trial_only=True)
    return child
