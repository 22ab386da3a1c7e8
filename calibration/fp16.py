"""FP16 by rewriting the ONNX graph: strongly typed runtimes take precision from the graph alone.

ModelOpt's AutoCast turns the net into FP16 but for what grows too large on the calibration inputs.  Those are run
here, one at a time, by AutoCast's rule for ranges: its own runner keeps every tensor of every input in memory.

Decoding never enters FP16: coordinates of one patch differ in the third digit, where FP16 ends.  Its border is found
in the graph's structure: walking back from the outputs, it is everything behind the last learned layer.
"""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper, shape_inference

from trt_landmarks.errors import EngineError

#: Largest magnitude a tensor may have on the calibration inputs to be kept in FP16.
DATA_MAX = 512.0
#: What the names of the nodes that stay in FP32 begin with, in the prepared and in the finished graph.
DECODING = "decoding/"

_CAST_TYPES = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}


def to_fp16(graph: Path, calibration: NDArray[np.float32] | Mapping[str, NDArray[np.float32]], out: Path) -> Any:
    """Write the FP16 form of a graph; its inputs and outputs stay FP32.

    Args:
        graph: FP32 ONNX graph, its weights in FP32 or in FP16 behind a Cast.
        calibration: inputs ``[count, ...]`` of the graph's only input, or by the input's name.
        out: file to write.

    Returns:
        Plain data: ``nodes`` (number of floating-point nodes by precision), ``decoding_nodes``, ``casts``,
        ``conv_flops_fp16`` (share of the convolutions' operations that are done in FP16), ``largest`` (magnitude in
        the net on the calibration inputs), ``too_large`` (nodes kept in FP32 for it) and ``calibration_inputs``.

    Raises:
        EngineError: if ModelOpt is missing or cannot convert the graph, or the border of decoding is not found.
    """
    model = onnx.load(graph)
    fold_half_weights(model)
    decoding = mark_decoding(model, graph.name)
    arrays = _arrays(model, calibration)
    convert = _autocast()
    with tempfile.TemporaryDirectory(prefix="trtlm-fp16-") as folder:
        prepared = Path(folder) / "graph.onnx"
        onnx.save(model, prepared)
        try:
            largest, loud = _too_large(model, arrays)
            with _quiet():
                result: ModelProto = convert(
                    str(prepared),
                    low_precision_type="fp16",
                    nodes_to_exclude=[DECODING, *(f"{re.escape(name)}$" for name in loud)],
                    keep_io_types=True,
                    data_max=np.inf,  # ranges are known already
                )
        except Exception as error:  # AutoCast raises whatever the packages below it raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise EngineError(
                f"{graph.name}: ModelOpt AutoCast cannot convert this graph to FP16: {reason}.",
                "Nothing was written; FP32 still works.",
            ) from None
    _restore_shapes(model, result)
    onnx.save(result, out)
    onnx.checker.check_model(str(out), full_check=True)
    figures = _figures(model, result)
    count = len(next(iter(arrays.values())))
    return {
        **figures,
        "decoding_nodes": decoding,
        "largest": round(largest, 3),
        "too_large": len(loud),
        "calibration_inputs": count,
    }


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


def _arrays(
    model: ModelProto, calibration: NDArray[np.float32] | Mapping[str, NDArray[np.float32]]
) -> Mapping[str, NDArray[np.float32]]:
    """Calibration inputs by the input's name."""
    if isinstance(calibration, Mapping):
        return calibration
    (value,) = model.graph.input
    return {value.name: calibration}


def _too_large(model: ModelProto, arrays: Mapping[str, NDArray[np.float32]]) -> tuple[float, list[str]]:
    """The largest magnitude in the net, and the nodes that take or give more than :data:`DATA_MAX`."""
    import onnxruntime as ort

    net = [node for node in model.graph.node if not node.name.startswith(DECODING)]
    watched = ModelProto()
    watched.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    tensors = [name for node in net for name in node.output if name and name not in outputs]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    reach: dict[str, float] = {}
    for n in range(len(next(iter(arrays.values())))):
        feed = {name: np.asarray(array[n : n + 1], dtype=np.float32) for name, array in arrays.items()}
        found = feed | dict(zip(tensors, session.run(tensors, feed), strict=True))
        for name, array in found.items():
            if array.dtype == np.float32 and array.size:
                magnitude = max(float(array.max()), -float(array.min()))
                reach[name] = float(np.fmax(reach.get(name, 0.0), magnitude)) if magnitude == magnitude else np.inf
    loud = [node.name for node in net if any(reach.get(t, 0.0) > DATA_MAX for t in (*node.input, *node.output))]
    return max(reach.values(), default=0.0), loud


def _restore_shapes(prepared: ModelProto, result: ModelProto) -> None:
    """Undo AutoCast's notes of shapes: it gives unrelated dimensions one name, and ONNX Runtime then fails to run."""
    del result.graph.value_info[:]
    for ours, theirs in ((prepared.graph.input, result.graph.input), (prepared.graph.output, result.graph.output)):
        del theirs[:]
        theirs.extend(ours)


def _figures(prepared: ModelProto, result: ModelProto) -> dict[str, Any]:
    """What ended up in which precision."""
    typed = shape_inference.infer_shapes(result).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*typed.value_info, *typed.output, *typed.input)}
    before = {node.name for node in prepared.graph.node}
    precision = {
        node.name: _CAST_TYPES[kinds[node.output[0]]]
        for node in typed.node
        if node.name in before and kinds.get(node.output[0]) in _CAST_TYPES
    }
    flops = _conv_flops(prepared)
    half = sum(count for name, count in flops.items() if precision.get(name) == "fp16")
    return {
        "nodes": dict(sorted(Counter(precision.values()).items())),
        "casts": sum(node.op_type == "Cast" and node.name not in before for node in typed.node),
        "conv_flops_fp16": round(half / max(1, sum(flops.values())), 4),
    }


def _conv_flops(model: ModelProto) -> dict[str, int]:
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


def _autocast() -> Any:
    """ModelOpt's conversion."""
    try:
        with warnings.catch_warnings(), _quiet():
            warnings.simplefilter("ignore")
            from modelopt.onnx.autocast import convert_to_mixed_precision
    except ImportError as error:
        raise EngineError(
            f"FP16 graphs are made with NVIDIA ModelOpt, which cannot be imported: {error}.",
            "Install it with: pip install 'trt-landmarks[calibrate]'.",
        ) from None
    return convert_to_mixed_precision


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """ModelOpt logs every node it looks at."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(previous)
