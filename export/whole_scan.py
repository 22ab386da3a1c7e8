"""Graphs over a whole scan (:mod:`trt_landmarks.localization.whole_scan`): a bundle's nets and the geometry
around them.

The nets may be of any precision: their inputs and outputs are FP32, and so is all geometry around them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import nn

from trt_landmarks.errors import EngineError
from trt_landmarks.export.onnx_graphs import OPSET, clean, quiet_export
from trt_landmarks.geometry import Floats
from trt_landmarks.nets.whole_scan import CoarseView, Landmarks, PatchViews
from trt_landmarks.task.graphs import COARSE, LARGEST_SCAN, LAYOUTS, SCAN_INPUTS, SMALLEST_SCAN, fine_graphs
from trt_landmarks.task.task import Task

#: Voxels of a scan along its axes: fewest and most that the graphs are declared for.


def write_resident(
    task: Task, mean_shape: Floats, nets: Mapping[str, Path], layout: str, folder: Path
) -> dict[str, Path]:
    """Write the graphs of a layout.

    Args:
        task: what is localized.
        mean_shape: ``[N, 3]`` mm.
        nets: graph name to ONNX file, in any precision.
        layout: one of :data:`~trt_landmarks.task.layouts.LAYOUTS`.
        folder: receives ``<graph>.onnx``.

    Returns:
        Graph name to file.

    Raises:
        EngineError: if the exporter fails.
    """
    parts = _parts(task, mean_shape, nets)
    fine = [name for name in parts if name not in ("view", COARSE)]
    coarse_points = f"{COARSE}/points"
    found = [f"landmarks/{name}" for name in parts["landmarks"].outputs]
    axes = "patches/axes"
    written = {}
    if layout == "one":
        outputs = [*found[:2], axes, coarse_points, *found[2:]]
        models = {"scan": _join(list(parts.values()), outputs)}
    else:
        models = {
            "scan-coarse": _join([parts["view"], parts[COARSE]], [coarse_points]),
            "scan-fine": _join([parts[name] for name in fine], [*found[:2], axes, *found[2:]]),
        }
    for graph in LAYOUTS[layout]:
        written[graph] = folder / f"{graph}.onnx"
        onnx.save(models[graph], written[graph])
        onnx.checker.check_model(str(written[graph]), full_check=True)
    return written


@dataclass(frozen=True)
class _Part:
    """A graph that becomes part of a larger one.

    Attributes:
        name: stands in front of the names of all its tensors.
        model: the graph.
        takes: for each of its inputs the tensor of the larger graph.
    """

    name: str
    model: ModelProto
    takes: tuple[str, ...]

    @property
    def outputs(self) -> list[str]:
        """Names of its outputs."""
        return [value.name for value in self.model.graph.output]


def _parts(task: Task, mean_shape: Floats, nets: Mapping[str, Path]) -> dict[str, _Part]:
    """The parts of the whole method, in the order they run."""
    count = len(task.landmarks)
    scan = (torch.rand(1, 1, 9, 8, 7), torch.eye(3)[None], torch.ones(1, 3), torch.tensor([[0.0, 1.0]]))
    size = {axis + 2: torch.export.Dim(name, min=SMALLEST_SCAN, max=LARGEST_SCAN) for axis, name in enumerate("kji")}
    still: tuple[dict[int, Any], ...] = ({}, {}, {})
    view = _export(CoarseView(task), scan, (size, *still), SCAN_INPUTS, ["volume"])
    graphs = list(fine_graphs(task))
    patches = _export(
        PatchViews(task, mean_shape), (*scan, torch.rand(1, count, 3)), (size, *still, {}), (*SCAN_INPUTS, "points"),
        ["axes", "centres", *graphs],
    )  # fmt: skip
    parts = [
        _Part("view", view, SCAN_INPUTS),
        _Part(COARSE, onnx.load(nets[COARSE]), ("view/volume",)),
        _Part("patches", patches, (*SCAN_INPUTS, f"{COARSE}/points")),
        *(_Part(graph, onnx.load(nets[graph]), (f"patches/{graph}",)) for graph in graphs),
    ]
    taken = ["patches/axes", "patches/centres", *(f"{p.name}/{name}" for p in parts[3:] for name in p.outputs)]
    examples = [torch.rand(1, 3, 3), torch.rand(1, count, 3)]
    for part, rows in zip(parts[3:], fine_graphs(task).values(), strict=True):
        shapes = ((1, len(rows), 3), (1, len(rows)), (1,))
        examples += [torch.rand(*shape) for shape, _ in zip(shapes, part.outputs, strict=False)]
    names = ["points", "confidence", *(["key_slices"] if len(parts[-1].outputs) > 2 else [])]
    landmarks = _export(Landmarks(task), tuple(examples), None, [f"in{n}" for n in range(len(examples))], names)
    parts.append(_Part("landmarks", landmarks, tuple(taken)))
    return {part.name: part for part in parts}


def _export(
    module: nn.Module,
    examples: tuple[torch.Tensor, ...],
    shapes: tuple[Any, ...] | None,
    inputs: Sequence[str],
    outputs: list[str],
) -> ModelProto:
    module.eval()
    try:
        with quiet_export(), torch.inference_mode():
            program = torch.onnx.export(
                module, examples, dynamo=True, opset_version=OPSET, dynamic_shapes=shapes, input_names=list(inputs),
                output_names=outputs, external_data=False, verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter raises many kinds
        reason = str(error).splitlines()[0]
        raise EngineError(f"{type(module).__name__}: PyTorch cannot export this part: {reason}.") from None
    assert program is not None
    return clean(program.model_proto)


def _join(parts: Sequence[_Part], outputs: Sequence[str]) -> ModelProto:
    """One graph of several: what a part gives under its name, others take; what nobody gives is an input."""
    nodes: list[NodeProto] = []
    stored: list[TensorProto] = []
    inputs: dict[str, onnx.ValueInfoProto] = {}
    given: dict[str, onnx.ValueInfoProto] = {}
    opsets: dict[str, int] = {}
    for part in parts:
        graph = part.model.graph
        renamed = {"": ""}
        for value, tensor in zip(graph.input, part.takes, strict=True):
            renamed[value.name] = tensor
            if tensor not in given:
                inputs.setdefault(tensor, _named(value, tensor))

        def name(tensor: str, renamed: dict[str, str] = renamed, part: _Part = part) -> str:
            return renamed.setdefault(tensor, f"{part.name}/{tensor}")

        for source in graph.initializer:
            weights = TensorProto()
            weights.CopyFrom(source)
            weights.name = name(source.name)
            stored.append(weights)
        for source_node in graph.node:
            if any(a.HasField("g") or a.graphs for a in source_node.attribute):
                raise EngineError(f"{part.name}: graphs within nodes ({source_node.op_type}) cannot be joined.")
            node = NodeProto()
            node.CopyFrom(source_node)
            node.name = f"{part.name}/{source_node.name}"
            node.input[:] = [name(tensor) for tensor in source_node.input]
            node.output[:] = [name(tensor) for tensor in source_node.output]
            nodes.append(node)
        for value in graph.output:
            given[name(value.name)] = _named(value, name(value.name))
        opsets.update(
            {entry.domain: max(entry.version, opsets.get(entry.domain, 0)) for entry in part.model.opset_import}
        )
    graph = helper.make_graph(nodes, "scan", list(inputs.values()), [given[tensor] for tensor in outputs], stored)
    for value in (*graph.input, *graph.output):
        if value.name == "voxels":
            continue
        value.type.tensor_type.shape.dim[0].dim_value = 1  # one scan at a time: their volumes differ in size
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(*entry) for entry in opsets.items()])
    model.ir_version = max(part.model.ir_version for part in parts)
    model.producer_name = "trt-landmarks"
    return model


def _named(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    result = onnx.ValueInfoProto()
    result.CopyFrom(value)
    result.name = name
    return result
