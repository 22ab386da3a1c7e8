"""From a bundle's FP32 graphs back to PyTorch nets: exported tensors keep their parameters' names.

Batch normalization was folded into the convolutions at export.  What comes back has both again, as in training, the
normalization doing no more than adding the bias; :func:`trt_landmarks.nets.folding.folded` takes it away.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.errors import BundleError, EngineError
from trt_landmarks.export.parity import FP32_TOLERANCE_VOXEL, parity, random_inputs, real_inputs
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.nets.defaults import usual_defaults
from trt_landmarks.nets.folding import folded, normalized
from trt_landmarks.nets.model import build_nets
from trt_landmarks.scan import Scan

#: Largest difference between a net and its graph on real scans, voxels: both compute in FP32 with the same weights.
TOLERANCE_VOXEL = 1e-4
_REMEDY = "Take the training run that the bundle was exported from, if there is one."


@usual_defaults()
def nets_from_bundle(bundle: Bundle, scans: Sequence[Scan] = ()) -> dict[str, nn.Module]:
    """The nets of a bundle, checked against its graphs in ONNX Runtime.

    Args:
        bundle: the model.
        scans: real scans for the check; without them smooth random inputs are used.

    Returns:
        Graph name to net, in eval mode, on the CPU, FP32.

    Raises:
        BundleError: if a graph lacks a weight or holds one of another size, or a net's positions differ from its
            graph's by more than :data:`TOLERANCE_VOXEL` (on random inputs, which drive nets far out: as at export).
    """
    nets = {
        graph: restored(net, stored(bundle.graphs[graph]), bundle.graphs[graph])
        for graph, net in build_nets(bundle.task).items()
    }
    engine = OnnxRuntimeEngine(bundle.graphs)
    localizer = Localizer(bundle.task, bundle.mean_shape, engine)
    inputs = real_inputs(localizer, scans) if scans else random_inputs(bundle.task, 2)
    allowed = TOLERANCE_VOXEL if scans else FP32_TOLERANCE_VOXEL
    try:
        parity(nets, bundle.graphs, bundle.task, inputs, batches=(1,), allowed=allowed)
    except EngineError as error:
        raise BundleError(
            f"{bundle.root}: its weights do not make the nets that its graphs are: {error.message}", _REMEDY
        ) from None
    return nets


def stored(graph: Path) -> dict[str, NDArray[np.float32]]:
    """A graph file's stored tensors by name, float32; what is stored in FP16 (``<name>.half``) under its own name."""
    tensors = {}
    for tensor in onnx.load(graph).graph.initializer:
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16):
            tensors[tensor.name.removesuffix(".half")] = numpy_helper.to_array(tensor).astype(np.float32)
    return tensors


def restored(net: nn.Module, tensors: dict[str, NDArray[np.float32]], source: Path) -> nn.Module:
    """``net`` in eval mode with the weights of a graph; a tensor may have another shape, not another order.

    Raises:
        BundleError: naming ``source`` and the weight.
    """
    small = folded(net)
    weights: dict[str, Tensor] = {}
    for name, value in small.state_dict().items():
        found = tensors.get(name)
        if found is None and name.endswith(".bias") and name.replace(".bias", ".weight") in tensors:
            found = np.zeros(value.shape, dtype=np.float32)  # the exporter leaves out biases that are zero
        if found is None or found.size != value.numel():
            what = "is missing" if found is None else f"has {found.size} numbers, and its net {value.numel()}"
            raise BundleError(f"{source}: the weight {name} {what}.", _REMEDY)
        weights[name] = torch.from_numpy(found.copy()).reshape(value.shape)
    for path, conv, norm in normalized(net):
        conv, norm = (f"{path}.{name}" if path else name for name in (conv, norm))
        module = net.get_submodule(norm)
        assert isinstance(module, nn.BatchNorm3d)
        bias = weights.pop(f"{conv}.bias")
        weights |= {
            f"{norm}.weight": torch.ones_like(bias),
            f"{norm}.bias": bias,
            f"{norm}.running_mean": torch.zeros_like(bias),
            f"{norm}.running_var": torch.ones_like(bias) - module.eps,
            f"{norm}.num_batches_tracked": torch.tensor(0),
        }
    net.load_state_dict(weights)
    return net.eval()
