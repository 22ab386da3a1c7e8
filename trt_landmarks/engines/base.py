"""What every engine is to the rest of the toolkit."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.errors import EngineError

Arrays = tuple[NDArray[np.float32], ...]


@dataclass(frozen=True)
class DeviceArray:
    """A float32 array on the GPU, in C order.

    Attributes:
        address: of its first element.
        shape: sizes in C order.
        owner: keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    owner: Any = None

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return 4 * prod(self.shape)


#: What an engine takes: an array on the host or, if it computes on a GPU, one there that is finished in the order of
#: the engine's stream.
Input = NDArray[np.float32] | DeviceArray


class Engine(Protocol):
    """Runs the graphs of one model.

    Attributes:
        name: ``onnxruntime``, ``openvino``, ``tensorrt``, ``tensorrt-rtx`` or ``torch``.
        precision: ``fp32``, ``fp16``, ``int8`` or ``bf16``.
        provider: what executes it, e.g. ``CPUExecutionProvider``.
    """

    name: str
    precision: str
    provider: str

    def run(self, graph: str, *arrays: Any) -> Arrays:
        """Run one graph on its inputs, in the graph's order; outputs in the graph's order, float32."""
        ...


def finite(engine: Engine, graph: str, outputs: Arrays) -> Arrays:
    """What an engine gave, if all of it is numbers.

    Raises:
        EngineError: if it is not.
    """
    if not all(np.isfinite(output).all() for output in outputs):
        raise EngineError(
            f"{engine.name} in {engine.precision}: graph {graph} gave values that are not numbers.",
            "Take an engine of higher precision.",
            code="engine_output",
        )
    return outputs


@runtime_checkable
class Cancellable(Protocol):
    """An engine whose runs may take so long that it lets others end them."""

    def cancel(self, thread: int | None = None) -> None:
        """Make the runs under way raise :class:`RunCancelled` soon; called from another thread.

        Args:
            thread: identifier of the one whose run is meant; None for all.
        """
        ...


class RunCancelled(Exception):  # noqa: N818
    """A run was ended by :meth:`Cancellable.cancel`."""
