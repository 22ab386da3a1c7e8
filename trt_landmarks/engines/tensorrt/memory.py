"""Memory for a runtime: buffers that are kept.

**Not verified on a GPU:** everything that calls PyCUDA; tested on the real PyCUDA over an emulated driver.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BYTES = 4  # of a float32


class Buffers:
    """Device and pinned host memory by name: kept, and replaced only when more is asked for.

    The CUDA context must be current, and what reads and writes them must run on one stream.

    Attributes:
        allocations: how often memory was allocated so far.
        replaced: how often a buffer on the GPU gave way to a larger one, elsewhere.
    """

    def __init__(self, cuda: Any, stream: Any) -> None:
        """``cuda``: ``pycuda.driver``; ``stream``: the PyCUDA stream they are used on."""
        self._cuda, self._stream = cuda, stream
        self._device: dict[str, tuple[Any, int]] = {}
        self._host: dict[str, NDArray[np.uint8]] = {}
        self.allocations = self.replaced = 0

    def device(self, name: str, size: int) -> int:
        """Address of at least ``size`` bytes on the GPU, a multiple of 256."""
        kept = self._device.get(name)
        if kept is None or kept[1] < size:
            if kept is not None:
                self._stream.synchronize()  # it may still be in use
                self._device.pop(name)[0].free()
                self.replaced += 1
            self._device[name] = (self._cuda.mem_alloc(max(1, size)), size)
            self.allocations += 1
        return int(self._device[name][0])

    def host(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A float32 array of a shape in pinned memory, with what was there before."""
        size = _BYTES * prod(shape)
        kept = self._host.get(name)
        if kept is None or kept.nbytes < size:
            if kept is not None:
                self._stream.synchronize()
                self._host.pop(name).base.free()  # type: ignore[union-attr]
            self._host[name] = self._cuda.pagelocked_empty(max(1, size), np.uint8)
            self.allocations += 1
        return self._host[name][:size].view(np.float32).reshape(shape)

    def free(self) -> None:
        """Give all of it back; nothing may be using it."""
        for allocation, _ in self._device.values():
            allocation.free()
        for array in self._host.values():
            array.base.free()  # type: ignore[union-attr]
        self._device.clear()
        self._host.clear()
