"""Graphs in the form for the CPU: the plain graphs' results, with the plain graphs' weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.half_storage import store_half
from tests.synthetic import scramble
from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.errors import BundleError
from trt_landmarks.export.cpu_graphs import write_cpu_graph
from trt_landmarks.export.onnx_graphs import export_graph
from trt_landmarks.export.parity import compare, random_inputs
from trt_landmarks.nets.folding import folded, rounded_to_half
from trt_landmarks.nets.unet import UNets
from trt_landmarks.task.graphs import INDEPENDENT, group_graph


def test_the_bundles_cpu_graphs_give_what_its_plain_ones_give(tiny_bundle: Bundle) -> None:
    own = {name: path for name, path in tiny_bundle.cpu_graphs.items() if path != tiny_bundle.graphs[name]}
    assert group_graph("mid") in own
    inputs = {name: array for name, array in random_inputs(tiny_bundle.task, 3).items() if name in own}
    plain = OnnxRuntimeEngine(tiny_bundle.graphs)
    report = compare(plain, OnnxRuntimeEngine(own), tiny_bundle.task, inputs, batches=(1, 3))
    for name, figures in report.items():
        assert figures["max_voxel"] <= 1e-3
        assert tiny_bundle.manifest["parity"]["cpu_form"][name]["max_voxel"] <= 1e-3


class Heatmaps(torch.nn.Module):
    """A net that gives heatmaps, in the shape that export expects."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = UNets(2, 16, 2)
        scramble(self.nets, 3)

    def forward(self, patches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heatmaps = self.nets(patches)
        return heatmaps.flatten(2)[:, :, :3], heatmaps.flatten(2).amax(dim=2)


@pytest.mark.parametrize("half", [False, True])
def test_weights_are_stored_once(half: bool, tmp_path: Path) -> None:
    plain = tmp_path / "independent.onnx"
    net = rounded_to_half(folded(Heatmaps().eval()))
    export_graph(net, INDEPENDENT, (2, 8, 8, 8), plain)
    if half:
        store_half(plain)
    path = write_cpu_graph(net, INDEPENDENT, (2, 8, 8, 8), plain)
    assert path == tmp_path / "independent.cpu.onnx"
    graph = onnx.load(path, load_external_data=False).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    cuts = [node.input[0] for node in graph.node if node.op_type == "Slice"]
    assert cuts and not [name for name in cuts if makers.get(name) == "Slice" and uses[name] == 1]  # all axes at once
    stored = graph.initializer
    outside = [tensor for tensor in stored if tensor.data_location == onnx.TensorProto.EXTERNAL]
    assert len(outside) >= 5
    assert {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"} == {
        plain.name
    }
    assert {tensor.data_type for tensor in outside} == {onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT}
    assert max(len(tensor.raw_data) for tensor in stored) < 2048
    patches = np.random.default_rng(0).random((1, 2, 8, 8, 8), dtype=np.float32)
    expected = OnnxRuntimeEngine({"g": plain}).run("g", patches)
    found = OnnxRuntimeEngine({"g": path}).run("g", patches)
    with torch.inference_mode():
        reference = net(torch.from_numpy(patches))
    for one, other, third in zip(expected, found, reference, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)
        np.testing.assert_allclose(other, third.numpy(), atol=1e-4)


def test_a_changed_weight_file_is_noticed(bundle: Bundle) -> None:
    path = bundle.graphs[group_graph("mid")]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    try:
        with pytest.raises(BundleError, match="SHA-256"):
            open_bundle(bundle.root)
    finally:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
