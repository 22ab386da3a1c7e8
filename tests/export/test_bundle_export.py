"""Export: graphs that equal PyTorch, in a bundle that is whole or not there."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.errors import BundleError, EngineError
from trt_landmarks.export import bundle as export_module
from trt_landmarks.export import parity as parity_module
from trt_landmarks.export.bundle import export_bundle, renew_bundle
from trt_landmarks.export.parity import compare, random_inputs
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.nets.folding import folded
from trt_landmarks.scan import read_scan
from trt_landmarks.task.graphs import graph_names, input_shapes
from trt_landmarks.training.checkpoint import Checkpoint

#: Mean movement that rounding aims at, voxels.
MOVEMENT = 0.001


def test_the_graphs_equal_pytorch_at_every_batch(tiny_bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    task = tiny_bundle.task
    inputs = random_inputs(task, 7, seed=5)
    reference = TorchEngine({graph: folded(net) for graph, net in tiny_checkpoint.nets.items()})
    report = compare(reference, OnnxRuntimeEngine(tiny_bundle.graphs), task, inputs, batches=(1, 2, 3, 5, 7))
    assert set(report) == set(graph_names(task))
    for figures in report.values():
        assert figures["max_voxel"] <= 1e-3
        assert figures["max_confidence"] <= 1e-3


def test_compare_sees_a_difference(tiny_bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    task = tiny_bundle.task
    nets = {graph: folded(net) for graph, net in tiny_checkpoint.nets.items()}
    reference = TorchEngine(nets)
    with torch.no_grad():
        nets["coarse"].head.bias += 0.01  # type: ignore[union-attr,operator]
    report = compare(reference, OnnxRuntimeEngine(tiny_bundle.graphs), task, random_inputs(task, 2))
    moved = 0.01 * 0.1 * np.linalg.norm(task.coarse.field_of_view_mm)
    assert report["coarse"]["max_mm"] == pytest.approx(moved, rel=0.01)


def test_the_manifest_tells_what_was_measured(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    assert manifest["parity"]["against"] == "PyTorch FP32"
    for graph in graph_names(tiny_bundle.task):
        assert manifest["parity"][graph]["batches"] == [1, 2, 5]
        assert manifest["parity"][graph]["max_voxel"] <= 1e-3
    assert manifest["versions"]["torch"] == torch.__version__


def test_graphs_are_clean(tiny_bundle: Bundle) -> None:
    for path in tiny_bundle.graphs.values():
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert model.opset_import[0].version >= 20
        assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
        assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
        here = str(Path(__file__).parent.parent.parent)
        assert here.encode() not in path.read_bytes()  # no path of the exporting machine


@pytest.fixture(scope="module")
def compact(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export_bundle(tiny_checkpoint, tmp_path_factory.mktemp("compact") / "bundle", compact=MOVEMENT)


def test_compact_storage_keeps_the_points(compact: Bundle, tiny_bundle: Bundle) -> None:
    size = [sum(path.stat().st_size for path in bundle.root.rglob("*.onnx*")) for bundle in (compact, tiny_bundle)]
    assert size[0] < 0.5 * size[1]
    assert not list(compact.root.rglob("*.onnx"))
    engines = OnnxRuntimeEngine(tiny_bundle.graphs), OnnxRuntimeEngine(compact.graphs)
    report = compare(*engines, compact.task, random_inputs(compact.task, 3, seed=2), batches=(1,))
    assert 0 < report["coarse"]["mean_voxel"] <= 3 * MOVEMENT
    assert max(figures["mean_voxel"] for figures in report.values()) <= 0.01
    rounding = compact.manifest["parity"]["rounding_of_weights"]
    assert rounding["aim_voxel"] == MOVEMENT and "max_voxel" in rounding["coarse"]


def test_a_compact_bundle_renewed_is_the_same(compact: Bundle, tmp_path: Path) -> None:
    again = renew_bundle(compact, tmp_path / "again")
    assert again.manifest["files"] == compact.manifest["files"]
    assert again.digests == compact.digests


def test_an_older_bundle_becomes_compact(tiny_bundle: Bundle, compact: Bundle, tmp_path: Path) -> None:
    made = renew_bundle(tiny_bundle, tmp_path / "made", compact=MOVEMENT)
    assert set(made.packed) == set(compact.packed)
    assert made.manifest["training"] == tiny_bundle.manifest["training"]
    with pytest.raises(BundleError, match="already exists"):
        renew_bundle(tiny_bundle, made.root, compact=MOVEMENT)


def test_parity_on_real_scans(tiny_checkpoint: Checkpoint, mouse_scans: list[Path], tmp_path: Path) -> None:
    scans = [read_scan(path) for path in mouse_scans[:2]]
    bundle = export_bundle(tiny_checkpoint, tmp_path / "bundle", scans=scans)
    assert bundle.manifest["parity"]["on"] == [scan.id for scan in scans]
    ours = Localizer(bundle.task, bundle.mean_shape, OnnxRuntimeEngine(bundle.graphs)).localize(scans[0])
    nets = TorchEngine(tiny_checkpoint.nets)
    theirs = Localizer(bundle.task, tiny_checkpoint.mean_shape, nets).localize(scans[0])
    np.testing.assert_allclose(ours.coarse_points, theirs.coarse_points, atol=1e-3)


def test_a_graph_that_differs_is_not_written(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity_module, "HEATMAP_TOLERANCE", -1.0)
    with pytest.raises(EngineError, match="differs from PyTorch"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tiny_bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    with pytest.raises(BundleError, match="already exists"):
        export_bundle(tiny_checkpoint, tiny_bundle.root)
    open_bundle(tiny_bundle.root)


def test_shapes_follow_the_task(tiny_bundle: Bundle) -> None:
    task = tiny_bundle.task
    for graph, shape in input_shapes(task).items():
        model = onnx.load(tiny_bundle.graphs[graph])
        dims = model.graph.input[0].type.tensor_type.shape.dim
        assert tuple(dim.dim_value for dim in dims[1:]) == tuple(shape)


def test_a_full_disk_leaves_nothing(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export_module, "export_graph", full)
    with pytest.raises(BundleError, match="no space left"):
        export_bundle(tiny_checkpoint, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
