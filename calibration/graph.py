"""What calibration asks of an ONNX graph: where the net ends and decoding begins, and what its convolutions cost.

Decoding never enters low precision: coordinates of one patch differ in the third digit, where FP16 ends.  Its border is
found in the graph's structure: walking back from the outputs, it is everything behind the last learned layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper, shape_inference

from trt_landmarks.errors import EngineError

#: What the names of the nodes that stay in FP32 begin with.
DECODING = "decoding/"
#: Operators with learned weights.
LEARNED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def load_net(path: Path) -> ModelProto:
    """An FP32 graph with FP32 weights, unique node names and its decoding marked.

    Raises:
        EngineError: if the border of decoding is not found.
    """
    model = onnx.load(path)
    fold_half_weights(model)
    mark_decoding(model, path.name)
    return model


def fold_half_weights(model: ModelProto) -> int:
    """Replace FP16 weights behind a Cast to FP32 by FP32 weights, in place; returns how many."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    casts = [
        node
        for node in model.graph.node
        if node.op_type == "Cast" and node.input[0] in stored and node.attribute[0].i == TensorProto.FLOAT
    ]
    for node in casts:
        array = numpy_helper.to_array(stored[node.input[0]]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for name in {node.input[0] for node in casts} - used:
        model.graph.initializer.remove(stored[name])
    return len(casts)


def mark_decoding(model: ModelProto, where: str = "graph") -> int:
    """Name every node uniquely, the decoding's with :data:`DECODING` in front, in place; returns their number.

    Decoding is what lies between the outputs and the last learned layers.  A learned layer is a convolution that
    mixes channels or has extent in more than one axis or in none: the decoding's own convolutions smooth one
    channel along one axis.  A matrix product in front of the outputs gives coordinates itself, so it belongs to
    decoding.

    Raises:
        EngineError: if a way back from an output reaches the graph's input without meeting a learned layer.
    """
    graph = model.graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    inputs = {value.name for value in graph.input}
    chosen: dict[int, NodeProto] = {}
    names = [value.name for value in graph.output]
    while names:
        name = names.pop()
        if name in inputs:
            raise EngineError(
                f"{where}: there is no learned layer between input {name} and an output, so there is no telling "
                "what must stay in FP32.",
                "Export the bundle again with this version.",
            )
        node = producers.get(name)
        if node is None or id(node) in chosen:
            continue
        if node.op_type in ("Conv", "ConvTranspose") and not _smooths(node, weights):
            continue
        chosen[id(node)] = node
        if node.op_type not in ("Gemm", "MatMul"):
            names.extend(n for n in node.input if n)
    for number, node in enumerate(graph.node):
        base = f"{node.name or node.op_type}.{number}"
        node.name = DECODING + base if id(node) in chosen else base
    return len(chosen)


def _smooths(node: NodeProto, weights: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a convolution smooths single channels along one axis."""
    shape = weights.get(node.input[1])
    return shape is not None and shape[:2] == (1, 1) and sum(n > 1 for n in shape[2:]) == 1


def conv_flops(model: ModelProto) -> dict[str, int]:
    """Multiplications and additions of every convolution for one input, by node name."""
    graph = shape_inference.infer_shapes(model).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.value_info, *graph.output)}
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    flops = {}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in weights and node.output[0] in shapes:
            space = int(np.prod(shapes[node.output[0]][2:]))
            flops[node.name] = 2 * int(np.prod(weights[node.input[1]])) * space
    return flops


def learned_nodes(model: ModelProto) -> list[NodeProto]:
    """The net's learned layers, in order of computation."""
    return [n for n in model.graph.node if n.op_type in LEARNED and not n.name.startswith(DECODING)]


def expose(model: ModelProto, tensors: Sequence[str]) -> ModelProto:
    """A copy of a model that gives further tensors as outputs."""
    watched = ModelProto()
    watched.CopyFrom(model)
    present = {value.name for value in model.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in present)
    return watched
