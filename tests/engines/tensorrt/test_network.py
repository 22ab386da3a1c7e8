"""What a parsed network computes in, told without a GPU."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.engines.tensorrt.plans import build, profile
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.engines.tensorrt.network import Tensor
from trt_landmarks.task.graphs import Shapes

PROFILE: dict[str, Shapes] = {"volume": ((1, 8, 6, 6, 6), (1, 8, 6, 6, 6), (2, 8, 6, 6, 6))}


def convolutions(path: Path, quantized: tuple[str, ...], kind: int = TensorProto.FLOAT) -> Path:
    """Two convolutions, of which the data (``x``) or weights (``w``) of the first go through INT8."""
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weights = np.random.default_rng(0).normal(size=(8, 8, 3, 3, 3)).astype(dtype)
    constants = {"w": weights, "u": weights, "scale": np.array(0.1, dtype), "zero": np.array(0, np.int8)}
    nodes, names = [], {"x": "x", "w": "w"}
    if kind == TensorProto.FLOAT:
        names["x"] = "volume"
    else:
        nodes.append(helper.make_node("Cast", ["volume"], ["x"], to=kind))
    for name in quantized:
        nodes += [
            helper.make_node("QuantizeLinear", [names[name], "scale", "zero"], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_dq"]),
        ]
        names[name] = f"{name}_dq"
    nodes += [
        helper.make_node("Conv", [names["x"], names["w"]], ["y"], pads=[1] * 6),
        helper.make_node("Conv", ["y", "u"], ["z"], pads=[1] * 6),
        helper.make_node("Cast", ["z"], ["points"], to=TensorProto.FLOAT),
    ]
    shape: list[str | int | None] = ["batch", 8, 6, 6, 6]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("volume", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("points", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.parametrize(("quantized", "int8"), [((), 0), (("x",), 0), (("w",), 0), (("x", "w"), 1)])
def test_an_int8_convolution_is_one_with_both_inputs_in_int8(
    rtx: ModuleType, tmp_path: Path, quantized: tuple[str, ...], int8: int
) -> None:
    facts = build(convolutions(tmp_path / "net.onnx", quantized), tmp_path / "net.plan", PROFILE).network
    assert (facts.quantize, facts.dequantize) == (len(quantized), len(quantized))
    assert (facts.convolutions, facts.int8_convolutions) == (2, int8)
    assert facts.by_output_dtype.get("int8", 0) == len(quantized)
    assert facts.by_type["CONVOLUTION"] == 2 and sum(facts.by_type.values()) == facts.layers


def test_fp16_is_seen_beside_int8(rtx: ModuleType, tmp_path: Path) -> None:
    source = convolutions(tmp_path / "net.onnx", ("x", "w"), TensorProto.FLOAT16)
    record = build(source, tmp_path / "net.plan", PROFILE, precision="int8")
    assert record.network.by_output_dtype["float16"] >= 2
    assert record.network.int8_convolutions == 1
    assert record.inputs == (Tensor("volume", "float32", (-1, 8, 6, 6, 6)),)
    assert record.outputs == (Tensor("points", "float32", (-1, 8, 6, 6, 6)),)


def test_an_fp32_graph_of_a_bundle_is_fp32_throughout(rtx: ModuleType, tiny_bundle: Bundle, tmp_path: Path) -> None:
    """But for indices and shapes."""
    graph = "group-mid"
    record = build(tiny_bundle.graphs[graph], tmp_path / "net.plan", profile(tiny_bundle, graph), graph=graph)
    model = onnx.load(tiny_bundle.graphs[graph])
    assert set(record.network.by_output_dtype) <= {"float32", "int32", "int64", "bool"}
    counted = sum(node.op_type in ("Conv", "ConvTranspose") for node in model.graph.node)
    assert record.network.convolutions == counted > 0
    assert [tensor.name for tensor in record.outputs] == [value.name for value in model.graph.output]
