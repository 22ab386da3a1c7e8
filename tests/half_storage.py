"""Graphs as earlier versions stored them: large weights in FP16. They must stay readable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trt_landmarks.export.onnx_graphs import HALF


def store_half(path: Path, smallest: int = 512) -> None:
    """Store large weights of a graph in FP16, each followed by a Cast back to FP32.

    The graph still computes in FP32 (a runtime folds the Cast when it loads the graph); weights that FP16 cannot
    hold exactly are left alone, so the results are the same to the bit.
    """
    model = onnx.load(path)
    casts = []
    for tensor in list(model.graph.initializer):
        if tensor.data_type != TensorProto.FLOAT:
            continue
        array = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if array.size < smallest or not np.array_equal(half.astype(np.float32), array):
            continue
        name = tensor.name
        stored = numpy_helper.from_array(half, name + HALF)
        model.graph.initializer.remove(tensor)
        model.graph.initializer.append(stored)
        casts.append(helper.make_node("Cast", [stored.name], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    for position, node in enumerate(casts):
        model.graph.node.insert(position, node)
    onnx.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
