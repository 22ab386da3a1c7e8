"""Graphs: where the border of decoding is, and what the convolutions cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.calibration.graphs import copied, run
from tests.half_storage import store_half
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.calibration.graph import (
    DECODING,
    conv_flops,
    expose,
    fold_half_weights,
    learned_nodes,
    load_net,
    mark_decoding,
)
from trt_landmarks.errors import EngineError
from trt_landmarks.export.parity import Inputs
from trt_landmarks.task.graphs import COARSE, INDEPENDENT

GRAPHS = (COARSE, INDEPENDENT, "group-mid")


def no_net() -> ModelProto:
    """A graph that computes without learned layers."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("volume", "points")]
    node = helper.make_node("Relu", ["volume"], ["points"])
    return helper.make_model(helper.make_graph([node], "net", value[:1], value[1:]))


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


def test_no_border_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no learned layer between input volume"):
        mark_decoding(no_net())
    path = tmp_path / "strange.onnx"
    onnx.save(no_net(), path)
    with pytest.raises(EngineError, match=r"^strange\.onnx: there is no learned layer"):
        load_net(path)


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_net_is_loaded_without_changing_what_it_computes(
    tiny_bundle: Bundle, nets: dict[str, ModelProto], inputs: Inputs, graph: str
) -> None:
    for expected, got in zip(
        run(onnx.load(tiny_bundle.graphs[graph]), inputs[graph]), run(nets[graph], inputs[graph]), strict=True
    ):
        assert np.array_equal(got, expected)


def test_weights_stored_in_half_are_folded(tiny_bundle: Bundle, inputs: Inputs, tmp_path: Path) -> None:
    path = tmp_path / "stored.onnx"
    model = onnx.load(tiny_bundle.graphs[INDEPENDENT])
    for tensor in model.graph.initializer:  # weights that FP16 holds exactly
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 5:
            rounded = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    onnx.save(model, path)
    store_half(path)
    folded = onnx.load(path)
    casts = sum(node.op_type == "Cast" for node in folded.graph.node)
    assert any(tensor.data_type == TensorProto.FLOAT16 for tensor in folded.graph.initializer)
    removed = fold_half_weights(folded)
    assert removed > 0 and sum(node.op_type == "Cast" for node in folded.graph.node) == casts - removed
    assert not any(tensor.data_type == TensorProto.FLOAT16 for tensor in folded.graph.initializer)
    for expected, got in zip(run(model, inputs[INDEPENDENT]), run(folded, inputs[INDEPENDENT]), strict=True):
        assert np.array_equal(got, expected)
    assert fold_half_weights(folded) == 0


@pytest.mark.parametrize("graph", GRAPHS)
def test_operations_are_counted_from_the_true_sizes(nets: dict[str, ModelProto], inputs: Inputs, graph: str) -> None:
    """Counted another way: every number a convolution gives takes one weight of every input it sees."""
    net = nets[graph]
    weights = {tensor.name: tensor.dims for tensor in net.graph.initializer}
    nodes = learned_nodes(net)
    tensors = [node.output[0] for node in nodes]
    found = run(expose(net, tensors), inputs[graph][:1], tensors)
    flops = conv_flops(net)
    for node, array in zip(nodes, found, strict=True):
        assert flops[node.name] == 2 * array.size * int(np.prod(weights[node.input[1]][1:])), node.name


def test_operations_of_one_convolution() -> None:
    value = helper.make_tensor_value_info
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="c", group=2, strides=[2, 2, 2], pads=[1] * 6)
    weights = numpy_helper.from_array(np.zeros((6, 2, 3, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [node], "g", [value("x", TensorProto.FLOAT, ["batch", 4, 8, 8, 8])],
        [value("y", TensorProto.FLOAT, ["batch", 6, 4, 4, 4])], [weights],
    )  # fmt: skip
    assert conv_flops(helper.make_model(graph)) == {"c": 2 * (6 * 4**3) * (2 * 27)}


def test_learned_layers_come_in_order_and_without_decoding(nets: dict[str, ModelProto]) -> None:
    for graph, count in ((COARSE, 36), (INDEPENDENT, 10), ("group-mid", 18)):
        layers = learned_nodes(nets[graph])
        assert len(layers) == count and {node.op_type for node in layers} == {"Conv"}
        assert not any(node.name.startswith(DECODING) for node in layers)
        places = {node.name: place for place, node in enumerate(nets[graph].graph.node)}
        order = [places[node.name] for node in layers]
        assert order == sorted(order)


def test_exposing_a_tensor_changes_nothing_else(nets: dict[str, ModelProto], inputs: Inputs) -> None:
    net = nets[COARSE]
    before = copied(net)
    first = learned_nodes(net)[0].output[0]
    watched = expose(net, [first, "points"])
    assert net == before
    assert [value.name for value in watched.graph.output] == ["points", first]
    points, values = run(watched, inputs[COARSE])
    assert np.array_equal(points, run(net, inputs[COARSE])[0])
    assert values.ndim == 5 and values.std() > 0
