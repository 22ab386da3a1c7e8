"""Parity of graphs and nets: heatmaps everywhere, positions where there is a peak."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from tests.calibration.graphs import change, stored
from tests.synthetic import about, rotation
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.errors import EngineError
from trt_landmarks.export.parity import FP32_TOLERANCE_VOXEL, HEATMAP_TOLERANCE, parity, random_inputs, unjudged
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.nets.folding import folded
from trt_landmarks.scan import Scan
from trt_landmarks.task.graphs import INDEPENDENT
from trt_landmarks.training.checkpoint import Checkpoint

#: What an untrained head gives, beside a trained one.
FLAT = 1e-6


@pytest.fixture
def nets(tiny_checkpoint: Checkpoint) -> dict[str, nn.Module]:
    return {graph: copy.deepcopy(folded(net)) for graph, net in tiny_checkpoint.nets.items()}


@torch.no_grad()
def flattened(nets: dict[str, nn.Module], bundle: Bundle, folder: Path) -> dict[str, Path]:
    """Make the heatmaps of all fine nets, and of their graphs, flat."""
    files = {}
    for graph in (INDEPENDENT, "group-mid"):
        model = onnx.load(bundle.graphs[graph])
        for name, weight in nets[graph].named_parameters():
            if name.endswith(("decoder.head.weight", "slice_branch.head.weight")):
                weight.mul_(FLAT)
                change(model, name, FLAT * stored(model, name))
        files[graph] = folder / f"{graph}.onnx"
        onnx.save(model, files[graph])
    return files


def test_trained_nets_are_judged_by_positions(nets: dict[str, nn.Module], tiny_bundle: Bundle) -> None:
    report = parity(nets, tiny_bundle.graphs, tiny_bundle.task, random_inputs(tiny_bundle.task, 3))
    for graph in (INDEPENDENT, "group-mid"):
        assert 0 < report[graph]["judged"] <= report[graph]["positions"] == 9
        assert 0 < report[graph]["max_heatmap"] <= HEATMAP_TOLERANCE
        assert report[graph]["max_voxel"] <= FP32_TOLERANCE_VOXEL


def test_flat_heatmaps_are_compared_as_a_whole_and_it_is_said(
    nets: dict[str, nn.Module], tiny_bundle: Bundle, tmp_path: Path
) -> None:
    files = flattened(nets, tiny_bundle, tmp_path)
    inputs = random_inputs(tiny_bundle.task, 3)
    report = parity(nets, files, tiny_bundle.task, inputs)
    assert [report[graph]["judged"] for graph in files] == [0, 0]
    assert len(unjudged(report)) == 2
    with torch.no_grad():
        for name, bias in nets[INDEPENDENT].named_parameters():
            if name.endswith("head.bias"):
                bias.add_(1e-3)
    with pytest.raises(EngineError) as caught:
        parity(nets, files, tiny_bundle.task, inputs)
    assert caught.value.code == "parity_failed"


def test_a_moved_peak_is_seen(nets: dict[str, nn.Module], tiny_bundle: Bundle) -> None:
    with torch.no_grad():
        nets[INDEPENDENT].to_millimetres.spacing.mul_(1.01)  # type: ignore[union-attr,operator]
    with pytest.raises(EngineError) as caught:
        parity(nets, tiny_bundle.graphs, tiny_bundle.task, random_inputs(tiny_bundle.task, 3))
    assert caught.value.code == "parity_failed"


def test_every_graph_has_heatmaps_to_compare(nets: dict[str, nn.Module], tiny_bundle: Bundle) -> None:
    graphs = {g: f for g, f in tiny_bundle.cpu_graphs.items() if g != "coarse"}
    report = parity(nets, graphs, tiny_bundle.task, random_inputs(tiny_bundle.task, 1), batches=(1,))
    assert all(np.isfinite(figures["max_heatmap"]) and figures["max_heatmap"] > 0 for figures in report.values())


@pytest.mark.parametrize("kind", ["line", "nearly a line", "one place"])
def test_a_shape_without_a_frame_gives_the_same_through_both(
    nets: dict[str, nn.Module], tiny_bundle: Bundle, kind: str
) -> None:
    """PyTorch's nets and the graphs of ``infer``, where a rotation would be drawn from rounding errors."""
    rng = np.random.default_rng(3)
    along = np.outer(rng.uniform(-5, 5, 6), [1, 2, -1])
    shape = {"line": along, "nearly a line": along + rng.normal(size=(6, 3)) * 1e-3, "one place": np.ones((6, 3))}[kind]
    with torch.no_grad():  # coarse points are the shape and a little more
        nets["coarse"].head.weight.mul_(1e-4)  # type: ignore[union-attr,operator]
    coarse = {"coarse": nets["coarse"]}
    points = torch.tensor(shape, dtype=torch.float32)
    nets["coarse"].mean_shape.copy_(points)  # type: ignore[union-attr,operator]
    geometry = about((3, 4, 5), (40, 40, 40), (0.6, 0.6, 0.6), rotation(5, 10, -4))
    scan = Scan("scan", None, rng.random(geometry.size[::-1]).astype(np.float32), geometry)
    found = [
        Localizer(tiny_bundle.task, shape, engine).localize(scan).points
        for engine in (TorchEngine(nets), _Both(coarse, tiny_bundle))
    ]
    assert np.median(np.linalg.norm(found[0] - found[1], axis=1)) < 1e-3


class _Both:
    """The coarse net in PyTorch, its points a rounding error off; the fine graphs that ``infer`` runs."""

    name = provider = "both"
    precision = "fp32"

    def __init__(self, coarse: dict[str, nn.Module], bundle: Bundle) -> None:
        self.coarse, self.fine = TorchEngine(coarse), OnnxRuntimeEngine(bundle.cpu_graphs)

    def run(self, graph: str, *arrays: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        if graph != "coarse":
            return self.fine.run(graph, *arrays)
        (points,) = self.coarse.run(graph, *arrays)
        return (points + np.random.default_rng(0).normal(size=points.shape).astype(np.float32) * 1e-6,)
