"""Which layers cost accuracy in INT8, measured in mm: each is in INT8 alone once, and left out of it once.

Alone ranks the layers: independent errors add up in squares, so that leaving one of fifty out changes less than chance
does.  Measured on calibration scans, never on those that the gate measures on.  Findings are kept in a file as they
come, so that an interrupted measurement goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from trt_landmarks.calibration.graph import DECODING, conv_flops
from trt_landmarks.calibration.int8 import describe, quantized_layers, without
from trt_landmarks.calibration.recipe import AIM_VOXEL, LEAST_GAIN, LEAST_INT8


@dataclass
class Findings:
    """Measured deviations, kept in a file: one line of JSON each, added as they come.

    Attributes:
        path: the file.
        key: what they were measured on; findings of another key are not used.
    """

    path: Path
    key: str
    _known: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        for line in lines:
            try:
                entry = json.loads(line)
                if entry["key"] == self.key:
                    self._known[entry["what"]] = float(entry["mean_mm"])
            except (ValueError, KeyError, TypeError):
                continue  # the end of a line that was being written

    def get(self, what: str, measure: Callable[[], float]) -> float:
        """What is known, or what is measured now."""
        if what not in self._known:
            self._known[what] = measure()
            with self.path.open("a", encoding="utf-8") as file:
                line = json.dumps({"key": self.key, "what": what, "mean_mm": self._known[what]})
                file.write(("" if file.tell() == 0 else "\n") + line)
        return self._known[what]


def sensitivity(
    net: ModelProto,
    quantized: ModelProto,
    inputs: NDArray[np.float32],
    spacing_mm: float,
    findings: Findings,
    graph: str,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Rank a graph's INT8 layers, and choose those that have to stay out of INT8.

    Args:
        net: the FP32 net.
        quantized: the same with Q/DQ nodes (:func:`~trt_landmarks.calibration.int8.quantize`).
        inputs: ``[count, ...]``.
        spacing_mm: edge of a voxel of the graph's grid.
        findings: where measurements are kept.
        graph: its name.
        say: receives one line per layer.

    Returns:
        Plain data: ``mean_mm`` (deviation of the graph's points with all layers in INT8), ``layers`` (worst first:
        ``node``, ``operator``, ``alone_mm`` with it alone in INT8, ``without_mm`` with all others, ``conv_flops``),
        ``excluded`` (chosen layers), ``mean_mm_excluded`` (deviation without these) and ``inputs`` (their number).
    """
    expected = _points(net, inputs)
    names = [node.name for node in quantized_layers(quantized)]
    operators = {node.name: node.op_type for node in quantized.graph.node}
    flops = {name: n for name, n in conv_flops(net).items() if not name.startswith(DECODING)}
    total = max(1, sum(flops.values()))

    def deviation(left_out: Collection[str]) -> float:
        found = _points(without(quantized, left_out, graph), inputs)
        return round(float(np.linalg.norm(found - expected, axis=-1).mean()), 7)

    everything = findings.get(f"{graph}:", partial(deviation, ()))
    layers: list[dict[str, Any]] = []
    for n, name in enumerate(names):
        others = [other for other in names if other != name]
        alone = findings.get(f"{graph}:alone:{name}", partial(deviation, others))
        rest = findings.get(f"{graph}:without:{name}", partial(deviation, (name,)))
        layers.append({
            "node": name, "operator": operators[name], "alone_mm": alone, "without_mm": rest,
            "conv_flops": round(flops.get(name, 0) / total, 5),
        })  # fmt: skip
        say(f"{graph}: layer {n + 1} of {len(names)}, {name}: alone {alone:.5f} mm, all others {rest:.5f} mm")
    layers.sort(key=lambda layer: -layer["alone_mm"])
    excluded: list[str] = []
    reached = everything
    for layer in layers:
        if reached <= AIM_VOXEL * spacing_mm:
            break
        more = [*excluded, layer["node"]]
        if describe(net, without(quantized, more, graph))["conv_flops_int8"] < LEAST_INT8:
            continue
        found = findings.get(f"{graph}:without:{','.join(more)}", partial(deviation, more))
        if found < (1 - LEAST_GAIN) * reached:
            excluded, reached = more, found
    return {
        "mean_mm": everything, "layers": layers, "excluded": excluded, "mean_mm_excluded": reached,
        "inputs": len(inputs),
    }  # fmt: skip


def _points(model: ModelProto, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
    """What a graph gives first, ``[count, L, 3]`` mm; without optimizations, which would quantize biases as well."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (value,) = session.get_inputs()
    found = [session.run(None, {value.name: inputs[n : n + 1]})[0] for n in range(len(inputs))]
    return np.concatenate(found).astype(np.float64)
