"""Which NVIDIA GPUs can be used?  Asked of the driver itself, before a library that would crash without one.

**Not verified, for want of a GPU:** a real driver's answers; tested with stand-ins for its library.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass

_DRIVER = "libcuda.so.1"
#: CUdevice_attribute numbers of the CUDA driver API.
_MAJOR, _MINOR = 75, 76
#: What cuInit's codes mean (CUresult of the CUDA driver API), and what to do.
_CODES = {
    34: (
        f"its {_DRIVER} is the CUDA toolkit's stub, which is no driver",
        "Take the toolkit's folder of stubs out of LD_LIBRARY_PATH.",
    ),
    100: (
        "no GPU is visible",
        "Check with nvidia-smi, and check that CUDA_VISIBLE_DEVICES, where it is set, names a GPU.",
    ),
    802: (
        "the system is not ready for CUDA",
        "On a machine with NVSwitch start the fabric manager: systemctl start nvidia-fabricmanager",
    ),
    803: (
        "the driver's library and its kernel module have different versions",
        "Reboot, or in a container use the host's driver library.",
    ),
    804: (
        "a CUDA compatibility package is in use that this GPU does not support",
        "Take the folder of the compatibility package (cuda-compat) out of LD_LIBRARY_PATH.",
    ),
}


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        name: e.g. ``NVIDIA H200``.
        compute_capability: e.g. ``9.0``.
        driver: CUDA version the driver supports, e.g. ``13.0``.
        memory: bytes.
    """

    name: str
    compute_capability: str
    driver: str
    memory: int = 0


@dataclass(frozen=True)
class NoGpu:
    """Why no GPU can be used.

    Attributes:
        reason: e.g. ``there is no NVIDIA driver (libcuda.so.1)``.
        remedy: what the person can do, one sentence; empty if there is nothing to advise.
        driver: CUDA version the driver supports; empty if it cannot be asked.
    """

    reason: str
    remedy: str = ""
    driver: str = ""


def gpu_problem() -> str | None:
    """Why no GPU can be used here; None if one can."""
    found = find_gpus()
    return found.reason if isinstance(found, NoGpu) else None


def first_gpu() -> Gpu | None:
    """The first GPU; None if none can be used."""
    found = find_gpus()
    return None if isinstance(found, NoGpu) else found[0]


def find_gpus() -> list[Gpu] | NoGpu:
    """All GPUs that programs may use here (at least one), in the driver's order, or why there is none."""
    try:
        cuda = ctypes.CDLL(_DRIVER)
    except OSError:
        return NoGpu(f"there is no NVIDIA driver ({_DRIVER})")
    try:
        return _ask(cuda)
    except AttributeError:
        return NoGpu(f"{_DRIVER} is not the library of a CUDA driver")


def nvidia_smi(what: str) -> str | None:
    """A figure of the first GPU that the driver's library does not tell, such as ``clocks.sm``, as text; or None."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _ask(cuda: ctypes.CDLL) -> list[Gpu] | NoGpu:
    code = cuda.cuInit(0)
    driver = _version(cuda)
    if code:
        meaning, remedy = _CODES.get(code, ("", ""))
        explained = f"cuInit gave {code}{': ' if meaning else ''}{meaning}"
        return NoGpu(f"the NVIDIA driver does not start ({explained})", remedy, driver)
    count = ctypes.c_int()
    if cuda.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
        return NoGpu("the NVIDIA driver sees no GPU", _CODES[100][1], driver)
    found = [_describe(cuda, number, driver) for number in range(count.value)]
    gpus = [gpu for gpu in found if gpu is not None]
    return gpus if len(gpus) == len(found) else NoGpu("the NVIDIA driver does not describe its GPU", driver=driver)


def _version(cuda: ctypes.CDLL) -> str:
    """CUDA version the driver supports; empty if it does not say."""
    version = ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(version)) or version.value < 1000:
        return ""
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _describe(cuda: ctypes.CDLL, number: int, driver: str) -> Gpu | None:
    device, major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    if cuda.cuDeviceGet(ctypes.byref(device), number):
        return None
    name = ctypes.create_string_buffer(256)
    codes = (
        cuda.cuDeviceGetName(name, len(name), device),
        cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
        cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
    )
    if any(codes):
        return None
    return Gpu(name.value.decode(errors="replace"), f"{major.value}.{minor.value}", driver, memory.value)
