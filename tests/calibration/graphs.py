"""What the tests of lowered graphs share: what is in them, and running them as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper, shape_inference

from trt_landmarks.calibration.graph import DECODING

#: The layer of the small task's independent net that :class:`Lowered` leaves out of INT8.
LEFT_OUT = "node_Conv_274.5"


@dataclass(frozen=True)
class Lowered:
    """What :func:`~trt_landmarks.calibration.lower.lower` gave, told and said for the small task in INT8."""

    files: dict[str, Path]
    facts: dict[str, Any]
    said: list[str]


def copied(model: ModelProto) -> ModelProto:
    """A model that a test may change."""
    result = ModelProto()
    result.CopyFrom(model)
    return result


def run(model: ModelProto, array: NDArray[np.float32], tensors: Sequence[str] | None = None) -> list[NDArray[Any]]:
    """Outputs of a model of one input, in ONNX Runtime without optimizations."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[NDArray[Any]] = session.run(tensors, {session.get_inputs()[0].name: array})
    return found


def change(model: ModelProto, name: str, values: NDArray[Any]) -> None:
    """Give a stored tensor other values of the same type."""
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    kind = numpy_helper.to_array(tensor).dtype
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(values).astype(kind), name))


def stored(model: ModelProto, name: str) -> NDArray[Any]:
    """The values of a stored tensor."""
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    return numpy_helper.to_array(tensor)


def operators(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def types(model: ModelProto) -> dict[str, int]:
    """Tensor name to its type."""
    graph = shape_inference.infer_shapes(model).graph
    values = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output, *graph.input)}
    return values | {tensor.name: tensor.data_type for tensor in graph.initializer}


def assert_decoding_untouched(net: ModelProto, lowered: ModelProto) -> None:
    """The decoding's nodes are all there, with the same attributes, FP32, and none takes what was quantized."""
    before, after = (
        {n.name: (n.op_type, len(n.input), list(n.attribute)) for n in m.graph.node if n.name.startswith(DECODING)}
        for m in (net, lowered)
    )
    assert before and after == before
    kinds = types(lowered)
    producers = {name: node.op_type for node in lowered.graph.node for name in node.output}
    for node in lowered.graph.node:
        if node.name.startswith(DECODING):
            assert not any(producers.get(name) == "DequantizeLinear" for name in node.input), node.name
            given = {kinds[name] for name in (*node.input, *node.output) if name}
            assert not given & {TensorProto.FLOAT16, TensorProto.INT8}, node.name
    assert all(kinds[value.name] == TensorProto.FLOAT for value in (*lowered.graph.input, *lowered.graph.output))
