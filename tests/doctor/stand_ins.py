"""Facts as the doctor could find them, and fake packages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from trt_landmarks.bundles.bundle import SHIPPED
from trt_landmarks.doctor.facts import Facts
from trt_landmarks.doctor.packages import Need
from trt_landmarks.doctor.probe import Answer

LOADED: dict[str, dict[str, Any]] = {
    "driver": {"gpus": [], "none": {"reason": "there is no NVIDIA driver", "remedy": "", "driver": ""}},
    "numpy": {"version": "2.4.6"},
    "SimpleITK": {"version": "2.5.7"},
    "isal": {},
    "onnxruntime": {"version": "1.24.4", "providers": ["CPUExecutionProvider"], "package": "onnxruntime", "cuda": ""},
    "onnxruntime-cuda": {},
    "model": {"name": "mouse-skull", "shipped": True, "graphs": 3, "landmarks": 45, "ships": list(SHIPPED)},
    "builds": {"builds": [], "warnings": [], "precisions": ["fp32", "fp16", "int8"]},
    "cache": {"folder": "~/.cache/x", "exists": False, "writable": True, "bytes": 0, "free_bytes": 10**9},
    "onnx": {"version": "1.21.0"},
    "torch": {"version": "2.13.0", "cuda": "", "gpu": False},
    "modelopt": {"version": "0.47.0"},
    "tensorrt": {"version": "11.4.0", "targets": []},
    "tensorrt-rtx": {"version": "1.7.1", "targets": ["7.5", "8.0", "8.6", "8.9", "12.0"]},
    "pycuda": {"version": "2026.1", "cuda": "13.0.0"},
    "dali": {"version": "2.4.0"},
}
BASE = {"numpy": "2.4.6", "simpleitk": "2.5.7", "isal": "1.9.1", "onnxruntime": "1.24.4"}
#: Steps that a base installation takes.
PLAIN = ("driver", "numpy", "SimpleITK", "isal", "onnxruntime", "model", "builds", "cache")
H200 = {"name": "NVIDIA H200", "compute_capability": "9.0", "driver": "13.0", "memory": 150 << 30}
RTX = {**H200, "name": "NVIDIA RTX 4090", "compute_capability": "8.9"}


def loaded(*steps: str) -> dict[str, Answer]:
    return {step: Answer("loaded", LOADED[step]) for step in steps}


def failed(step: str, problem: str, state: str = "failed") -> dict[str, Answer]:
    return {step: Answer(state, problem=problem)}


def gpu(*gpus: dict[str, Any]) -> dict[str, Answer]:
    return {"driver": Answer("loaded", {"gpus": list(gpus), "none": None})}


def no_gpu(reason: str, remedy: str = "", driver: str = "") -> dict[str, Answer]:
    return {"driver": Answer("loaded", {"gpus": [], "none": {"reason": reason, "remedy": remedy, "driver": driver}})}


def base(packages: dict[str, str] | None = None, answers: dict[str, Answer] | None = None, **changes: Any) -> Facts:
    """A base installation in which all is well, with changes."""
    lacking: dict[str, list[str]] = {"": [], "calibrate": ["nvidia-modelopt", "torch"]}
    return replace(
        Facts(installed={**BASE, **(packages or {})}, answers=loaded(*PLAIN) | (answers or {}), lacking=lacking),
        **changes,
    )


FULL = ("onnx", "torch", "modelopt", "tensorrt", "tensorrt-rtx", "pycuda", "dali")
PACKAGES_OF_ALL = {
    "onnx": "1.21.0", "torch": "2.13.0", "nvidia-modelopt": "0.47.0", "tensorrt-cu13": "11.4.0", "pycuda": "2026.1",
    "tensorrt-rtx-cu13": "1.7.1", "nvidia-dali-cuda130": "2.4.0",
}  # fmt: skip


def full(answers: dict[str, Answer], **changes: Any) -> Facts:
    """An installation with everything."""
    return base(PACKAGES_OF_ALL, loaded(*FULL) | answers, **{"lacking": {"calibrate": []}, **changes})


def install(site: Path, name: str, version: str, *requires: str, extras: tuple[str, ...] = ()) -> None:
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {line}" for line in requires]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")


def fake(folder: Path, module: str, code: str) -> None:
    """A module with this code."""
    *packages, name = module.split(".")
    for package in packages:
        folder = folder / package
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
    (folder / f"{name}.py").write_text(code)


STUB = (
    Need("tensorrt-cu13", "", "tensorrt-cu13-libs", "==11.4.0", None),
    Need("tensorrt-cu13", "", "tensorrt-cu13-bindings", "==11.4.0", None),
)
MIXED = (Need("tensorrt-cu13", "", "tensorrt-cu13-libs", "==11.4.0", "11.2.0"),)
REFUSED = ("the NVIDIA driver does not start (cuInit gave 802: not ready)", "Start the fabric manager.", "13.0")
