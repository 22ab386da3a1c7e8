"""FP16 graphs: the net is FP16, its decoding and what grows too large are not."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from tests.calibration.graphs import assert_decoding_untouched, change, stored, types
from tests.half_storage import store_half
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.calibration.fp16 import to_fp16
from trt_landmarks.calibration.graph import DECODING, learned_nodes
from trt_landmarks.calibration.recipe import DATA_MAX, RANGE_INPUTS
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.errors import EngineError
from trt_landmarks.export.parity import Inputs, random_inputs
from trt_landmarks.task.graphs import COARSE, INDEPENDENT

GRAPHS = (COARSE, INDEPENDENT, "group-mid")


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_net_is_fp16_and_the_decoding_fp32(
    tiny_bundle: Bundle, nets: dict[str, ModelProto], inputs: Inputs, tmp_path: Path, graph: str
) -> None:
    out = tmp_path / "half.onnx"
    figures = to_fp16(tiny_bundle.graphs[graph], inputs[graph], out)
    model = onnx.load(out)
    assert_decoding_untouched(nets[graph], model)
    assert [o.version for o in model.opset_import] == [20]
    kinds = types(model)
    learned = learned_nodes(model)
    assert len(learned) == len(learned_nodes(nets[graph]))
    assert all({kinds[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT16} for node in learned)
    assert figures["conv_flops_fp16"] > 0.99 and figures["nodes"]["fp16"] >= len(learned)
    assert figures["decoding_nodes"] == sum(node.name.startswith(DECODING) for node in model.graph.node)
    assert figures["calibration_inputs"] == 4 and figures["too_large"] == 0 and 0.5 < figures["largest"] < DATA_MAX
    whole, half = OnnxRuntimeEngine(tiny_bundle.graphs), OnnxRuntimeEngine({graph: out}, "fp16")
    for batch in (1, 3):
        array = inputs[graph][:batch]
        for expected, got in zip(whole.run(graph, array), half.run(graph, array), strict=True):
            assert got.dtype == np.float32 and got.shape == expected.shape
            assert 0 < np.abs(got - expected).max()  # it is rounded somewhere
            assert np.median(np.abs(got - expected)) < 0.01


def test_weights_stored_in_half_change_nothing(tiny_bundle: Bundle, inputs: Inputs, tmp_path: Path) -> None:
    plain, stored_half = tmp_path / "plain.onnx", tmp_path / "stored.onnx"
    model = onnx.load(tiny_bundle.graphs[INDEPENDENT])
    for tensor in model.graph.initializer:  # weights that FP16 holds exactly
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 5:
            rounded = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    onnx.save(model, plain)
    onnx.save(model, stored_half)
    store_half(stored_half)
    assert stored_half.stat().st_size < 0.8 * plain.stat().st_size
    results = []
    for number, source in enumerate((plain, stored_half)):
        out = tmp_path / f"{number}.onnx"
        to_fp16(source, inputs[INDEPENDENT], out)
        results.append(OnnxRuntimeEngine({"g": out}, "fp16").run("g", inputs[INDEPENDENT]))
    for expected, got in zip(*results, strict=True):
        assert np.array_equal(expected, got)


def test_what_overflows_on_the_inputs_stays_in_fp32(tiny_bundle: Bundle, inputs: Inputs, tmp_path: Path) -> None:
    model = onnx.load(tiny_bundle.graphs[COARSE])
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for node, factor in zip(convolutions[:2], (1e6, 1e-6), strict=True):  # beyond FP16's largest number, and back
        for name in node.input[1:2] if factor < 1 else node.input[1:]:
            change(model, name, stored(model, name) * factor)
    source, out = tmp_path / "loud.onnx", tmp_path / "half.onnx"
    onnx.save(model, source)
    figures = to_fp16(source, inputs[COARSE], out)
    assert 0 < figures["conv_flops_fp16"] < 0.99
    assert figures["too_large"] >= 2 and figures["largest"] > float(np.finfo(np.float16).max)
    (expected,) = OnnxRuntimeEngine({"g": source}).run("g", inputs[COARSE])
    (got,) = OnnxRuntimeEngine({"g": out}, "fp16").run("g", inputs[COARSE])
    assert np.isfinite(got).all() and np.abs(got - expected).max() < 0.05


def test_ranges_are_taken_from_a_few_inputs(tiny_bundle: Bundle, tmp_path: Path) -> None:
    many = random_inputs(tiny_bundle.task, RANGE_INPUTS + 2)[COARSE]
    many[RANGE_INPUTS:] *= 1e4
    figures = to_fp16(tiny_bundle.graphs[COARSE], many, tmp_path / "half.onnx")
    assert figures["calibration_inputs"] == RANGE_INPUTS and figures["too_large"] == 0
    many[1] *= 1e4
    figures = to_fp16(tiny_bundle.graphs[COARSE], many, tmp_path / "half.onnx")
    assert figures["too_large"] > 0 and figures["largest"] > 1e3


def test_missing_modelopt_is_explained(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt.onnx.autocast", None)
    inputs = random_inputs(tiny_bundle.task, 1)[COARSE]
    with pytest.raises(EngineError, match=r"^FP16 .*pip install "):
        to_fp16(tiny_bundle.graphs[COARSE], inputs, tmp_path / "half.onnx")
    assert not list(tmp_path.iterdir())


def test_a_failing_conversion_is_one_error(tiny_bundle: Bundle, tmp_path: Path) -> None:
    wrong = np.zeros((1, 2, 3, 4, 5), dtype=np.float32)
    with pytest.raises(EngineError, match=r"coarse\.onnx: ModelOpt AutoCast cannot convert") as caught:
        to_fp16(tiny_bundle.graphs[COARSE], wrong, tmp_path / "half.onnx")
    assert "\n" not in str(caught.value) and caught.value.remedy
    assert not list(tmp_path.iterdir())
