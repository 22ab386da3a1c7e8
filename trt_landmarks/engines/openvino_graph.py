"""How OpenVINO gets a graph: as two models, of which the first has one net for each landmark.

* **Ungrouped**: the fine nets are exported as grouped convolutions, one group a landmark, because that is fastest on a
  GPU.  OpenVINO's CPU kernels are several times faster on ordinary convolutions.  :func:`ungroup` takes every grouped
  convolution apart, and what lies between them, so that each landmark has a chain of layers of its own.
* **Nets and decoding**: :func:`split_decoding` cuts behind the last layer that has weights.  What follows turns
  heatmaps into millimetres and must be computed in FP32 whatever the nets are computed in.

Both change the order of nothing that is summed, need no PyTorch and no second file, and serve every bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from openvino import Core, Input, Model, Node, Output

#: Operations that treat each channel by itself.
_CHANNELWISE = ("Relu", "MaxPool", "AvgPool", "Interpolate")


def convert(core: Core, path: Path) -> tuple[Model, Model]:
    """Read an ONNX graph for batches of one scan: its nets, ungrouped, and its decoding.

    Raises:
        RuntimeError: if the file is damaged.
    """
    from openvino.passes import ConstantFolding, Manager

    model = core.read_model(path)
    (shape,) = (value.partial_shape for value in model.inputs)
    model.reshape([1, *(size.get_length() for size in list(shape)[1:])])
    folding = Manager()
    folding.register_pass(ConstantFolding())  # weights stored in FP16 become the FP32 weights that they stand for
    folding.run_passes(model)
    nets, decoding = split_decoding(model)
    return ungroup(nets), decoding


def split_decoding(model: Model) -> tuple[Model, Model]:
    """Cut a model behind its last layers with weights.

    Returns:
        The nets, and the decoding, whose inputs are the nets' outputs in their order and whose outputs are those of
        ``model``.
    """
    import openvino as ov
    from openvino import opset15 as ops

    nodes = model.get_ordered_ops()
    in_nets: set[str] = set()  # nodes that a layer with weights depends on, and these layers
    for node in reversed(nodes):
        consumers = (target.get_node().get_name() for output in node.outputs() for target in output.get_target_inputs())
        if _has_weights(node) or any(name in in_nets for name in consumers):
            in_nets.add(node.get_name())
    inputs = {}
    cuts: list[Output] = []
    for node in nodes:
        if node.get_name() in in_nets or node.get_type_name() in ("Constant", "Parameter"):
            continue
        for place in node.inputs():
            source = place.get_source_output()
            if source.get_node().get_name() not in in_nets or source.get_node().get_type_name() == "Constant":
                continue
            key = _key(source)
            if key not in inputs:
                inputs[key] = ops.parameter(list(source.get_shape()), source.get_element_type())
                cuts.append(source)
            place.replace_source_output(inputs[key].output(0))
    nets = ov.Model([ops.result(cut) for cut in cuts], model.get_parameters(), f"{model.get_friendly_name()} nets")
    decoding = ov.Model(model.get_results(), list(inputs.values()), f"{model.get_friendly_name()} decoding")
    return nets, decoding


def _has_weights(node: Node) -> bool:
    """Whether a node is a layer that was trained, or the addition of its bias."""
    kind = node.get_type_name()
    if kind in ("Convolution", "GroupConvolution"):  # smoothing has a kernel, of one channel
        shape = node.input_value(1).get_shape()
        return int(np.prod(shape[: -(len(node.input_value(0).get_shape()) - 2)])) > 1
    if kind == "MatMul":
        return True
    return kind == "Add" and _is_constant(node, 1) and _has_weights(node.input_value(0).get_node())


def ungroup(model: Model) -> Model:
    """Replace grouped convolutions by one for each group, and what lies between them likewise; in place.

    Shapes must be static.  An operation that is none of a net's usual ones gets the groups side by side again, as it
    had them.
    """
    parts: dict[tuple[str, int], list[Output]] = {}
    joined: dict[tuple[str, int], Output] = {}
    for node in model.get_ordered_ops():
        taken_apart = _apart(node, parts)
        if taken_apart is not None:
            parts[_key(node.output(0))] = taken_apart
            continue
        for place in node.inputs():
            source = place.get_source_output()
            if _key(source) in parts:
                _join(place, parts[_key(source)], joined)
    model.validate_nodes_and_infer_types()
    return model


def _apart(node: Node, parts: dict[tuple[str, int], list[Output]]) -> list[Output] | None:
    """What a node gives, for each group: ``[B, C / G, ...]``; None if it does not work group by group."""
    from openvino import opset15 as ops

    kind = node.get_type_name()
    if not node.get_input_size():
        return None
    source = node.input_value(0)
    given = parts.get(_key(source))
    if kind == "GroupConvolution" and _is_constant(node, 1):
        weights = node.input_value(1).get_node().get_data()
        groups = weights.shape[0]
        if given is None or len(given) != groups:
            if given is not None or groups == 1:
                return None
            given = ops.split(source, ops.constant(np.int64(1)), groups).outputs()
        return [
            _like(node, [part, ops.constant(weight).output(0)], "Convolution")
            for part, weight in zip(given, weights, strict=True)
        ]
    if kind == "Tile":  # features that all landmarks share
        repeats = node.input_value(1).get_node().get_data().tolist() if _is_constant(node, 1) else []
        whole = len(repeats) > 1 and repeats[1] > 1 and all(n == 1 for axis, n in enumerate(repeats) if axis != 1)
        return [source] * repeats[1] if whole and given is None else None
    if given is None:
        return None
    if kind in _CHANNELWISE and (kind != "Interpolate" or _by_scales(node)):
        return [_like(node, [part, *node.input_values()[1:]]) for part in given]
    if kind == "Add" and _is_constant(node, 1):
        bias = node.input_value(1).get_node().get_data()
        if bias.ndim != len(source.get_shape()) or bias.shape[0] != 1 or bias.shape[1] != source.get_shape()[1]:
            return None
        pieces = np.split(bias, len(given), axis=1)
        return [_like(node, [part, ops.constant(piece).output(0)]) for part, piece in zip(given, pieces, strict=True)]
    if kind == "Reshape":  # [B, G * C, ...] <-> [B, G, C, ...]
        own = list(given[0].get_shape())
        side_by_side, stacked = [own[0], len(given) * own[1], *own[2:]], [own[0], len(given), *own[1:]]
        return given if list(node.get_output_shape(0)) in (side_by_side, stacked) else None
    if kind == "Concat" and node.get_attributes()["axis"] == 2:
        rows = [parts.get(_key(value), []) for value in node.input_values()]
        fits = all(
            row and len(value.get_shape()) == len(row[0].get_shape()) + 1
            for row, value in zip(rows, node.input_values(), strict=True)
        )
        if fits and len({len(row) for row in rows}) == 1:
            return [ops.concat(list(of_one), 1).output(0) for of_one in zip(*rows, strict=True)]
    return None


def _join(place: Input, parts: Sequence[Output], joined: dict[tuple[str, int], Output]) -> None:
    """Give an operation the groups side by side, as it expects them."""
    from openvino import opset15 as ops

    source = place.get_source_output()
    if _key(source) not in joined:
        whole = ops.concat(list(parts), 1).output(0)
        shape = list(source.get_shape())
        if list(whole.get_shape()) != shape:
            whole = ops.reshape(whole, ops.constant(np.array(shape, np.int64)), False).output(0)
        joined[_key(source)] = whole
    place.replace_source_output(joined[_key(source)])


def _like(node: Node, inputs: Sequence[Output], kind: str | None = None) -> Output:
    """The first output of a node of the same attributes on other inputs."""
    from openvino.utils.node_factory import NodeFactory

    factory = NodeFactory(node.get_type_info().version_id)
    created: Output = factory.create(kind or node.get_type_name(), list(inputs), node.get_attributes()).output(0)
    return created


def _by_scales(node: Node) -> bool:
    return bool(node.get_attributes()["shape_calculation_mode"] == "scales")


def _is_constant(node: Node, place: int) -> bool:
    return bool(node.input_value(place).get_node().get_type_name() == "Constant")


def _key(output: Output) -> tuple[str, int]:
    return output.get_node().get_name(), output.get_index()
