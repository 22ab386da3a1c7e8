"""Which layers a low-precision graph loses its accuracy in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, load

from trt_landmarks.calibration.graph import expose, learned_nodes, load_net
from trt_landmarks.engines.emulation import emulate

#: Layers to name.
WORST = 3


def layers_to_blame(graph: Path, lowered: Path, inputs: NDArray[np.float32]) -> list[dict[str, Any]]:
    """The learned layers that add most error on given inputs, worst first.

    Error is the root mean square difference from FP32 of what a layer gives, relative to what FP32 gives.  A layer
    is blamed for what it adds to the error of the layers before it; one that overflows adds infinity.

    Args:
        graph: the FP32 graph.
        lowered: the graph made from it.
        inputs: ``[count, ...]``; a few are enough.

    Returns:
        Plain data per layer: ``node``, ``operator``, ``error`` and ``added``.
    """
    net = load_net(graph)
    nodes = learned_nodes(net)
    tensors = [node.output[0] for node in nodes]
    exact = _run(net, tensors, inputs)
    low = load(lowered)
    given = {node.name: node.output[0] for node in low.graph.node}
    renamed = [given.get(node.name, "") for node in nodes]
    coarse = _run(emulate(low), [name for name in renamed if name], inputs)
    error: dict[str, float] = {}
    found: list[dict[str, Any]] = []
    before = _learned_before(net)
    for node, tensor, name in zip(nodes, tensors, renamed, strict=True):
        if not name:
            continue
        with np.errstate(invalid="ignore", over="ignore"):
            difference = float(np.sqrt(np.mean((coarse[name] - exact[tensor]) ** 2)))
        relative = difference / max(float(np.sqrt(np.mean(exact[tensor] ** 2))), 1e-12)
        error[node.name] = relative if np.isfinite(relative) else np.inf
        inherited = max((error.get(other, 0.0) for other in before[node.name]), default=0.0)
        added = (error[node.name] ** 2 - inherited**2) ** 0.5 if error[node.name] > inherited else 0.0
        found.append({
            "node": node.name, "operator": node.op_type, "error": round(error[node.name], 5), "added": round(added, 5)
        })  # fmt: skip
    return sorted(found, key=lambda layer: -layer["added"])[:WORST]


def _run(model: ModelProto, tensors: list[str], inputs: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = expose(model, tensors).SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (value,) = session.get_inputs()
    found = session.run(tensors, {value.name: np.asarray(inputs, dtype=np.float32)})
    return dict(zip(tensors, found, strict=True))


def _learned_before(net: ModelProto) -> dict[str, set[str]]:
    """For every learned node the learned nodes whose output reaches it through others."""
    learned = {node.name for node in learned_nodes(net)}
    sources: dict[str, set[str]] = {}  # tensor -> the learned nodes it comes from
    before: dict[str, set[str]] = {}
    for node in net.graph.node:
        merged = set().union(*(sources.get(name, set()) for name in node.input))
        if node.name in learned:
            before[node.name] = merged
            merged = {node.name}
        sources.update(dict.fromkeys(node.output, merged))
    return before
