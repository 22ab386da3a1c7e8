"""INT8 graphs: what is quantized and how, and layers that are not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto

from tests.calibration.graphs import assert_decoding_untouched, operators, run, stored, types
from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.calibration.graph import conv_flops, learned_nodes, load_net
from trt_landmarks.calibration.int8 import quantize, quantized_layers, to_int8, without
from trt_landmarks.calibration.recipe import METHODS
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.errors import EngineError
from trt_landmarks.export.parity import Inputs
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.scan import read_scan
from trt_landmarks.task.graphs import COARSE, INDEPENDENT

GRAPHS = (COARSE, INDEPENDENT, "group-mid")


def dequantized_inputs(model: ModelProto, node: NodeProto) -> list[tuple[NodeProto, NodeProto]]:
    """The QuantizeLinear and DequantizeLinear in front of a node's inputs."""
    producers = {name: other for other in model.graph.node for name in other.output}
    given = [producers[name] for name in node.input if name in producers]
    return [(producers[one.input[0]], one) for one in given if one.op_type == "DequantizeLinear"]


def by_name(model: ModelProto, name: str) -> NodeProto:
    (found,) = (node for node in model.graph.node if node.name == name)
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("graph", [INDEPENDENT, "group-mid"])
def test_the_net_is_int8_and_the_decoding_fp32(
    tiny_bundle: Bundle, nets: dict[str, ModelProto], inputs: Inputs, tmp_path: Path, graph: str, method: str
) -> None:
    out = tmp_path / "int8.onnx"
    figures = to_int8(tiny_bundle.graphs[graph], inputs[graph], out, method)
    model = onnx.load(out)
    assert_decoding_untouched(nets[graph], model)
    assert [o.version for o in model.opset_import] == [20]
    done = {node.name for node in quantized_layers(model)}
    learned = {node.name for node in learned_nodes(nets[graph])}
    # ModelOpt leaves convolutions of few channels alone: here the head, and a pointwise one of single numbers.
    assert {name for name in learned - done if "conv1d" not in name} == {list(figures["convolutions_left"])[-1]}
    assert figures["conv_flops_int8"] > 0.998
    assert figures["conv_flops_int8"] + sum(figures["convolutions_left"].values()) == pytest.approx(1, abs=1e-3)
    assert (figures["method"], figures["excluded"]) == (method, [])
    kinds = types(model)
    for node in learned_nodes(model):  # FP16 around Q/DQ
        assert kinds[node.output[0]] == TensorProto.FLOAT16
    whole, low = OnnxRuntimeEngine(tiny_bundle.graphs), OnnxRuntimeEngine({graph: out}, "int8")
    for expected, got in zip(whole.run(graph, inputs[graph]), low.run(graph, inputs[graph]), strict=True):
        assert got.dtype == np.float32 and got.shape == expected.shape
        assert 0 < np.abs(got - expected).max()
        assert np.median(np.abs(got - expected)) < 0.05 * np.abs(expected).mean()


def test_methods_give_other_ranges(nets: dict[str, ModelProto], inputs: Inputs) -> None:
    """One outlier: max has to keep it, entropy cuts it off.

    Not if it is in the first input: ModelOpt's histogram then begins with 128 bins, into which 128 steps always fit.
    """
    noisy = inputs[INDEPENDENT].copy()
    noisy[2, 0, 0, 0, 0] = 3
    scales = []
    for method in ("max", "entropy"):
        model = quantize(nets[INDEPENDENT], noisy, "g", method)
        quantizer, _ = dequantized_inputs(model, quantized_layers(model)[0])[0]
        scales.append(float(stored(model, quantizer.input[1])))
    assert scales[0] == pytest.approx(3 / 127, rel=0.01)
    assert scales[1] < 0.5 * scales[0]


@pytest.mark.parametrize("graph", GRAPHS)
def test_weights_per_output_channel_activations_per_tensor_both_symmetric(
    nets: dict[str, ModelProto], quantized: dict[str, ModelProto], graph: str
) -> None:
    model = quantized[graph]
    weights = {tensor.name for tensor in model.graph.initializer}
    kinds = types(model)
    seen = 0
    for node in quantized_layers(model):
        for quantizer, dequantizer in dequantized_inputs(model, node):
            assert list(quantizer.input[1:]) == list(dequantizer.input[1:])
            scale, zero = (stored(model, name) for name in quantizer.input[1:])
            assert zero.dtype == np.int8 and not zero.any() and (scale > 0).all()
            assert kinds[quantizer.output[0]] == TensorProto.INT8
            if quantizer.input[0] not in weights:
                assert scale.ndim == 0
                continue
            seen += 1
            array = stored(model, quantizer.input[0])
            assert scale.shape == zero.shape == (array.shape[0],)
            assert all(attribute.i == 0 for one in (quantizer, dequantizer) for attribute in one.attribute)
            assert {attribute.name for attribute in quantizer.attribute} == {"axis"}
            reach = np.abs(array).reshape(len(array), -1).max(axis=1)
            assert np.allclose(scale * 127, reach, rtol=1e-3)
    assert seen == sum(node.op_type == "Conv" for node in quantized_layers(model)) >= 9


@pytest.mark.parametrize("graph", GRAPHS)
def test_an_excluded_layer_computes_unquantized(
    nets: dict[str, ModelProto], quantized: dict[str, ModelProto], inputs: Inputs, graph: str
) -> None:
    model, net = quantized[graph], nets[graph]
    layers = [node.name for node in quantized_layers(model)]
    for name in layers[::3]:
        changed = without(model, [name])
        pairs = operators(changed)["QuantizeLinear"]
        assert pairs == operators(changed)["DequantizeLinear"] <= operators(model)["QuantizeLinear"]
        if by_name(model, name).op_type == "Conv":  # its weights' pair at least is its own
            assert pairs < operators(model)["QuantizeLinear"]
        assert not dequantized_inputs(changed, by_name(changed, name))
        assert [node.name for node in quantized_layers(changed)] == [other for other in layers if other != name]
        onnx.checker.check_model(changed)
    # The first layer alone is unquantized: it gives what it gives in FP32.
    tensor = by_name(net, layers[0]).output[0]
    first = without(model, [layers[0]])
    exact, before, after = (run(expose_one(m, tensor), inputs[graph], [tensor])[0] for m in (net, model, first))
    assert np.array_equal(after, exact) and not np.array_equal(before, exact)


def expose_one(model: ModelProto, tensor: str) -> ModelProto:
    watched = ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.append(onnx.ValueInfoProto(name=tensor))
    return watched


@pytest.mark.parametrize("graph", GRAPHS)
def test_with_all_layers_excluded_nothing_is_quantized(
    nets: dict[str, ModelProto], quantized: dict[str, ModelProto], inputs: Inputs, graph: str
) -> None:
    model = quantized[graph]
    before = model.SerializeToString()
    bare = without(model, [node.name for node in quantized_layers(model)])
    assert model.SerializeToString() == before  # a copy was changed
    assert operators(bare) == operators(nets[graph])
    used = {name for node in bare.graph.node for name in node.input}
    assert {tensor.name for tensor in bare.graph.initializer} <= used
    for expected, got in zip(run(nets[graph], inputs[graph]), run(bare, inputs[graph]), strict=True):
        assert np.array_equal(got, expected)


def test_what_only_moves_numbers_to_an_unquantized_layer_moves_them_unquantized(
    nets: dict[str, ModelProto], quantized: dict[str, ModelProto]
) -> None:
    """A pooling, whose input ModelOpt quantizes as well, stands in front of this layer."""
    model = quantized[INDEPENDENT]
    pooling = next(node for node in model.graph.node if node.op_type == "MaxPool")
    assert dequantized_inputs(model, pooling)
    (behind,) = (
        node.name for node in quantized_layers(model)
        if any(q.input[0] == pooling.output[0] for q, _ in dequantized_inputs(model, node))
    )  # fmt: skip
    changed = without(model, [behind])
    assert list(by_name(changed, pooling.name).input) == list(by_name(nets[INDEPENDENT], pooling.name).input)
    assert list(by_name(changed, behind).input) == list(by_name(nets[INDEPENDENT], behind).input)


def test_exclusions_reach_the_file_and_its_figures(tiny_bundle: Bundle, inputs: Inputs, tmp_path: Path) -> None:
    net = load_net(tiny_bundle.graphs[INDEPENDENT])
    flops = conv_flops(net)
    layers = [node.name for node in quantized_layers(quantize(net, inputs[INDEPENDENT], "g", "max"))]
    out = tmp_path / "int8.onnx"
    figures = to_int8(tiny_bundle.graphs[INDEPENDENT], inputs[INDEPENDENT], out, "max", layers[2:4])
    assert figures["excluded"] == sorted(layers[2:4])
    assert {node.name for node in quantized_layers(onnx.load(out))} == set(layers) - set(layers[2:4])
    left = figures["convolutions_left"]
    assert set(layers[2:4]) < set(left)
    total = sum(flops[node.name] for node in learned_nodes(net))
    assert left[layers[2]] == pytest.approx(flops[layers[2]] / total, abs=1e-5)
    assert figures["conv_flops_int8"] == pytest.approx(1 - sum(left.values()), abs=1e-3)
    assert figures["layers_int8"] == {"Conv": len(layers) - 2}


def test_a_layer_that_is_not_there_or_not_quantized_is_refused(quantized: dict[str, ModelProto]) -> None:
    model = quantized[COARSE]
    left = next(node.name for node in learned_nodes(model) if node not in quantized_layers(model))
    for name in ("node_Conv_of_another_net", left, model.graph.node[-1].name):
        with pytest.raises(EngineError, match=rf"^coarse\.onnx: {name} is not a quantized layer of this graph"):
            without(model, [name], "coarse.onnx")


def test_an_unknown_method_is_refused(nets: dict[str, ModelProto], inputs: Inputs) -> None:
    with pytest.raises(EngineError, match=r"^minmax: no such way to calibrate\. Take entropy or max\.$"):
        quantize(nets[COARSE], inputs[COARSE], "coarse.onnx", "minmax")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder, in which nothing may be left behind."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not list(tmp_path.iterdir())


def test_missing_modelopt_is_explained(
    tiny_bundle: Bundle, inputs: Inputs, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "modelopt.onnx.quantization", None)
    with pytest.raises(EngineError, match=r"^INT8 .*pip install ") as caught:
        to_int8(tiny_bundle.graphs[COARSE], inputs[COARSE], elsewhere / "int8.onnx")
    assert "\n" not in str(caught.value)


def test_a_failing_quantization_is_one_error(tiny_bundle: Bundle, elsewhere: Path) -> None:
    wrong = np.zeros((1, 2, 3, 4, 5), dtype=np.float32)
    with pytest.raises(EngineError, match=r"^coarse\.onnx: ModelOpt cannot quantize this graph: ") as caught:
        to_int8(tiny_bundle.graphs[COARSE], wrong, elsewhere / "int8.onnx")
    assert "\n" not in str(caught.value) and "Nothing was written" in caught.value.remedy


def test_a_conversion_is_quiet(
    nets: dict[str, ModelProto], inputs: Inputs, elsewhere: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    quantize(nets[COARSE], inputs[COARSE][:1], "coarse.onnx", "max")
    assert capfd.readouterr() == ("", "")


def test_the_shipped_coarse_net_on_a_real_scan(mouse_scans: list[Path], tmp_path: Path) -> None:
    """All its convolutions are INT8, and its points stay where they were."""
    bundle = open_bundle("mouse-skull")
    whole = OnnxRuntimeEngine({COARSE: bundle.graphs[COARSE]}, threads=1)
    localizer = Localizer(bundle.task, bundle.mean_shape, whole)
    calibration, other = (localizer.coarse_volume(read_scan(path))[None] for path in mouse_scans[:2])
    out = tmp_path / "int8.onnx"
    figures = to_int8(bundle.graphs[COARSE], calibration, out, "max")
    assert figures["conv_flops_int8"] == 1 and figures["convolutions_left"] == {}
    assert figures["layers_int8"]["Conv"] == len(learned_nodes(onnx.load(out))) == 36
    low = OnnxRuntimeEngine({COARSE: out}, "int8", threads=1)
    (expected,), (got,) = whole.run(COARSE, other), low.run(COARSE, other)
    assert 0 < np.linalg.norm(got - expected, axis=-1).mean() < 0.25 * bundle.task.coarse.spacing_mm[0]
