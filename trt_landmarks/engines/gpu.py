"""Is there a usable NVIDIA GPU?  Asked of the driver itself, before a library that would crash without one."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

_DRIVER = "libcuda.so.1"
#: CUdevice_attribute numbers of the CUDA driver API.
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """The first GPU.

    Attributes:
        name: e.g. ``NVIDIA H200``.
        compute_capability: e.g. ``9.0``.
        driver: CUDA version the driver supports, e.g. ``13.0``.
    """

    name: str
    compute_capability: str
    driver: str


def gpu_problem() -> str | None:
    """Why no GPU can be used here; None if one can."""
    found = _ask()
    return found if isinstance(found, str) else None


def first_gpu() -> Gpu | None:
    """The first GPU; None if none can be used."""
    found = _ask()
    return None if isinstance(found, str) else found


def _ask() -> Gpu | str:
    try:
        cuda = ctypes.CDLL(_DRIVER)
    except OSError:
        return f"there is no NVIDIA driver ({_DRIVER})"
    code = cuda.cuInit(0)
    if code:
        return f"the NVIDIA driver does not start (cuInit gave {code})"
    count, device, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if cuda.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1 or cuda.cuDeviceGet(ctypes.byref(device), 0):
        return "the NVIDIA driver sees no GPU"
    name = ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    codes = (
        cuda.cuDeviceGetName(name, len(name), device),
        cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
        cuda.cuDriverGetVersion(ctypes.byref(version)),
    )
    if any(codes):
        return "the NVIDIA driver does not describe its GPU"
    supported = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", supported)
