"""Emulated graphs round where a GPU stores FP16, and nowhere else."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.calibration.graphs import run, types
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.calibration.fp16 import to_fp16
from trt_landmarks.calibration.graph import expose
from trt_landmarks.calibration.int8 import to_int8
from trt_landmarks.engines.emulation import emulate, emulated
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.errors import BundleError, EngineError
from trt_landmarks.export.parity import random_inputs
from trt_landmarks.system import install_command
from trt_landmarks.task.graphs import COARSE, INDEPENDENT

FP32, FP16 = TensorProto.FLOAT, TensorProto.FLOAT16
Half = np.float16


def model_of(nodes: list[onnx.NodeProto], stored: dict[str, NDArray[Any]], output: str = "y") -> ModelProto:
    """An FP32 input ``x`` of any shape ``[1, 1, ...]``, and one FP32 output."""
    value = [helper.make_tensor_value_info(name, FP32, None) for name in ("x", output)]
    weights = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def steps(seed: int, shape: tuple[int, ...], reach: float, step: float) -> NDArray[np.float32]:
    """Random multiples of a step: their products add up in FP32 without rounding, in any order."""
    rng = np.random.default_rng(seed)
    return (rng.integers(-round(reach / step), round(reach / step), shape, endpoint=True) * step).astype(np.float32)


@pytest.fixture(scope="module")
def net() -> ModelProto:
    """Conv, Add of a constant, Relu and a second Conv in FP16, between FP32."""
    constant = numpy_helper.from_array(steps(3, (3, 1, 1, 1), 2, 2**-7).astype(Half))
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=FP16),
        helper.make_node("Conv", ["h", "w1", "b1"], ["c1"]),
        helper.make_node("Constant", [], ["k"], value=constant),
        helper.make_node("Add", ["c1", "k"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["c2"]),
        helper.make_node("Cast", ["c2"], ["y"], to=FP32),
    ]
    weights = {
        "w1": steps(0, (3, 1, 3, 3, 3), 2, 2**-6).astype(Half),
        "b1": steps(1, (3,), 1, 2**-6).astype(Half),
        "w2": steps(2, (1, 3, 1, 1, 1), 1, 2**-3).astype(Half),
    }
    return model_of(nodes, weights)


def in_numpy(net: ModelProto, x: NDArray[np.float32], rounded: bool) -> NDArray[Any]:
    """What the graph gives if every tensor is rounded to FP16, or none but input and weights."""

    def store(values: NDArray[Any]) -> NDArray[Any]:
        return (values.astype(Half) if rounded else values).astype(np.float64)

    tensors = {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in net.graph.initializer}
    constant = numpy_helper.to_array(net.graph.node[2].attribute[0].t).astype(np.float64)
    h = x.astype(Half).astype(np.float64)[0, 0]
    windows = np.lib.stride_tricks.sliding_window_view(h, (3, 3, 3))
    c1 = store(np.einsum("zyxijk,oijk->ozyx", windows, tensors["w1"][:, 0]) + tensors["b1"][:, None, None, None])
    r = np.maximum(store(c1 + constant), 0)
    return store(np.einsum("ozyx,po->pzyx", r, tensors["w2"][..., 0, 0, 0]))[None]


def test_it_rounds_where_fp16_is_stored(net: ModelProto, tmp_path: Path) -> None:
    x = steps(5, (1, 1, 7, 8, 9), 4, 2**-6)
    expected = in_numpy(net, x, rounded=True)
    assert not np.array_equal(expected, in_numpy(net, x, rounded=False))
    (got,) = run(emulate(net), x)
    assert got.dtype == np.float32 and np.array_equal(got, expected)
    onnx.save(net, tmp_path / "net.onnx")
    for precision in ("fp16", "int8"):
        engine = OnnxRuntimeEngine({"net": tmp_path / "net.onnx"}, precision, threads=1)
        assert np.array_equal(engine.run("net", x)[0], expected)


def test_what_it_is_there_for_onnx_runtime_does_not_round(net: ModelProto) -> None:
    """If this fails, ONNX Runtime has learned FP16, and the emulation may not be needed any more."""
    x = steps(5, (1, 1, 7, 8, 9), 4, 2**-6)
    (plain,) = run(net, x)
    assert not np.array_equal(plain, in_numpy(net, x, rounded=True))


def test_constants_of_fp16_are_kept_in_every_form(tmp_path: Path) -> None:
    """A fill value, a stored weight, and a cast from whole numbers; with FP16 as the graph's own input and output."""
    fill = numpy_helper.from_array(np.array([0.1], Half))
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ConstantOfShape", ["s"], ["f"], value=fill),
        helper.make_node("Cast", ["s"], ["n"], to=FP16),
        helper.make_node("Mul", ["x", "f"], ["m"]),
        helper.make_node("Add", ["m", "n"], ["y"]),
    ]
    model = model_of(nodes, {})
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = FP16
    x = np.linspace(-3, 3, 1001).astype(Half)
    (got,) = run(emulate(model), x.astype(np.float32))
    product = (x.astype(np.float32) * np.float32(Half(0.1))).astype(Half)
    assert got.dtype == np.float32
    assert np.array_equal(got, (product.astype(np.float32) + 1001).astype(Half).astype(np.float32))


@pytest.mark.parametrize("scale", [0.0271, 0.004, 0.5])
def test_quantization_is_exact(tmp_path: Path, scale: float) -> None:
    """ONNX Runtime's own QuantizeLinear of FP16 cuts off: if the last line fails, it has learned to round."""
    half = Half(scale)
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=FP16),
        helper.make_node("QuantizeLinear", ["h", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Cast", ["d"], ["y"], to=FP32),
    ]
    model = model_of(nodes, {"scale": np.array(half), "zero": np.array(0, np.int8)})
    x = np.linspace(-130 * scale, 130 * scale, 5003, dtype=np.float32)[None]
    steps_taken = np.clip(np.rint(x.astype(Half).astype(np.float32) / np.float32(half)), -128, 127)
    watched = expose(emulate(model), ["q"])
    got, q = run(watched, x, ["y", "q"])
    assert q.dtype == np.int8 and np.array_equal(q, steps_taken)
    assert np.array_equal(got, steps_taken.astype(np.float32) * np.float32(half))  # not rounded again
    plain = run(expose(model, ["q"]), x, ["q"])[0].astype(int)
    assert 0.3 < np.mean(plain != steps_taken) and np.abs(plain - steps_taken).max() == 1


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_all_that_a_lowered_net_stores_in_fp16_has_fp16_values(
    tiny_bundle: Bundle, tmp_path: Path, precision: str
) -> None:
    graph = COARSE if precision == "fp16" else INDEPENDENT
    array = random_inputs(tiny_bundle.task, 2)[graph]
    path = tmp_path / "low.onnx"
    if precision == "fp16":
        to_fp16(tiny_bundle.graphs[graph], array, path)
    else:
        to_int8(tiny_bundle.graphs[graph], array, path, "max")
    model = onnx.load(path)
    kinds = types(model)
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    given = {name for node in model.graph.node for name in node.output}
    halves = sorted(name for name in given - dequantized if kinds.get(name) == FP16)
    exact = sorted(name for name in given if kinds.get(name) == FP32)
    low = emulate(model)
    assert not {value.type.tensor_type.elem_type for value in (*low.graph.input, *low.graph.output)} - {FP32}
    found = dict(zip([*halves, *exact], run(expose(low, [*halves, *exact]), array, [*halves, *exact]), strict=True))
    assert len(halves) > 20 and len(exact) >= 3
    for name in halves:
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], found[name].astype(Half)), name
    assert not all(np.array_equal(found[name], found[name].astype(Half)) for name in exact)


def test_an_fp32_graph_comes_back_as_it_is(tiny_bundle: Bundle) -> None:
    for graph, array in random_inputs(tiny_bundle.task, 1).items():
        model = onnx.load(tiny_bundle.graphs[graph])
        before = model.SerializeToString()
        expected = run(model, array)
        result = emulate(model)
        assert model.SerializeToString() == before
        del model.graph.value_info[:]  # notes of shapes, which are worked out again
        assert result == model
        again = onnx.load_model_from_string(emulated(tiny_bundle.graphs[graph]))
        for one, other in zip(expected, run(again, array), strict=True):
            assert np.array_equal(one, other)


def test_a_damaged_file_is_named(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "coarse.onnx"
    whole = tiny_bundle.graphs[COARSE].read_bytes()
    for content in (b"", b"no graph", whole[: len(whole) // 2], whole[1:]):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"coarse\.onnx: ") as caught:
            OnnxRuntimeEngine({COARSE: path}, "fp16")
        assert str(path) in caught.value.message and "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(BundleError, match=r"coarse\.onnx: "):
        OnnxRuntimeEngine({COARSE: path}, "fp16")


def test_without_the_package_onnx_it_says_what_to_do(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EngineError, match=re.escape(install_command("calibrate"))) as e:
        OnnxRuntimeEngine(tiny_bundle.graphs, "int8")
    assert e.value.code == "package_missing"
    OnnxRuntimeEngine(tiny_bundle.graphs)  # FP32 needs no such package
