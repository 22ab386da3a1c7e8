"""What every engine is to the rest of the toolkit."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = tuple[NDArray[np.float32], ...]

#: Names of the graphs of a bundle: the coarse net, the independent landmarks, and one per correlated group.
COARSE = "coarse"
INDEPENDENT = "independent"


def group_graph(name: str) -> str:
    """Graph name of a correlated group."""
    return f"group-{name}"


class Engine(Protocol):
    """Runs the graphs of one model.

    Attributes:
        name: ``onnxruntime``, ``tensorrt``, ``tensorrt-rtx`` or ``torch``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        provider: what executes it, e.g. ``CPUExecutionProvider``.
    """

    name: str
    precision: str
    provider: str

    def run(self, graph: str, array: NDArray[np.float32]) -> Arrays:
        """Run one graph on a batch; outputs in the graph's order, float32."""
        ...
