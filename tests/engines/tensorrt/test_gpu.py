"""The question to the driver, with a stand-in for it."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from trt_landmarks.engines.tensorrt.gpu import Gpu, NoGpu, find_gpus, first_gpu, gpu_problem


class Driver:
    """A CUDA driver that answers what it is told to."""

    def __init__(self, start: int = 0, count: int = 1, broken: str = "") -> None:
        self.start, self.count, self.broken = start, count, broken

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.start

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = 13020
        return self.broken == "version"

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.count
        return self.broken == "count"

    def cuDeviceGet(self, device: Any, number: int) -> int:  # noqa: N802
        device._obj.value = number
        return 0

    def cuDeviceGetName(self, name: Any, length: int, device: Any) -> int:  # noqa: N802
        name.value = f"NVIDIA Stand-in {device.value}".encode()
        return self.broken == "name"

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802
        value._obj.value = {75: 8, 76: 6 + device.value}[attribute]
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: Any) -> int:  # noqa: N802
        memory._obj.value = 48 << 30
        return 0


def use(monkeypatch: pytest.MonkeyPatch, driver: object) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)


def test_every_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Driver(count=2))
    expected = [Gpu(f"NVIDIA Stand-in {n}", f"8.{6 + n}", "13.2", 48 << 30) for n in range(2)]
    assert find_gpus() == expected
    assert first_gpu() == expected[0]
    assert gpu_problem() is None


@pytest.mark.parametrize(
    ("driver", "says", "advises"),
    [
        (Driver(start=34), "cuInit gave 34: its libcuda.so.1 is the CUDA toolkit's stub", "LD_LIBRARY_PATH"),
        (Driver(start=100), "cuInit gave 100: no GPU is visible", "CUDA_VISIBLE_DEVICES"),
        (Driver(start=802), "not ready", "nvidia-fabricmanager"),
        (Driver(start=803), "different versions", "Reboot"),
        (Driver(start=804), "compatibility package", "cuda-compat"),
        (Driver(start=999), "(cuInit gave 999)", ""),
        (Driver(count=0), "sees no GPU", "CUDA_VISIBLE_DEVICES"),
        (Driver(broken="count"), "sees no GPU", "CUDA_VISIBLE_DEVICES"),
        (Driver(broken="name"), "does not describe its GPU", ""),
    ],
)
def test_a_driver_without_a_gpu_says_why(
    driver: Driver, says: str, advises: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, driver)
    found = find_gpus()
    assert isinstance(found, NoGpu)
    assert says in found.reason and says in str(gpu_problem())
    assert advises in found.remedy and bool(advises) == bool(found.remedy)
    assert found.driver == "13.2"
    assert first_gpu() is None


def test_a_driver_that_does_not_tell_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Driver(broken="version"))
    gpu = first_gpu()
    assert gpu is not None and gpu.driver == ""


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert gpu_problem() == "there is no NVIDIA driver (libcuda.so.1)"
    use(monkeypatch, object())
    assert gpu_problem() == "libcuda.so.1 is not the library of a CUDA driver"
