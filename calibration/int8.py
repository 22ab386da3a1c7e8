"""INT8 by explicit Q/DQ nodes: ModelOpt places and calibrates them, layer by layer they can be taken out again.

Weights are quantized per output channel, activations per tensor, both symmetrically, as TensorRT multiplies them.
Around the Q/DQ nodes the net is FP16; decoding stays FP32.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from trt_landmarks.calibration.fp16 import half, save
from trt_landmarks.calibration.graph import DECODING, conv_flops, load_net
from trt_landmarks.calibration.modelopt import quantizer, quiet
from trt_landmarks.calibration.recipe import METHODS
from trt_landmarks.errors import EngineError

#: Operators that move numbers about without computing.
MOVING = ("Reshape", "Resize", "Concat", "MaxPool", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Expand", "Tile")
QUANTIZING = ("QuantizeLinear", "DequantizeLinear")


def to_int8(
    graph: Path,
    inputs: NDArray[np.float32],
    out: Path,
    method: str = "entropy",
    exclude: Collection[str] = (),
    choose: Callable[[ModelProto, ModelProto], Collection[str]] = lambda net, quantized: (),
) -> dict[str, Any]:
    """Write the INT8 form of a graph; its inputs, its outputs and its decoding stay FP32.

    Args:
        graph: FP32 ONNX graph, its weights in FP32 or in FP16 behind a Cast.
        inputs: calibration inputs ``[count, ...]`` of the graph's only input.
        out: file to write.
        method: one of :data:`~trt_landmarks.calibration.recipe.METHODS`.
        exclude: names of layers (as :func:`quantized_layers` gives them) that stay in FP16.
        choose: is given the net and its quantized form, and names further layers to exclude.

    Returns:
        Plain data: see :func:`describe` and :func:`~trt_landmarks.calibration.fp16.half`.

    Raises:
        EngineError: if ModelOpt is missing or fails, or a layer to exclude is not there.
    """
    net = load_net(graph)
    quantized = quantize(net, inputs, graph.name, method)
    leave = {*exclude, *choose(net, quantized)}
    result, around = half(without(quantized, leave, graph.name), inputs, graph.name)
    save(result, out)
    return {**describe(net, result), "method": method, "excluded": sorted(leave), "around": around}


def quantize(net: ModelProto, inputs: NDArray[np.float32], name: str, method: str = "entropy") -> ModelProto:
    """A net with Q/DQ nodes wherever TensorRT gains by them, FP32 around them.

    Args:
        net: a net whose decoding is marked (:func:`~trt_landmarks.calibration.graph.load_net`).
        inputs: calibration inputs ``[count, ...]``.
        name: the graph's name, for messages.
        method: one of :data:`~trt_landmarks.calibration.recipe.METHODS`.

    Raises:
        EngineError: if ModelOpt is missing or fails.
    """
    if method not in METHODS:
        raise EngineError(f"{method}: no such way to calibrate.", f"Take {' or '.join(METHODS)}.")
    run = quantizer()
    (value,) = net.graph.input
    with tempfile.TemporaryDirectory(prefix="trtlm-int8-") as folder:
        prepared, written = Path(folder) / "graph.onnx", Path(folder) / "int8.onnx"
        onnx.save(net, prepared)
        try:
            with quiet(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                run(
                    str(prepared),
                    quantize_mode="int8",
                    calibration_data={value.name: np.ascontiguousarray(inputs, dtype=np.float32)},
                    calibration_method=method,
                    calibration_eps=["cpu"],
                    high_precision_dtype="fp32",
                    nodes_to_exclude=[node.name for node in net.graph.node if node.name.startswith(DECODING)],
                    output_path=str(written),
                    log_level="CRITICAL",
                )
            return onnx.load(written)
        except Exception as error:  # ModelOpt raises whatever the packages below it raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise EngineError(
                f"{name}: ModelOpt cannot quantize this graph: {reason}.", "Nothing was written; FP16 still works."
            ) from None


def quantized_layers(model: ModelProto) -> list[NodeProto]:
    """The nodes that compute with INT8 numbers, in order: they take what a DequantizeLinear gives."""
    given = _dequantized(model)
    return [n for n in model.graph.node if n.op_type not in MOVING and any(i in given for i in n.input)]


def without(model: ModelProto, layers: Collection[str], name: str = "graph") -> ModelProto:
    """A copy of a quantized model in which some layers take their inputs and weights unquantized.

    ModelOpt quantizes also in front of what only moves numbers to a layer.  For these layers, and for those that are
    not quantized anyway, that goes as well.

    Raises:
        EngineError: if a layer is not there or is not quantized.
    """
    result = ModelProto()
    result.CopyFrom(model)
    quantized = {node.name for node in quantized_layers(model)}
    unknown = sorted(set(layers) - quantized)
    if unknown:
        raise EngineError(f"{name}: {unknown[0]} is not a quantized layer of this graph.", "See its report for names.")
    given = _dequantized(result)
    producers = {output: node for node in result.graph.node for output in node.output}
    kept = quantized - set(layers)
    exact = [n for n in result.graph.node if n.op_type not in (*MOVING, *QUANTIZING) and n.name not in kept]
    while exact:
        node = exact.pop()
        for position, tensor in enumerate(node.input):
            node.input[position] = given.get(tensor, tensor)
            source = producers.get(node.input[position])
            if source is not None and source.op_type in MOVING:
                exact.append(source)
    _drop_unused(result)
    return result


def describe(net: ModelProto, result: ModelProto) -> dict[str, Any]:
    """How much of a net is INT8.

    Returns:
        Plain data: ``conv_flops_int8`` (share of the net's convolutions' operations), ``layers_int8`` (number of
        computing nodes by operator), ``convolutions_left`` (name to share of operations, of those not in INT8) and
        ``operators`` (number of the net's nodes by operator).
    """
    flops = {name: count for name, count in conv_flops(net).items() if not name.startswith(DECODING)}
    layers = quantized_layers(result)
    given = _dequantized(result)
    done = {node.name for node in layers if all(name in given for name in node.input[:2])}  # data and weights
    total = max(1, sum(flops.values()))
    return {
        "conv_flops_int8": round(sum(count for name, count in flops.items() if name in done) / total, 4),
        "layers_int8": dict(sorted(Counter(node.op_type for node in layers).items())),
        "convolutions_left": {name: round(count / total, 5) for name, count in flops.items() if name not in done},
        "operators": dict(Counter(n.op_type for n in net.graph.node if not n.name.startswith(DECODING))),
    }


def _dequantized(model: ModelProto) -> dict[str, str]:
    """What every DequantizeLinear gives -> the tensor that was quantized for it."""
    source = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"}
    pairs = ((n.output[0], n.input[0]) for n in model.graph.node if n.op_type == "DequantizeLinear")
    return {output: source[stored] for output, stored in pairs if stored in source}


def _drop_unused(model: ModelProto) -> None:
    """Remove Q/DQ nodes and stored tensors that nothing uses any more."""
    outputs = {value.name for value in model.graph.output}
    for kind in reversed(QUANTIZING):
        used = {name for node in model.graph.node for name in node.input} | outputs
        for node in [n for n in model.graph.node if n.op_type == kind and n.output[0] not in used]:
            model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input} | outputs
    for tensor in [t for t in model.graph.initializer if t.name not in used]:
        model.graph.initializer.remove(tensor)
