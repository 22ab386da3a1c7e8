"""Blame: one layer is spoilt on purpose, and it is the one that is named first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from tests.calibration.graphs import change, copied, stored
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.calibration.blame import WORST, layers_to_blame
from trt_landmarks.calibration.fp16 import half
from trt_landmarks.calibration.graph import learned_nodes
from trt_landmarks.export.parity import Inputs
from trt_landmarks.task.graphs import COARSE, INDEPENDENT

GRAPHS = (COARSE, INDEPENDENT, "group-mid")


@pytest.mark.parametrize("place", [0, 0.4, 0.7, 1])
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_spoilt_fp16_weight_is_found(
    tiny_bundle: Bundle, halved: dict[str, ModelProto], inputs: Inputs, tmp_path: Path, graph: str, place: float
) -> None:
    model = copied(halved[graph])
    layers = [n for n in learned_nodes(model) if len(stored(model, n.input[1]).shape) == 5]
    node = layers[round(place * (len(layers) - 1))]
    weights = stored(model, node.input[1])
    noise = np.random.default_rng(0).normal(size=weights.shape) * weights.std()
    change(model, node.input[1], weights + 0.5 * noise)
    onnx.save(model, tmp_path / "spoilt.onnx")
    found = layers_to_blame(tiny_bundle.graphs[graph], tmp_path / "spoilt.onnx", inputs[graph][:2])
    assert len(found) == WORST
    assert (found[0]["node"], found[0]["operator"]) == (node.name, "Conv")
    assert found[0]["added"] > 0.3  # although later layers enlarge the error they inherit, they are not blamed for it
    assert 0.002 > found[1]["added"] >= found[2]["added"] > 0


@pytest.mark.parametrize("place", [0, 0.3, 0.6, 1])
@pytest.mark.parametrize("graph", [INDEPENDENT, "group-mid"])
def test_a_spoilt_int8_scale_is_found(
    tiny_bundle: Bundle, quantized: dict[str, ModelProto], inputs: Inputs, tmp_path: Path, graph: str, place: float
) -> None:
    model = copied(quantized[graph])
    producers = {name: node for node in model.graph.node for name in node.output}
    used = [name for node in model.graph.node for name in node.input]
    layers = [
        node for node in learned_nodes(model)
        if producers[node.input[0]].op_type == "DequantizeLinear" and used.count(node.input[0]) == 1
        and "conv1d" not in node.name  # whose biases outweigh what they take
    ]  # fmt: skip
    node = layers[round(place * (len(layers) - 1))]
    scale = producers[node.input[0]].input[1]
    assert used.count(scale) == 2  # the pair's own
    change(model, scale, stored(model, scale) * 40)
    spoilt, _ = half(model, inputs[graph], graph)
    onnx.save(spoilt, tmp_path / "spoilt.onnx")
    found = layers_to_blame(tiny_bundle.graphs[graph], tmp_path / "spoilt.onnx", inputs[graph][:2])
    assert found[0]["node"] == node.name and found[0]["added"] > 3 * found[1]["added"]


def test_an_overflow_is_blamed_where_it_begins(
    tiny_bundle: Bundle, halved: dict[str, ModelProto], inputs: Inputs, tmp_path: Path
) -> None:
    model = copied(halved[INDEPENDENT])
    node = learned_nodes(model)[4]
    change(model, node.input[1], np.where(stored(model, node.input[1]) > 0, 6e4, -6e4))
    onnx.save(model, tmp_path / "spoilt.onnx")
    found = layers_to_blame(tiny_bundle.graphs[INDEPENDENT], tmp_path / "spoilt.onnx", inputs[INDEPENDENT][:1] * 1e4)
    assert found[0]["node"] == node.name and found[0]["added"] == np.inf
    assert all(np.isfinite(layer["added"]) for layer in found[1:])


def test_a_good_graph_has_little_to_blame(
    tiny_bundle: Bundle, halved: dict[str, ModelProto], inputs: Inputs, tmp_path: Path
) -> None:
    for graph in GRAPHS:
        onnx.save(halved[graph], tmp_path / "half.onnx")
        found = layers_to_blame(tiny_bundle.graphs[graph], tmp_path / "half.onnx", inputs[graph][:1])
        assert len({layer["node"] for layer in found}) == WORST
        assert all(0 < layer["added"] < 0.002 for layer in found)
