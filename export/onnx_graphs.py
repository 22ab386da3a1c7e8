"""Nets to ONNX: one graph per net, dynamic batch, batch normalization folded, opset 20."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from onnx import ModelProto
from torch import nn

from trt_landmarks.errors import EngineError
from trt_landmarks.task.graphs import COARSE

OPSET = 20
#: Largest batch the graphs are declared for.
LARGEST_BATCH = 1024
#: Ends the name of a weight that is stored in FP16, as earlier versions did.
HALF = ".half"


def export_graph(net: nn.Module, graph: str, shape: tuple[int, int, int, int], path: Path) -> None:
    """Write one net as ONNX (:func:`graph_model`) and check the file.

    Raises:
        EngineError: if the exporter fails; its own words are in the message.
    """
    onnx.save(graph_model(net, graph, shape), path)
    onnx.checker.check_model(str(path), full_check=True)


def graph_model(net: nn.Module, graph: str, shape: tuple[int, int, int, int]) -> ModelProto:
    """One net as ONNX.

    Args:
        net: in eval mode, on the CPU.
        graph: its name: decides the names of input and outputs.
        shape: of the input without the batch.

    Raises:
        EngineError: if the exporter fails; its own words are in the message.
    """
    outputs = ["points"] if graph == COARSE else ["offsets", "confidence", "key_slice"]
    example = torch.rand(2, *shape)
    with torch.inference_mode():
        count = 1 if isinstance(net(example), torch.Tensor) else len(net(example))
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    try:
        with quiet_export():
            program = torch.onnx.export(
                net,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=({0: batch},),
                input_names=["volume" if graph == COARSE else "patches"],
                output_names=outputs[:count],
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds
        raise EngineError(f"{graph}: PyTorch cannot export this net: {str(error).splitlines()[0]}.") from None
    assert program is not None
    return clean(program.model_proto)


def clean(model: ModelProto) -> ModelProto:
    """Remove what the exporter notes of source lines, which are paths of one machine; in place."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    model.producer_name = "trt-landmarks"
    return model


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """The exporter prints progress and warns about packages that are not needed."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
