"""Nets from graphs: the same nets, or an error."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from tests.half_storage import store_half
from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.errors import BundleError
from trt_landmarks.export.parity import random_inputs
from trt_landmarks.export.weights import nets_from_bundle, restored, stored
from trt_landmarks.nets.folding import folded
from trt_landmarks.nets.model import build_nets
from trt_landmarks.training.checkpoint import Checkpoint


@pytest.fixture
def graph(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A graph that a test may spoil."""
    return Path(shutil.copy(tiny_bundle.graphs["independent"], tmp_path))


def test_nets_come_back_as_they_were_exported(tiny_bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    nets = nets_from_bundle(tiny_bundle)
    assert set(nets) == set(tiny_checkpoint.nets)
    for name, array in random_inputs(tiny_bundle.task, 1, seed=5).items():
        x = torch.from_numpy(array)
        with torch.inference_mode():
            one, other, small = (net(x) for net in (nets[name], tiny_checkpoint.nets[name], folded(nets[name])))
        assert not nets[name].training
        for a, b, c in zip(*((y,) if isinstance(y, torch.Tensor) else y for y in (one, other, small)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(c, b, rtol=1e-4, atol=1e-4)


def test_weights_stored_in_half_are_found(graph: Path) -> None:
    before = stored(graph)
    model = onnx.load(graph)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            rounded = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    onnx.save(model, graph)
    store_half(graph)
    assert any(tensor.name.endswith(".half") for tensor in onnx.load(graph).graph.initializer)
    after = stored(graph)
    assert set(before) == set(after)
    for name, array in before.items():
        assert after[name].dtype == np.float32
        np.testing.assert_allclose(after[name], array, rtol=1e-3, atol=1e-6)


def test_the_shipped_models_graphs_hold_all_weights() -> None:
    bundle = open_bundle("mouse-skull", verify=False)
    for name, net in build_nets(bundle.task).items():
        if name != "independent":  # the same kind of net, and four times as large
            restored(net, stored(bundle.graphs[name]), bundle.graphs[name])


def test_a_weight_in_another_shape_serves_and_of_another_size_does_not(graph: Path, tiny_bundle: Bundle) -> None:
    tensors = stored(graph)
    name = "nets.encoder.levels.0.0.conv.weight"
    tensors[name] = tensors[name].reshape(3, -1, 3, 3, 3)
    restored(build_nets(tiny_bundle.task)["independent"], tensors, graph)
    for wrong in (tensors | {name: tensors[name].ravel()[:-1]}, {k: v for k, v in tensors.items() if k != name}):
        with pytest.raises(BundleError, match=name):
            restored(build_nets(tiny_bundle.task)["independent"], wrong, graph)


def test_weights_in_another_order_are_refused(bundle: Bundle) -> None:
    path = bundle.graphs["independent"]
    model = onnx.load(path)
    original = path.read_bytes()
    tensor = next(t for t in model.graph.initializer if t.name == "nets.encoder.levels.0.0.conv.weight")
    turned = numpy_helper.to_array(tensor)[::-1].copy()
    # Two tensors: the graph computes with one, and the other has the parameter's name.
    tensor.name = "elsewhere"
    for node in model.graph.node:
        node.input[:] = ["elsewhere" if name == "nets.encoder.levels.0.0.conv.weight" else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(turned, "nets.encoder.levels.0.0.conv.weight"))
    onnx.save(model, path)
    try:
        with pytest.raises(BundleError, match="do not make the net"):
            nets_from_bundle(bundle)
    finally:
        path.write_bytes(original)
