"""The graph of the whole method (:mod:`trt_landmarks.localization.whole_scan`): a bundle's nets and the geometry
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
from trt_landmarks.nets.defaults import usual_defaults
from trt_landmarks.nets.whole_scan import Landmarks, PatchViews
from trt_landmarks.task.graphs import COARSE, LARGEST_SCAN, PADDING, SCAN, SCAN_INPUTS, fine_graphs
from trt_landmarks.task.task import Task


@usual_defaults()
def write_whole_scan(task: Task, mean_shape: Floats, nets: Mapping[str, Path], path: Path) -> None:
    """Put the graph of the whole method together.

    Args:
        task: what is localized.
        mean_shape: ``[N, 3]`` mm.
        nets: graph name to ONNX file, in any precision.
        path: of the ONNX file that is written.

    Raises:
        EngineError: if the exporter fails.
    """
    parts = _parts(task, mean_shape, nets)
    points, confidence, *slices = (f"landmarks/{name}" for name in parts[-1].outputs)
    model = _join(parts, [points, confidence, "patches/axes", f"{COARSE}/points", *slices])
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)


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


def _parts(task: Task, mean_shape: Floats, nets: Mapping[str, Path]) -> list[_Part]:
    """The parts of the whole method, in the order they run."""
    count = len(task.landmarks)
    size = {axis + 2: torch.export.Dim(name, min=PADDING, max=LARGEST_SCAN) for axis, name in enumerate("kji")}
    volume, voxels, placement = SCAN_INPUTS
    graphs = list(fine_graphs(task))
    patches = _export(
        PatchViews(task, mean_shape),
        (torch.rand(1, 1, *(PADDING + n for n in range(1, 4))), torch.rand(1, 6, 3), torch.rand(1, count, 3)),
        (size, {}, {}), (voxels, placement, "points"), ["axes", "centres", *graphs],
    )  # fmt: skip
    parts = [
        _Part(COARSE, onnx.load(nets[COARSE]), (volume,)),
        _Part("patches", patches, (voxels, placement, f"{COARSE}/points")),
        *(_Part(graph, onnx.load(nets[graph]), (f"patches/{graph}",)) for graph in graphs),
    ]
    taken = ["patches/axes", "patches/centres", *(f"{p.name}/{name}" for p in parts[2:] for name in p.outputs)]
    examples = [torch.rand(1, 3, 3), torch.rand(1, count, 3)]
    for part, rows in zip(parts[2:], fine_graphs(task).values(), strict=True):
        shapes = ((1, len(rows), 3), (1, len(rows)), (1,))
        examples += [torch.rand(*shape) for shape, _ in zip(shapes, part.outputs, strict=False)]
    names = ["points", "confidence", *(["key_slices"] if len(parts[-1].outputs) > 2 else [])]
    landmarks = _export(Landmarks(task), tuple(examples), None, [f"in{n}" for n in range(len(examples))], names)
    return [*parts, _Part("landmarks", landmarks, tuple(taken))]


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
    graph = helper.make_graph(nodes, SCAN, list(inputs.values()), [given[tensor] for tensor in outputs], stored)
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
