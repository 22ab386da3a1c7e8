"""Sensitivity: a layer that INT8 harms is found, left out, and nothing is measured twice."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.calibration.graphs import change, copied, run, stored
from trt_landmarks.calibration.graph import learned_nodes, mark_decoding
from trt_landmarks.calibration.int8 import describe, quantize, quantized_layers, without
from trt_landmarks.calibration.recipe import AIM_VOXEL, LEAST_INT8
from trt_landmarks.calibration.sensitivity import Findings, sensitivity
from trt_landmarks.export.parity import Inputs
from trt_landmarks.task.graphs import INDEPENDENT

LAYERS = 9
#: Edge of a voxel, mm: well above what the healthy chain below deviates, and well below what a spoilt one does.
SPACING = 0.15


def chain(*outliers: int) -> ModelProto:
    """Convolutions of equal cost one behind the other, and three points read off their means.

    An outlier's first output channel is 300 times larger, and the next layer weighs it 300 times less: the same in
    FP32, but one INT8 range for both that channel and the others.
    """
    rng = np.random.default_rng(7)
    nodes, weights, before = [], {}, "volume"
    for n in range(LAYERS):
        shape = (16, 16 if n else 1, 3, 3, 3)
        weights[f"w{n}"] = rng.normal(scale=(2 / np.prod(shape[1:])) ** 0.5, size=shape).astype(np.float32)
        nodes += [
            helper.make_node("Conv", [before, f"w{n}"], [f"c{n}"], name=f"conv{n}", pads=[1] * 6),
            helper.make_node("Relu", [f"c{n}"], [f"r{n}"], name=f"relu{n}"),
        ]
        before = f"r{n}"
    for n in outliers:
        weights[f"w{n}"][0] *= 300
        weights[f"w{n + 1}"][:, 0] /= 300
    weights["head"] = rng.normal(size=(16, 9)).astype(np.float32)
    whole = {"axes": np.array([2, 3, 4]), "shape": np.array([-1, 3, 3])}
    nodes += [
        helper.make_node("ReduceMean", [before, "axes"], ["means"], name="means", keepdims=0),
        helper.make_node("MatMul", ["means", "head"], ["flat"], name="head"),
        helper.make_node("Reshape", ["flat", "shape"], ["points"], name="reshape"),
    ]
    graph = helper.make_graph(
        nodes, "chain",
        [helper.make_tensor_value_info("volume", TensorProto.FLOAT, ["batch", 1, 8, 8, 8])],
        [helper.make_tensor_value_info("points", TensorProto.FLOAT, ["batch", 3, 3])],
        [numpy_helper.from_array(array, name) for name, array in {**weights, **whole}.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    mark_decoding(model)
    return model


@pytest.fixture(scope="module")
def volumes() -> NDArray[np.float32]:
    return np.random.default_rng(1).random((2, 1, 8, 8, 8), dtype=np.float32)


def spoilt(volumes: NDArray[np.float32], *outliers: int) -> tuple[ModelProto, ModelProto]:
    net = chain(*outliers)
    return net, quantize(net, volumes, "chain.onnx", "max")


def name_of(net: ModelProto, layer: int) -> str:
    return learned_nodes(net)[layer].name


def test_the_chain_is_the_same_in_fp32(volumes: NDArray[np.float32]) -> None:
    (expected,), (got,) = run(chain(), volumes), run(chain(2, 5), volumes)
    assert np.allclose(got, expected, rtol=1e-4, atol=1e-5) and np.abs(expected).max() > 0.3


def test_nothing_is_left_out_where_nothing_is_wrong(volumes: NDArray[np.float32], tmp_path: Path) -> None:
    net, quantized = spoilt(volumes)
    said: list[str] = []
    found = sensitivity(net, quantized, volumes, SPACING, Findings(tmp_path / "f", "key"), "chain", said.append)
    assert found["excluded"] == [] and 0 < found["mean_mm"] == found["mean_mm_excluded"] <= AIM_VOXEL * SPACING
    names = [node.name for node in quantized_layers(quantized)]
    assert sorted(layer["node"] for layer in found["layers"]) == sorted(names)
    assert [layer["alone_mm"] for layer in found["layers"]] == sorted(
        (layer["alone_mm"] for layer in found["layers"]), reverse=True
    )
    assert sum(layer["conv_flops"] for layer in found["layers"]) == pytest.approx(1, abs=0.05)
    assert len(said) == len(names) and said[0].startswith(f"chain: layer 1 of {len(names)}, {names[0]}: alone ")
    # The figures are what they say.
    exact = run(net, volumes)[0]
    row = next(layer for layer in found["layers"] if layer["node"] == names[3])
    for left_out, figure in (([n for n in names if n != names[3]], "alone_mm"), ([names[3]], "without_mm")):
        got = run(without(quantized, left_out), volumes)[0]
        assert row[figure] == pytest.approx(np.linalg.norm(got - exact, axis=-1).mean(), abs=1e-6)


@pytest.mark.parametrize("outlier", [1, 4, 7])
def test_a_layer_with_an_outlier_ranks_first_and_is_left_out(
    volumes: NDArray[np.float32], tmp_path: Path, outlier: int
) -> None:
    net, quantized = spoilt(volumes, outlier)
    found = sensitivity(net, quantized, volumes, SPACING, Findings(tmp_path / "f", "key"), "chain")
    harmed = name_of(net, outlier + 1)  # it takes the channel that spoils the range
    first, second = found["layers"][:2]
    assert first["node"] == harmed and first["operator"] == "Conv"
    assert first["alone_mm"] > 3 * second["alone_mm"]
    assert found["mean_mm"] > AIM_VOXEL * SPACING >= found["mean_mm_excluded"]
    assert found["excluded"] == [harmed]
    assert describe(net, without(quantized, found["excluded"]))["conv_flops_int8"] >= LEAST_INT8


def test_at_least_four_fifths_stay_in_int8(volumes: NDArray[np.float32], tmp_path: Path) -> None:
    """Two layers ask to be left out; together they are more than a fifth of the work."""
    net, quantized = spoilt(volumes, 3, 6)
    found = sensitivity(net, quantized, volumes, SPACING / 100, Findings(tmp_path / "f", "key"), "chain")
    harmed = {name_of(net, 4), name_of(net, 7)}
    assert {layer["node"] for layer in found["layers"][:2]} == harmed
    assert len(harmed & set(found["excluded"])) == 1
    share = describe(net, without(quantized, found["excluded"]))["conv_flops_int8"]
    assert LEAST_INT8 <= share < 1
    assert describe(net, without(quantized, harmed))["conv_flops_int8"] < LEAST_INT8
    assert found["mean_mm_excluded"] < found["mean_mm"]


def test_a_ruined_scale_in_a_real_net(
    nets: dict[str, ModelProto], quantized: dict[str, ModelProto], inputs: Inputs, tmp_path: Path
) -> None:
    model = copied(quantized[INDEPENDENT])
    ruined = quantized_layers(model)[0]
    producers = {name: node for node in model.graph.node for name in node.output}
    scale = producers[ruined.input[0]].input[1]
    change(model, scale, stored(model, scale) * 60)
    net, array = nets[INDEPENDENT], inputs[INDEPENDENT][:2]
    found = sensitivity(net, model, array, 0.5, Findings(tmp_path / "f", "key"), INDEPENDENT)
    assert found["layers"][0]["node"] == ruined.name and found["excluded"] == [ruined.name]
    assert found["mean_mm"] > 0.05 > found["mean_mm_excluded"]
    assert describe(net, without(model, [ruined.name]))["conv_flops_int8"] > LEAST_INT8


class Counter:
    """Counts the measurements of quantized models, and stops at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = importlib.import_module("trt_landmarks.calibration.sensitivity")
        self.measured: list[bytes] = []
        self.stop_at = -1
        original = module._points

        def points(model: ModelProto, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
            if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
                if len(self.measured) == self.stop_at:
                    raise KeyboardInterrupt
                self.measured.append(model.SerializeToString(deterministic=True))
            return original(model, inputs)

        monkeypatch.setattr(module, "_points", points)


def test_an_interrupted_measurement_goes_on_where_it_stopped(
    volumes: NDArray[np.float32], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, quantized = spoilt(volumes, 4)
    whole = sensitivity(net, quantized, volumes, SPACING, Findings(tmp_path / "whole", "key"), "chain")
    path = tmp_path / "findings"
    count = Counter(monkeypatch)
    for stop in (0, 1, 8, 13):
        count.stop_at = stop
        with pytest.raises(KeyboardInterrupt):
            sensitivity(net, quantized, volumes, SPACING, Findings(path, "key"), "chain")
        assert len(count.measured) == stop == len(path.read_text().splitlines() if path.exists() else [])
    count.stop_at = -1
    assert sensitivity(net, quantized, volumes, SPACING, Findings(path, "key"), "chain") == whole
    assert len(count.measured) == len(set(count.measured)) == 1 + 2 * len(quantized_layers(quantized))
    before = path.read_bytes()
    assert before == (tmp_path / "whole").read_bytes()
    # Once more: nothing is measured, nothing is written.
    assert sensitivity(net, quantized, volumes, SPACING, Findings(path, "key"), "chain") == whole
    assert len(set(count.measured)) == len(count.measured) and path.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_that_was_not_finished_is_measured_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "findings"
    first = Findings(path, "key")
    for n, what in enumerate("abc"):
        assert first.get(what, lambda n=n: n / 8) == n / 8  # type: ignore[misc]
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    kept = [line for line in whole[:-cut].splitlines() if line in whole.splitlines()]
    lost = 3 - len(kept)
    assert lost == (1 if cut < 40 else 2)
    again = Findings(path, "key")
    measured: list[str] = []

    def measure(what: str) -> float:
        measured.append(what)
        return 7.5

    values = [again.get(what, lambda what=what: measure(what)) for what in "abc"]  # type: ignore[misc]
    assert measured == list("abc")[-lost:]
    assert values == [0, 1 / 8][: 3 - lost] + [7.5] * lost
    third = Findings(path, "key")
    assert [third.get(what, lambda: -1.0) for what in "abc"] == values
    assert all(json.loads(line) for line in path.read_text().splitlines() if line.endswith("}"))


def test_findings_of_another_key_and_nonsense_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "findings"
    Findings(path, "one").get("what", lambda: 1.0)
    with path.open("a") as file:
        file.write('\n[1, 2]\n"text"\n5\nnull\n{"key": "two"}\n{"key": "two", "what": "x", "mean_mm": "y"}\n\n')
    two = Findings(path, "two")
    assert two.get("what", lambda: 2.0) == 2 and two.get("x", lambda: 3.0) == 3
    assert Findings(path, "one").get("what", lambda: -1.0) == 1
    assert Findings(path, "two").get("what", lambda: -1.0) == 2
