"""Memory for a runtime: buffers that are kept, and arrays that others left on the GPU.

**Not verified, for want of a GPU:** everything that calls PyCUDA; tested with a stand-in for it.  The reading of
DLPack capsules is tested with real ones, of arrays on the CPU.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.errors import EngineError

#: As a stream: there is nothing to wait for.
FINISHED = -1
_BYTES = 4  # of a float32


@dataclass(frozen=True)
class DeviceArray:
    """A float32 array on the GPU, in C order.

    Attributes:
        address: of its first element.
        shape: sizes in C order.
        stream: handle of the CUDA stream that writes it, or :data:`FINISHED`; a reader on another stream waits for
            an event recorded there.
        owner: keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    stream: int = FINISHED
    owner: Any = None

    @classmethod
    def of(cls, owner: Any, stream: int | None = None) -> DeviceArray:
        """What an object with ``__cuda_array_interface__`` (PyTorch, CuPy, DALI, Numba) holds, without a copy.

        Args:
            owner: the object.
            stream: handle of the stream it is written on, or :data:`FINISHED`; None takes the object's own word,
                which version 3 of the interface has and PyTorch does not give.

        Raises:
            EngineError: if it is not float32 in C order, or nobody says which stream writes it.
        """
        facts = owner.__cuda_array_interface__
        if stream is None and "stream" not in facts:
            raise EngineError(
                "An array on the GPU does not say which stream writes it.",
                "Name the stream: DeviceArray.of(array, stream).",
            )
        if stream is None:
            stream = FINISHED if facts["stream"] is None else int(facts["stream"])
        strides = facts.get("strides")
        _check(np.dtype(facts["typestr"]) == np.float32, facts["shape"], strides and [n // _BYTES for n in strides])
        return cls(int(facts["data"][0]), tuple(facts["shape"]), stream, owner)

    @classmethod
    def from_dlpack(cls, owner: Any, stream: int) -> DeviceArray:
        """What an object with ``__dlpack__`` holds, without a copy.

        The object itself makes the reader's stream wait for what it has under way: that is DLPack's protocol.

        Args:
            owner: the object.
            stream: handle of the reader's stream (:attr:`TensorRTEngine.stream`).

        Raises:
            EngineError: if it is not on a GPU, or not float32 in C order.
        """
        kind = int(owner.__dlpack_device__()[0])
        if kind != _CUDA:
            raise EngineError(f"An array is not on a GPU (DLPack device type {kind}).", "Give it as a NumPy array.")
        return read_capsule(owner.__dlpack__(stream=stream))

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return _BYTES * prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def part(self, start: int, stop: int) -> DeviceArray:
        """Rows ``start`` to ``stop`` of its first axis; the memory is the same."""
        rows = range(len(self))[start:stop]
        address = self.address + rows.start * _BYTES * prod(self.shape[1:])
        return replace(self, address=address, shape=(len(rows), *self.shape[1:]))


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


def _check(float32: bool, shape: Any, strides: Any) -> None:
    """Refuse an array that is not float32 in C order; strides in elements, None for C order."""
    expected, step = [], 1
    for size in reversed(shape):
        expected.append(step)
        step *= size
    in_order = not strides or all(
        size == 1 or stride == wanted for size, stride, wanted in zip(shape, strides, reversed(expected), strict=True)
    )
    if not float32 or not in_order:
        raise EngineError("An array on the GPU is not float32 in C order.", "Convert it first.")


# --- DLPack (dlpack.h, version 0.x: what __dlpack__ gives unless asked for more) ----------------------------

_CUDA = 2
_FLOAT = 2


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def read_capsule(capsule: Any) -> DeviceArray:
    """The array in a DLPack capsule.

    The capsule is kept as the owner: left unconsumed, it releases the memory itself when it goes.

    Raises:
        EngineError: if the array is not float32 in C order.
    """
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _Tensor.from_address(pointer(capsule, b"dltensor"))
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tensor.strides[: tensor.ndim] if tensor.strides else None
    _check((tensor.code, tensor.bits, tensor.lanes) == (_FLOAT, 32, 1), shape, strides)
    return DeviceArray((tensor.data or 0) + tensor.byte_offset, shape, FINISHED, capsule)
