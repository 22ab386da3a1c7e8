"""Graphs in the form that a CPU runs fastest (:mod:`trt_landmarks.nets.cpu_form`), beside the plain ones.

They hold no large weights of their own: ONNX lets a tensor lie in another file of the same folder, and theirs lie in
the plain graph's file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from trt_landmarks.export.onnx_graphs import HALF, export_graph
from trt_landmarks.nets.cpu_form import for_cpu

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
    export_graph(form, graph, shape, path)
    share_weights(path, plain)
    return path


def share_weights(path: Path, plain: Path) -> None:
    """Take the large tensors that ``plain`` stores too out of the graph file ``path``, and refer to them there."""
    model = onnx.load(path)
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
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)
