"""Graphs in the form that a CPU runs fastest (:mod:`trt_landmarks.nets.cpu_form`), beside the plain ones.

They hold no large weights of their own: ONNX lets a tensor lie in another file of the same folder, and theirs lie in
the plain graph's file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from trt_landmarks.export.onnx_graphs import HALF, graph_model
from trt_landmarks.nets.cpu_form import for_cpu

#: What a Slice takes besides its data.
SLICE_INPUTS = ("starts", "ends", "axes", "steps")
#: Tensors of fewer bytes are kept in the graph's own file.
SMALLEST = 1024


def write_cpu_graph(net: nn.Module, graph: str, shape: tuple[int, int, int, int], plain: Path) -> Path:
    """Write one net in its form for the CPU, beside its plain graph.

    Args:
        net: in eval mode, on the CPU, with the weights of ``plain``.
        graph: its name.
        shape: of the input without the batch.
        plain: the net's plain graph, with its weights inside, in FP32 or FP16.

    Returns:
        The new file; ``plain`` if the net has no form of its own for the CPU.

    Raises:
        EngineError: if the exporter fails.
    """
    form = for_cpu(net)
    if form is None:
        return plain
    path = plain.with_suffix(".cpu.onnx")
    model = graph_model(form, graph, shape)
    merge_slices(model)
    share_weights(model, plain)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)
    return path


def merge_slices(model: ModelProto) -> None:
    """Cut along several axes at once where a graph does it axis by axis: each Slice copies what it leaves."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node if _constant_slice(node, stored)}
    uses = Counter(name for node in model.graph.node for name in node.input)
    merged: list[NodeProto] = []
    for node in list(model.graph.node):
        before = makers.get(node.input[0]) if node.output[0] in makers else None
        if before is None or uses[before.output[0]] > 1:
            continue
        parts = [[numpy_helper.to_array(stored[name]) for name in one.input[1:]] for one in (before, node)]
        if set(parts[0][2]) & set(parts[1][2]):
            continue
        for place, arrays in enumerate(zip(*parts, strict=True)):
            tensor = numpy_helper.from_array(np.concatenate(arrays), f"{node.name}.{SLICE_INPUTS[place]}")
            stored[tensor.name] = tensor
            model.graph.initializer.append(tensor)
            node.input[place + 1] = tensor.name
        node.input[0] = before.input[0]
        merged.append(before)
    for node in merged:
        model.graph.node.remove(node)
    used = {name for node in model.graph.node for name in node.input}
    for tensor in list(model.graph.initializer):
        if tensor.name not in used:
            model.graph.initializer.remove(tensor)


def _constant_slice(node: NodeProto, stored: Mapping[str, TensorProto]) -> bool:
    return node.op_type == "Slice" and len(node.input) == 5 and all(name in stored for name in node.input[1:])


def share_weights(model: ModelProto, plain: Path) -> None:
    """Take the large tensors that ``plain`` stores too out of the model, which will lie beside it: refer to them."""
    content = plain.read_bytes()
    stored = {
        tensor.name: tensor
        for tensor in onnx.load_from_string(content).graph.initializer
        if len(tensor.raw_data) >= SMALLEST
    }
    casts = []
    for tensor in list(model.graph.initializer):
        found = stored.get(tensor.name) or stored.get(tensor.name + HALF)
        if found is None or not np.array_equal(numpy_helper.to_array(found), numpy_helper.to_array(tensor)):
            continue
        outside = TensorProto(
            name=found.name, data_type=found.data_type, dims=found.dims, data_location=TensorProto.EXTERNAL
        )
        place = {"location": plain.name, "offset": content.index(found.raw_data), "length": len(found.raw_data)}
        for key, value in place.items():
            outside.external_data.add(key=key, value=str(value))
        model.graph.initializer.remove(tensor)
        model.graph.initializer.append(outside)
        if found.name != tensor.name:
            name = f"{tensor.name}.cast"
            casts.append(helper.make_node("Cast", [found.name], [tensor.name], name=name, to=tensor.data_type))
    for position, node in enumerate(casts):
        model.graph.node.insert(position, node)
