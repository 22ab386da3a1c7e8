"""Arrays that others left on the GPU: what is read of them, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_landmarks.engines.tensorrt.memory import FINISHED, DeviceArray, read_capsule
from trt_landmarks.errors import EngineError


def interface(**entries: Any) -> Any:
    """An object as PyTorch, CuPy or DALI give."""
    facts = {"data": (4096, False), "shape": (2, 3), "typestr": "<f4", "strides": None, "version": 3, "stream": 7}
    return SimpleNamespace(__cuda_array_interface__={**facts, **entries})


def test_the_interfaces_own_stream_is_taken_unless_one_is_named() -> None:
    owner = interface()
    assert DeviceArray.of(owner) == DeviceArray(4096, (2, 3), 7, owner)
    assert DeviceArray.of(owner, 9).stream == 9
    assert DeviceArray.of(interface(stream=None)).stream == FINISHED
    torch_like = interface(version=2)
    del torch_like.__cuda_array_interface__["stream"]
    with pytest.raises(EngineError, match="does not say which stream writes it"):
        DeviceArray.of(torch_like)
    assert DeviceArray.of(torch_like, FINISHED).stream == FINISHED


@pytest.mark.parametrize("entries", [{"typestr": "<f2"}, {"typestr": "|u1"}, {"strides": (4, 8)}, {"strides": (24, 4)}])
def test_other_types_and_orders_are_refused(entries: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="not float32 in C order"):
        DeviceArray.of(interface(**entries))


@pytest.mark.parametrize(("shape", "strides"), [((2, 3), (12, 4)), ((1, 3), (999, 4)), ((2, 1), (4, 999))])
def test_strides_of_c_order_are_taken(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    assert DeviceArray.of(interface(shape=shape, strides=strides)).shape == shape


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 4), st.integers(0, 5))
def test_a_part_is_what_numpy_slices(shape: list[int], start: int, length: int) -> None:
    array = np.zeros(shape, dtype=np.float32)
    part = array[start : start + length]
    found = DeviceArray(array.ctypes.data, array.shape).part(start, start + length)
    assert found.shape == part.shape and found.nbytes == part.nbytes
    if part.size:
        assert found.address == part.ctypes.data


def test_dlpack_capsules_are_read() -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    found = read_capsule(array[1:].__dlpack__())
    assert (found.address, found.shape, found.stream) == (array[1:].ctypes.data, (1, 3, 4), FINISHED)
    torch = pytest.importorskip("torch")
    tensor = torch.arange(12.0).reshape(3, 4)
    assert read_capsule(tensor[1:].__dlpack__()).address == tensor[1:].data_ptr()
    for other in (array.astype(np.float64), array.transpose(), array[:, ::2], tensor.int()):
        with pytest.raises(EngineError, match="not float32 in C order"):
            read_capsule(other.__dlpack__())


def test_dlpack_hands_over_to_the_readers_stream() -> None:
    array = np.ones((2, 2), dtype=np.float32)
    asked: list[int] = []

    def export(stream: int) -> Any:
        asked.append(stream)
        return array.__dlpack__()

    on_gpu = SimpleNamespace(__dlpack_device__=lambda: (2, 0), __dlpack__=export)
    assert DeviceArray.from_dlpack(on_gpu, 5).shape == (2, 2) and asked == [5]
    with pytest.raises(EngineError, match="not on a GPU"):
        DeviceArray.from_dlpack(array, 5)
