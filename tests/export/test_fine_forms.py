"""Forms of the fine nets: the same numbers, and TensorRT for RTX builds all of them."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.synthetic import scrambled, small_task
from trt_landmarks.engines.tensorrt.build import build_plan
from trt_landmarks.engines.tensorrt.flavours import RTX
from trt_landmarks.export.fine_forms import FORMS, in_form
from trt_landmarks.export.onnx_graphs import export_graph
from trt_landmarks.nets.folding import folded
from trt_landmarks.nets.model import build_nets
from trt_landmarks.task.graphs import fine_graphs, input_shapes, net_profiles


@pytest.mark.parametrize("form", FORMS)
def test_every_form_computes_the_same_and_builds(form: str, tmp_path: Path) -> None:
    trt: ModuleType = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    task = small_task()
    nets = scrambled(build_nets(task))
    for graph in fine_graphs(task):
        shape = input_shapes(task)[graph]
        patches = torch.rand(2, *shape)
        net = folded(nets[graph])
        other = in_form(net, form)
        groups = [m.groups for m in other.modules() if isinstance(m, torch.nn.Conv3d)]
        assert (max(groups) > 1) == (form == "grouped")
        with torch.inference_mode():
            for a, b in zip(other(patches), net(patches), strict=True):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        path = tmp_path / f"{graph}.onnx"
        export_graph(other, graph, shape, path)
        record = build_plan(
            path, tmp_path / f"{graph}.plan", RTX, net_profiles(task)[graph], graph=graph, precision="fp32", command="x"
        )
        assert record.version == trt.__version__ and (tmp_path / f"{graph}.plan").stat().st_size > 1000
