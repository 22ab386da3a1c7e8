"""Graphs of the small task in lower precision, made once."""

from __future__ import annotations

import pytest
from onnx import ModelProto

from tests.calibration.folders import annotate, write_scans
from tests.calibration.graphs import LEFT_OUT, Lowered
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.calibration.fp16 import half
from trt_landmarks.calibration.graph import load_net
from trt_landmarks.calibration.int8 import quantize
from trt_landmarks.calibration.lower import lower
from trt_landmarks.calibration.recipe import Recipe
from trt_landmarks.calibration.scans import CalibrationScans, choose_scans
from trt_landmarks.export.parity import Inputs, random_inputs


@pytest.fixture(scope="session")
def inputs(tiny_bundle: Bundle) -> Inputs:
    """Four inputs of every graph."""
    return random_inputs(tiny_bundle.task, 4)


@pytest.fixture(scope="session")
def nets(tiny_bundle: Bundle) -> dict[str, ModelProto]:
    """The FP32 nets with their decoding marked; not to be changed."""
    return {graph: load_net(path) for graph, path in tiny_bundle.graphs.items()}


@pytest.fixture(scope="session")
def quantized(nets: dict[str, ModelProto], inputs: Inputs) -> dict[str, ModelProto]:
    """The nets with Q/DQ nodes, FP32 around them; not to be changed."""
    return {graph: quantize(net, inputs[graph], f"{graph}.onnx", "max") for graph, net in nets.items()}


@pytest.fixture(scope="session")
def halved(nets: dict[str, ModelProto], inputs: Inputs) -> dict[str, ModelProto]:
    """The nets in FP16; not to be changed."""
    return {graph: half(net, inputs[graph], f"{graph}.onnx")[0] for graph, net in nets.items()}


@pytest.fixture(scope="session")
def scans(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> CalibrationScans:
    """Two to calibrate on, two to measure on, one of these annotated."""
    root = tmp_path_factory.mktemp("scans")
    write_scans(root / "images", [f"head{n}" for n in range(5)])
    chosen = choose_scans(root, 2, 2)
    annotate(root / "landmarks", [chosen.held_out[0].id], tiny_bundle.task.landmarks)
    return choose_scans(root, 2, 2)


@pytest.fixture(scope="session")
def accepted(tiny_bundle: Bundle, scans: CalibrationScans, tmp_path_factory: pytest.TempPathFactory) -> Lowered:
    """INT8 of nets with random weights, which the gate does not let pass; one layer is left out."""
    folder = tmp_path_factory.mktemp("graphs")
    said: list[str] = []
    recipe = Recipe("int8", "max", (f"independent:{LEFT_OUT}",))
    findings = folder / "findings.jsonl"
    files, facts = lower(tiny_bundle, recipe, scans, folder, said.append, findings=findings, accept_deviation=True)
    return Lowered(files, facts, said)
