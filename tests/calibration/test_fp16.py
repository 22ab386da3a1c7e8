"""FP16 graphs: where the border of decoding is, and that it is held."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, shape_inference

from trt_landmarks.bundle import Bundle
from trt_landmarks.calibration.fp16 import DECODING, fold_half_weights, mark_decoding, to_fp16
from trt_landmarks.engines.base import COARSE, INDEPENDENT
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.errors import EngineError
from trt_landmarks.export.onnx_graphs import store_half
from trt_landmarks.export.parity import random_inputs

GRAPHS = (COARSE, INDEPENDENT, "group-mid")


def decoding_types(model: ModelProto) -> set[int]:
    """Types of the floating-point tensors that the decoding's nodes give."""
    graph = shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.output)}
    given = {types[name] for node in graph.node if node.name.startswith(DECODING) for name in node.output}
    return given & {TensorProto.FLOAT, TensorProto.FLOAT16}


@pytest.mark.parametrize("graph", GRAPHS)
def test_decoding_is_what_lies_behind_the_last_learned_layer(tiny_bundle: Bundle, graph: str) -> None:
    model = onnx.load(tiny_bundle.graphs[graph])
    count = mark_decoding(model)
    inside = [node for node in model.graph.node if node.name.startswith(DECODING)]
    outside = [node for node in model.graph.node if not node.name.startswith(DECODING)]
    assert len(inside) == count and len({node.name for node in model.graph.node}) == len(model.graph.node)
    kinds = {node.op_type for node in inside}
    if graph == COARSE:
        assert {"Gemm", "Mul", "Add"} <= kinds and "Conv" not in kinds
    else:
        assert {"Conv", "ArgMax", "GatherElements", "Log", "Div", "Where"} <= kinds
        assert not kinds & {"MaxPool", "Resize", "Sigmoid", "ReduceMean"}
        assert sum(node.op_type == "Conv" for node in inside) == (3 if graph == INDEPENDENT else 4)
        assert not {"ArgMax", "GatherElements", "Log"} & {node.op_type for node in outside}
    # Names play no part.
    again = onnx.load(tiny_bundle.graphs[graph])
    for node in again.graph.node:
        node.name = ""
    assert mark_decoding(again) == count


def test_no_border_is_an_error() -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("volume", "points")]
    node = helper.make_node("Relu", ["volume"], ["points"])
    model = helper.make_model(helper.make_graph([node], "net", value[:1], value[1:]))
    with pytest.raises(EngineError, match="no learned layer between input volume"):
        mark_decoding(model)


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_net_is_fp16_and_the_decoding_fp32(tiny_bundle: Bundle, tmp_path: Path, graph: str) -> None:
    out = tmp_path / "half.onnx"
    inputs = random_inputs(tiny_bundle.task, 3)[graph]
    figures = to_fp16(tiny_bundle.graphs[graph], inputs, out)
    model = onnx.load(out)
    assert decoding_types(model) == {TensorProto.FLOAT}
    assert all(v.type.tensor_type.elem_type == TensorProto.FLOAT for v in (*model.graph.input, *model.graph.output))
    assert [o.version for o in model.opset_import] == [20]
    weights = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    learned = [n for n in model.graph.node if n.op_type == "Conv" and not n.name.startswith(DECODING)]
    assert learned and all(weights[node.input[1]] == TensorProto.FLOAT16 for node in learned)
    assert figures["conv_flops_fp16"] > 0.99 and figures["nodes"]["fp16"] >= len(learned)
    assert figures["calibration_inputs"] == 3 and figures["too_large"] == 0 and 0.5 < figures["largest"] < 512
    whole, half = OnnxRuntimeEngine(tiny_bundle.graphs), OnnxRuntimeEngine({graph: out}, "fp16")
    for batch in (1, 3):
        for expected, got in zip(whole.run(graph, inputs[:batch]), half.run(graph, inputs[:batch]), strict=True):
            assert got.dtype == np.float32 and got.shape == expected.shape
            assert np.median(np.abs(got - expected)) < 0.01


def test_weights_stored_in_half_change_nothing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    plain, stored = tmp_path / "plain.onnx", tmp_path / "stored.onnx"
    model = onnx.load(tiny_bundle.graphs[INDEPENDENT])
    for tensor in model.graph.initializer:  # weights that FP16 holds exactly
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 5:
            rounded = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    onnx.save(model, plain)
    onnx.save(model, stored)
    store_half(stored)
    folded = onnx.load(stored)
    casts = sum(node.op_type == "Cast" for node in folded.graph.node)
    removed = fold_half_weights(folded)
    assert removed > 0 and sum(node.op_type == "Cast" for node in folded.graph.node) == casts - removed
    assert not any(tensor.data_type == TensorProto.FLOAT16 for tensor in folded.graph.initializer)
    inputs = random_inputs(tiny_bundle.task, 2)[INDEPENDENT]
    results = []
    for number, source in enumerate((plain, stored)):
        out = tmp_path / f"{number}.onnx"
        to_fp16(source, {"patches": inputs}, out)
        results.append(OnnxRuntimeEngine({"g": out}).run("g", inputs))
    for expected, got in zip(*results, strict=True):
        assert np.array_equal(expected, got)


def test_what_overflows_on_the_inputs_stays_in_fp32(tiny_bundle: Bundle, tmp_path: Path) -> None:
    model = onnx.load(tiny_bundle.graphs[COARSE])
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node, factor in zip(convolutions[:2], (1e5, 1e-5), strict=True):
        for name in node.input[1:]:
            tensors[name].CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensors[name]) * np.float32(factor), name)
            )
    source, out = tmp_path / "loud.onnx", tmp_path / "half.onnx"
    onnx.save(model, source)
    inputs = random_inputs(tiny_bundle.task, 2)[COARSE]
    figures = to_fp16(source, inputs, out)
    assert 0 < figures["conv_flops_fp16"] < 0.99
    assert figures["too_large"] >= 2 and figures["largest"] > 512
    (expected,) = OnnxRuntimeEngine({"g": source}).run("g", inputs)
    (got,) = OnnxRuntimeEngine({"g": out}).run("g", inputs)
    assert np.isfinite(got).all() and np.abs(got - expected).max() < 0.05


def test_missing_modelopt_is_explained(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt.onnx.autocast", None)
    inputs = random_inputs(tiny_bundle.task, 1)[COARSE]
    with pytest.raises(EngineError, match=r"pip install 'trt-landmarks\[calibrate\]'"):
        to_fp16(tiny_bundle.graphs[COARSE], inputs, tmp_path / "half.onnx")
    assert not list(tmp_path.iterdir())


def test_a_failing_conversion_is_one_error(tiny_bundle: Bundle, tmp_path: Path) -> None:
    wrong = np.zeros((1, 2, 3, 4, 5), dtype=np.float32)
    with pytest.raises(EngineError, match=r"coarse\.onnx: ModelOpt AutoCast cannot convert"):
        to_fp16(tiny_bundle.graphs[COARSE], wrong, tmp_path / "half.onnx")
    assert not list(tmp_path.iterdir())
