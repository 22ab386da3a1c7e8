"""Everything the doctor looks at, gathered once: metadata, answers of the child processes, driver, settings."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from trt_landmarks.doctor.packages import PACKAGES, Need, cuda_of, findable, installed, major, requirements
from trt_landmarks.doctor.probe import STEPS, Answer, Group, ask, plain
from trt_landmarks.engines.tensorrt.gpu import Gpu, NoGpu
from trt_landmarks.system import cores, memory_bytes

T = TypeVar("T")

#: Folder of the NVIDIA kernel driver.
KERNEL_DRIVER = Path("/proc/driver/nvidia")
#: What inference on the CPU needs, in the order of loading (isal has a substitute).  The verdict depends on it.
DEFAULT_JOB = ("numpy", "SimpleITK", "onnxruntime", "model")
#: What takes too long to load for a quick look.
SLOW = ("onnx", "torch", "modelopt")
#: Seconds for the default job and the driver, for the rest, and for everything with ``--deep``.
PATIENCE, QUICK, DEEP = 10.0, 1.5, 60.0
#: Settings that decide what is found.
SETTINGS = ("TRTLM_MODEL", "TRTLM_CACHE", "CUDA_VISIBLE_DEVICES")


@dataclass(frozen=True)
class Facts:
    """What was found.

    Attributes:
        installed: distribution to version, of all that install one of the packages.
        answers: step (:data:`trt_landmarks.doctor.probe.STEPS`) to its answer; steps that were left out are missing.
        unmet: requirements that are not met.
        lacking: the toolkit's extra to its distributions that are not installed.
        torch_cuda: CUDA version torch was built for; empty for a CPU build; None if unknown.
        kernel_driver: version of the NVIDIA kernel driver, e.g. ``580.65.06``; None if there is none, empty if unknown.
        cards: GPUs that the kernel driver lists, whether or not programs may use them.
        settings: environment variables of :data:`SETTINGS` that are set.
        machine: plain facts of Python and the computer.
        faults: what could not be gathered, and why.
    """

    installed: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, Answer] = field(default_factory=dict)
    unmet: tuple[Need, ...] = ()
    lacking: Mapping[str, list[str]] = field(default_factory=dict)
    torch_cuda: str | None = None
    kernel_driver: str | None = None
    cards: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[str, ...] = ()

    def answer(self, step: str) -> Answer:
        """The answer of a step; ``found`` if it was left out, but the package is installed."""
        if step in self.answers:
            return self.answers[step]
        there = any(step == package.name and self.distributions(step) for package in PACKAGES)
        return Answer("found" if there else "missing")

    def distributions(self, name: str) -> dict[str, str]:
        """Distributions that install a package, and their versions; umbrellas are left out if they are not alone."""
        package = next(package for package in PACKAGES if package.name == name)
        return {
            key: self.installed[key]
            for names in (package.umbrellas, package.distributions)
            for key in names
            if key in self.installed and (names is package.distributions or not self._has(package.distributions))
        }

    def _has(self, names: tuple[str, ...]) -> bool:
        return any(name in self.installed for name in names)

    @property
    def gpus(self) -> list[Gpu]:
        """GPUs that programs may use."""
        return [Gpu(**gpu) for gpu in self.answer("driver").facts.get("gpus", ())]

    @property
    def no_gpu(self) -> NoGpu | None:
        """Why no GPU can be used; None if one can."""
        answer = self.answer("driver")
        if not answer.loaded:
            return NoGpu(f"the NVIDIA driver does not answer ({answer.problem or 'not asked'})")
        return NoGpu(**answer.facts["none"]) if answer.facts["none"] else None

    @property
    def driver_cuda(self) -> str:
        """CUDA version the driver supports; empty if there is no driver or it does not say."""
        return self.no_gpu.driver if self.no_gpu else self.gpus[0].driver

    def built_for(self) -> dict[str, int]:
        """CUDA's major version that each installed distribution was built for, where it is known."""
        found = {name: cuda for name in self.installed if (cuda := cuda_of(name)) is not None}
        said = {"torch": self.torch_cuda, "onnxruntime-gpu": self.answer("onnxruntime").facts.get("cuda")}
        for name, version in said.items():
            cuda = major(version or "")
            if cuda is not None and name in self.installed:
                found[name] = cuda
        return found


def gather(deep: bool = False) -> Facts:
    """Look at everything; what cannot be gathered is told in ``faults``, and nothing is raised.

    Args:
        deep: load what is slow too, and give every package a minute.
    """
    faults: list[str] = []

    def tried(what: str, call: Callable[[], T], otherwise: T) -> T:
        try:
            return call()
        except Exception as error:
            faults.append(f"{what}: {plain(error)}")
            return otherwise

    none_installed: dict[str, str] = {}
    present = tried("installed packages", installed, none_installed)
    wanted = ["tensorrt", "tensorrt-rtx", "pycuda", "dali", *(SLOW if deep else ())]
    named = {package.name for package in PACKAGES if present.keys() & {*package.distributions, *package.umbrellas}}
    steps = [step for step in wanted if step in named or findable(STEPS[step][0])]
    steps += ["onnxruntime-cuda"] if "onnxruntime-gpu" in present else []
    patience = DEEP if deep else PATIENCE
    groups = [Group(("numpy", "SimpleITK", "onnxruntime", "isal", "model", "builds", "cache"), patience)]
    groups += [Group(("driver",), patience)]  # of many GPUs it may take seconds to start
    groups += [Group((step,), DEEP if deep else QUICK) for step in steps]
    with ThreadPoolExecutor(max_workers=1) as pool:
        asking = pool.submit(ask, groups)
        not_compared: tuple[list[Need], dict[str, list[str]]] = ([], {})
        unmet, lacking = tried("versions were not compared", lambda: requirements(present), not_compared)
        not_loaded: dict[str, Answer] = {}
        answers = tried("packages were not loaded", lambda: asking.result(), not_loaded)
    return Facts(
        installed=present,
        answers=answers,
        unmet=tuple(unmet),
        lacking=lacking,
        torch_cuda=tried("torch", _torch_cuda, None) if "torch" in present else None,
        kernel_driver=tried("kernel driver", _kernel_driver, None),
        cards=tried("GPUs of the kernel driver", _cards, 0),
        settings={name: os.environ[name] for name in SETTINGS if name in os.environ},
        machine=tried("machine", _machine, {}),
        faults=tuple(faults),
    )


def _torch_cuda() -> str | None:
    """CUDA version in torch's own version file: loading torch takes seconds."""
    text = Path(str(importlib.metadata.distribution("torch").locate_file("torch/version.py"))).read_text("utf-8")
    match = re.search(r"^cuda\b[^=\n]*=\s*(?:None|['\"]([\d.]*)['\"])", text, re.MULTILINE)
    return None if match is None else match[1] or ""


def _kernel_driver() -> str | None:
    file = KERNEL_DRIVER / "version"
    if not file.is_file():
        return None
    match = re.search(r"\b\d{3}\.\d+(?:\.\d+)?\b", file.read_text("utf-8", errors="replace"))
    return match[0] if match else ""


def _cards() -> int:
    folder = KERNEL_DRIVER / "gpus"
    return len(list(folder.iterdir())) if folder.is_dir() else 0


def _machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
    }
