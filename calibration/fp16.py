"""FP16 by rewriting the ONNX graph: strongly typed runtimes take precision from the graph alone.

ModelOpt's AutoCast turns the net into FP16 but for what grows too large on the calibration inputs.  Those are run
here, one at a time, by AutoCast's rule for ranges: its own runner keeps every tensor of every input in memory.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, shape_inference

from trt_landmarks.calibration.graph import DECODING, conv_flops, expose, load_net
from trt_landmarks.calibration.modelopt import autocast, quiet
from trt_landmarks.calibration.recipe import DATA_MAX, RANGE_INPUTS
from trt_landmarks.errors import EngineError

_CAST_TYPES = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}


def to_fp16(graph: Path, inputs: NDArray[np.float32], out: Path) -> dict[str, Any]:
    """Write the FP16 form of a graph; its inputs, its outputs and its decoding stay FP32.

    Args:
        graph: FP32 ONNX graph, its weights in FP32 or in FP16 behind a Cast.
        inputs: calibration inputs ``[count, ...]`` of the graph's only input.
        out: file to write.

    Returns:
        Plain data: what :func:`half` tells, and ``conv_flops_fp16`` (share of the convolutions' operations that
        are done in FP16).

    Raises:
        EngineError: if ModelOpt is missing or cannot convert the graph, or the border of decoding is not found.
    """
    net = load_net(graph)
    result, figures = half(net, inputs, graph.name)
    save(result, out)
    precision = _precisions(net, result)
    flops = conv_flops(net)
    done = sum(count for name, count in flops.items() if precision.get(name) == "fp16")
    return {**figures, "conv_flops_fp16": round(done / max(1, sum(flops.values())), 4)}


def half(net: ModelProto, inputs: NDArray[np.float32], name: str) -> tuple[ModelProto, dict[str, Any]]:
    """The FP16 form of a net whose decoding is marked (:func:`~trt_landmarks.calibration.graph.load_net`).

    Returns:
        The model, and plain data: ``nodes`` (number of floating-point nodes by precision), ``decoding_nodes``,
        ``casts``, ``largest`` (magnitude in the net on the calibration inputs), ``too_large`` (nodes kept in FP32
        for it) and ``calibration_inputs``.

    Raises:
        EngineError: if ModelOpt is missing or cannot convert the graph.
    """
    convert = autocast()
    with tempfile.TemporaryDirectory(prefix="trtlm-fp16-") as folder:
        prepared = Path(folder) / "graph.onnx"
        onnx.save(net, prepared)
        try:
            largest, loud = _too_large(net, inputs[:RANGE_INPUTS])
            with quiet():
                result: ModelProto = convert(
                    str(prepared),
                    low_precision_type="fp16",
                    nodes_to_exclude=[DECODING, *(f"{re.escape(node)}$" for node in loud)],
                    keep_io_types=True,
                    data_max=np.inf,  # ranges are known already
                )
        except Exception as error:  # AutoCast raises whatever the packages below it raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise EngineError(
                f"{name}: ModelOpt AutoCast cannot convert this graph to FP16: {reason}.",
                "Nothing was written; FP32 still works.",
            ) from None
    _restore_shapes(net, result)
    before = {node.name for node in net.graph.node}
    return result, {
        "nodes": dict(sorted(Counter(_precisions(net, result).values()).items())),
        "casts": sum(node.op_type == "Cast" and node.name not in before for node in result.graph.node),
        "decoding_nodes": sum(node.name.startswith(DECODING) for node in net.graph.node),
        "largest": round(largest, 3),
        "too_large": len(loud),
        "calibration_inputs": len(inputs[:RANGE_INPUTS]),
    }


def save(model: ModelProto, out: Path) -> None:
    """Write a model and check it."""
    onnx.save(model, out)
    onnx.checker.check_model(str(out), full_check=True)


def _too_large(net: ModelProto, inputs: NDArray[np.float32]) -> tuple[float, list[str]]:
    """The largest magnitude in the net, and the nodes that take or give more than :data:`DATA_MAX`."""
    import onnxruntime as ort

    nodes = [node for node in net.graph.node if not node.name.startswith(DECODING)]
    outputs = {value.name for value in net.graph.output}
    tensors = [name for node in nodes for name in node.output if name and name not in outputs]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    watched = expose(net, tensors).SerializeToString()
    session = ort.InferenceSession(watched, options, providers=["CPUExecutionProvider"])
    (value,) = net.graph.input
    reach: dict[str, float] = {}
    for n in range(len(inputs)):
        feed = {value.name: np.asarray(inputs[n : n + 1], dtype=np.float32)}
        found = feed | dict(zip(tensors, session.run(tensors, feed), strict=True))
        for name, array in found.items():
            if array.dtype == np.float32 and array.size:
                magnitude = max(float(array.max()), -float(array.min()))
                reach[name] = float(np.fmax(reach.get(name, 0.0), magnitude)) if magnitude == magnitude else np.inf
    loud = [node.name for node in nodes if any(reach.get(t, 0.0) > DATA_MAX for t in (*node.input, *node.output))]
    return max(reach.values(), default=0.0), loud


def _restore_shapes(prepared: ModelProto, result: ModelProto) -> None:
    """Undo AutoCast's notes of shapes: it gives unrelated dimensions one name, and ONNX Runtime then fails to run."""
    del result.graph.value_info[:]
    for ours, theirs in ((prepared.graph.input, result.graph.input), (prepared.graph.output, result.graph.output)):
        del theirs[:]
        theirs.extend(ours)


def _precisions(prepared: ModelProto, result: ModelProto) -> dict[str, str]:
    """``fp32`` or ``fp16`` for each of the prepared graph's nodes that gives floating-point numbers."""
    typed = shape_inference.infer_shapes(result).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*typed.value_info, *typed.output, *typed.input)}
    before = {node.name for node in prepared.graph.node}
    return {
        node.name: _CAST_TYPES[kinds[node.output[0]]]
        for node in typed.node
        if node.name in before and kinds.get(node.output[0]) in _CAST_TYPES
    }
