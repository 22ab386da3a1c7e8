"""FP16 and INT8 graphs as a GPU computes them, run in FP32 arithmetic on the CPU.

ONNX Runtime's CPU has few FP16 kernels: it computes most of an FP16 graph in FP32 without rounding in between, and its
FP16 QuantizeLinear (1.24) cuts off instead of rounding.  The first hides errors, the second makes them up.
The emulated graph computes in FP32 and rounds every tensor to FP16 that the graph stores in FP16, as a GPU does that
multiplies in FP16 or INT8 and adds up in FP32 or INT32.  It is for checking accuracy, not for speed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trt_landmarks.errors import BundleError, EngineError
from trt_landmarks.system import install_command

if TYPE_CHECKING:
    from onnx import ModelProto


def emulated(graph: Path) -> bytes:
    """The serialized emulation of an ONNX graph file; a graph without FP16 comes back as it is.

    It must run without ONNX Runtime's graph optimizations, which remove what rounds.

    Raises:
        EngineError: if the package ``onnx`` is missing.
        BundleError: if the file is damaged.
    """
    try:
        import onnx
    except ImportError:
        raise EngineError(
            "Running FP16 and INT8 graphs on the CPU needs the package onnx.",
            f"Run: {install_command('calibrate')}",
            code="package_missing",
        ) from None
    try:
        model = onnx.load(graph)
        return emulate(model).SerializeToString()
    except Exception as error:  # protobuf's and onnx's errors have no common base
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BundleError(f"{graph}: is not a valid ONNX graph ({reason}).") from None


def emulate(model: ModelProto) -> ModelProto:
    """A copy of a model whose FP16 tensors are FP32 tensors with FP16 values."""
    import numpy as np
    from onnx import ModelProto, TensorProto, helper, numpy_helper, shape_inference

    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    typed = shape_inference.infer_shapes(model).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*typed.value_info, *typed.input, *typed.output)}
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.value_info[:], graph.node[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = single
    for tensor in graph.initializer:
        if tensor.data_type == half:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for source in model.graph.node:
        node = type(source)()
        node.CopyFrom(source)
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == half:
                attribute.i = single
            elif attribute.HasField("t") and attribute.t.data_type == half:
                array = numpy_helper.to_array(attribute.t).astype(np.float32)
                attribute.t.CopyFrom(numpy_helper.from_array(array, attribute.t.name))
        stored = [name for name in node.output if kinds.get(name) == half]
        if node.op_type == "DequantizeLinear":
            stored = []  # it goes into a multiplication as INT8
        for position, name in enumerate(node.output):
            if name in stored:
                node.output[position] = f"{name}/exact"
        graph.node.append(node)
        for name in stored:
            graph.node.append(helper.make_node("Cast", [f"{name}/exact"], [f"{name}/half"], to=half))
            graph.node.append(helper.make_node("Cast", [f"{name}/half"], [name], to=single))
    return result
