"""What is installed, by metadata alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doctor.stand_ins import install
from trt_landmarks.doctor.packages import Need, built_for, cuda_of, findable, installed, requirements


def install_toolkit(site: Path) -> None:
    install(
        site, "trt-landmarks", "0.1.0", "numpy>=1.26", "onnxruntime~=1.24.2; python_version >= '3'",
        "onnxruntime~=1.1; python_version < '3'", 'torch<2.14,>=2.11; extra == "train"',
        'nvidia-modelopt~=0.47.0; extra == "calibrate"', 'torch<2.14,>=2.11; extra == "calibrate"',
        'pytest>=9; extra == "test"', extras=("train", "calibrate", "test"),
    )  # fmt: skip


def test_nothing_is_installed(site: Path) -> None:
    assert installed() == {}
    assert requirements([]) == ([], {"": []})


def test_versions_are_read_without_importing(site: Path) -> None:
    install(site, "onnxruntime-gpu", "1.24.4")
    install(site, "nvidia-dali-cuda130", "2.4.0")
    assert installed() == {"onnxruntime-gpu": "1.24.4", "nvidia-dali-cuda130": "2.4.0"}


def test_damaged_metadata_is_survived(site: Path) -> None:
    install_toolkit(site)
    for name, content in {"numpy": b"", "onnx": b"\xff\xfe", "torch": b"Name: torch\nVersion: what?\n"}.items():
        (site / f"{name}-1.0.dist-info").mkdir()
        (site / f"{name}-1.0.dist-info" / "METADATA").write_bytes(content)
    install(site, "pycuda", "2026.1", "this is no requirement !!", "mako; nonsense == '1'", "pytools>=2011")
    found = installed()
    assert found["numpy"] == found["onnx"] == "unknown" and found["torch"] == "what?"
    unmet, _ = requirements(found)
    assert unmet == [
        Need("trt-landmarks", "", "onnxruntime", "~=1.24.2", None),
        Need("pycuda", "", "pytools", ">=2011", None),
    ]


def test_own_requirements_are_compared(site: Path) -> None:
    install_toolkit(site)
    install(site, "numpy", "1.25.0")
    install(site, "torch", "2.13.0+cpu")
    unmet, lacking = requirements([])
    assert unmet == [
        Need("trt-landmarks", "", "numpy", ">=1.26", "1.25.0"),
        Need("trt-landmarks", "", "onnxruntime", "~=1.24.2", None),
    ]
    assert lacking == {"": ["onnxruntime"], "train": [], "calibrate": ["nvidia-modelopt"]}


def test_an_extra_that_is_not_there_is_no_fault_but_its_wrong_version_is(site: Path) -> None:
    install_toolkit(site)
    install(site, "numpy", "2.0")
    install(site, "onnxruntime", "1.24.4")
    assert requirements([])[0] == []
    install(site, "nvidia-modelopt", "0.30")
    assert requirements([])[0] == [Need("trt-landmarks", "calibrate", "nvidia-modelopt", "~=0.47.0", "0.30")]


def test_onnxruntime_gpu_stands_in_for_onnxruntime(site: Path) -> None:
    install_toolkit(site)
    install(site, "numpy", "2.0")
    install(site, "onnxruntime-gpu", "1.31.1")
    assert requirements([])[0] == [Need("trt-landmarks", "", "onnxruntime-gpu", "~=1.24.2", "1.31.1")]


def test_requirements_of_what_is_installed_are_compared(site: Path) -> None:
    install(site, "onnx", "1.21.0", "protobuf>=4.25", "numpy", 'Pillow; extra == "reference"')
    install(site, "protobuf", "3.20")
    assert requirements(["onnx"])[0] == [
        Need("onnx", "", "protobuf", ">=4.25", "3.20"),
        Need("onnx", "", "numpy", "", None),
    ]


def test_names_tell_cuda() -> None:
    expected = {"tensorrt-cu12": 12, "tensorrt-rtx-cu13": 13, "nvidia-dali-cuda130": 13, "pycuda": None, "torch": None}
    assert {name: cuda_of(name) for name in expected} == expected
    assert built_for("nvidia-dali-cuda130", 12) == "nvidia-dali-cuda120"
    assert built_for("tensorrt-rtx-cu13", 11) is None and built_for("numpy", 12) is None


def test_finding_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deadly").mkdir()
    for name in ("__init__", "inner"):
        (tmp_path / "deadly" / f"{name}.py").write_text("import os; os._exit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    assert findable("deadly") and findable("deadly.inner")
    assert not findable("deadly.other") and not findable("deadly.inner.more") and not findable("nothing.at.all")
