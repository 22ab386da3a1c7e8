"""Which layers a low-precision graph loses its accuracy in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, load

from trt_landmarks.calibration.graph import expose, learned_nodes, load_net
from trt_landmarks.engines.emulation import emulate

#: Layers to name.
WORST = 3

Tensors = Mapping[str, NDArray[np.float32]]


def layers_to_blame(graph: Path, lowered: Path, inputs: NDArray[np.float32]) -> list[dict[str, Any]]:
    """The learned layers that add most error on given inputs, worst first.

    Every layer is given what the layers before it give in FP32, so that it is blamed for its own error alone: later
    layers can enlarge an error that is not theirs.  Error is the root mean square difference of what the layer gives,
    relative to what FP32 gives; infinity if it overflows.

    Args:
        graph: the FP32 graph.
        lowered: the graph made from it.
        inputs: ``[count, ...]``; a few are enough.

    Returns:
        Plain data per layer: ``node``, ``operator`` and ``added``, its error.
    """
    net, low = load_net(graph), load(lowered)
    (value,) = net.graph.input
    given = {node.name: node.output[0] for node in low.graph.node}
    nodes = [node for node in learned_nodes(net) if node.name in given]
    exact = _run(net, [node.output[0] for node in nodes], {value.name: inputs})
    feeds = {given[node.name]: exact[node.output[0]] for node in nodes}
    own = _run(_apart(emulate(low), list(feeds)), [f"{name}/own" for name in feeds], {value.name: inputs, **feeds})
    found: list[dict[str, Any]] = []
    for node in nodes:
        expected, got = exact[node.output[0]], own[f"{given[node.name]}/own"]
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.sqrt(np.mean((got - expected) ** 2))
        added = float(difference / max(np.sqrt(np.mean(expected**2)), 1e-12))
        added = round(added, 5) if np.isfinite(added) else np.inf
        found.append({"node": node.name, "operator": node.op_type, "added": added})
    return sorted(found, key=lambda layer: -layer["added"])[:WORST]


def _apart(model: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """A model that takes some of its tensors as inputs, and what it would give for them itself is ``<name>/own``."""
    for node in model.graph.node:
        for position, name in enumerate(node.output):
            if name in tensors:
                node.output[position] = f"{name}/own"
    model.graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    return model


def _run(model: ModelProto, tensors: Sequence[str], feeds: Tensors) -> dict[str, NDArray[np.float32]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = expose(model, tensors).SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found = session.run(tensors, {name: np.asarray(array, dtype=np.float32) for name, array in feeds.items()})
    return dict(zip(tensors, found, strict=True))
