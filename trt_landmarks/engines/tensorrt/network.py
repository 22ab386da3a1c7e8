"""What a parsed network computes in: facts that need no GPU.

They are of the network before TensorRT fuses its layers; in a strongly typed network these types hold.  What
TensorRT's engine inspector tells of the finished layers cannot be had without a GPU: an inspector is made by an engine
alone, and deserializing a plan needs a driver (TensorRT for RTX 1.7: "cudaError 35"; a builder that gives the engine
itself is no longer there).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

#: TensorRT's names of types to NumPy's.
_TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16"}
_CONVOLUTIONS = {"CONVOLUTION", "DECONVOLUTION"}


@dataclass(frozen=True)
class Tensor:
    """An input or output of a plan.

    Attributes:
        name: its name in the graph.
        dtype: e.g. ``float32``.
        shape: sizes in the graph's axis order, -1 where they may vary.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class NetworkFacts:
    """Counts of a network's layers.

    Attributes:
        layers: all of them, constants included.
        by_type: TensorRT's type of layer, e.g. ``CONVOLUTION``, to their number.
        by_output_dtype: data type to the number of layers that give it (by their first output).
        quantize: ``Q`` layers.
        dequantize: ``DQ`` layers.
        convolutions: convolutions and transposed convolutions.
        int8_convolutions: those of them whose data and weights both come from INT8 through ``DQ`` layers.
    """

    layers: int
    by_type: dict[str, int]
    by_output_dtype: dict[str, int]
    quantize: int
    dequantize: int
    convolutions: int
    int8_convolutions: int


def network_facts(network: Any) -> NetworkFacts:
    """Count the layers of a parsed ``INetworkDefinition``."""
    layers = [network.get_layer(n) for n in range(network.num_layers)]
    types = Counter(layer.type.name for layer in layers)
    dtypes = Counter(dtype_name(layer.get_output(0).dtype) for layer in layers if layer.num_outputs)
    from_int8 = {
        layer.get_output(0).name
        for layer in layers
        if layer.type.name == "DEQUANTIZE" and dtype_name(layer.get_input(0).dtype) == "int8"
    }
    convolutions = [layer for layer in layers if layer.type.name in _CONVOLUTIONS]
    return NetworkFacts(
        layers=len(layers),
        by_type=dict(sorted(types.items())),
        by_output_dtype=dict(sorted(dtypes.items())),
        quantize=types["QUANTIZE"],
        dequantize=types["DEQUANTIZE"],
        convolutions=len(convolutions),
        int8_convolutions=sum(_is_int8(layer, from_int8) for layer in convolutions),
    )


def network_inputs(network: Any) -> tuple[Tensor, ...]:
    """The inputs of a network, in the graph's order."""
    return tuple(_tensor(network.get_input(n)) for n in range(network.num_inputs))


def network_outputs(network: Any) -> tuple[Tensor, ...]:
    """The outputs of a network, in the graph's order."""
    return tuple(_tensor(network.get_output(n)) for n in range(network.num_outputs))


def dtype_name(dtype: Any) -> str:
    """NumPy's name of a TensorRT data type."""
    return _TYPES.get(dtype.name, str(dtype.name).lower())


def _tensor(tensor: Any) -> Tensor:
    return Tensor(str(tensor.name), dtype_name(tensor.dtype), tuple(int(size) for size in tensor.shape))


def _is_int8(layer: Any, from_int8: set[str]) -> bool:
    """Whether data and weights come from INT8; weights that are no input are constants of the layer itself."""
    inputs = [layer.get_input(n) for n in range(min(2, layer.num_inputs))]
    return len(inputs) == 2 and all(tensor is not None and tensor.name in from_int8 for tensor in inputs)
