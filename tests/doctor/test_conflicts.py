"""Every known conflict is found where it is, and only there."""

from __future__ import annotations

import pytest

from tests.doctor.stand_ins import H200, LOADED, MIXED, REFUSED, RTX, STUB, base, failed, gpu, loaded, no_gpu
from trt_landmarks.doctor.checks import CHECKS, Conflict, find_conflicts
from trt_landmarks.doctor.facts import Facts
from trt_landmarks.doctor.packages import PACKAGES, Need
from trt_landmarks.doctor.probe import Answer
from trt_landmarks.doctor.report import make_report, render

OWN = "trt-landmarks"
NO_STUB = "No module named 'tensorrt_bindings'"
LIBRARY = "libcublasLt.so.12: cannot open shared object file: No such file or directory"
DRIVER_12 = gpu({**RTX, "driver": "12.8"})
CONFLICTS: dict[str, tuple[Facts, Facts, str, str]] = {
    # code: facts that have it, facts that almost have it, what the message names, what the remedy names
    "base-missing": (
        base(unmet=(Need(OWN, "", "isal", ">=1.7", None),)),
        base(unmet=(Need("onnx", "", "isal", ">=1.7", None),)),
        "isal", "pip install trt-landmarks",
    ),
    "version-unfit": (
        base({"onnxruntime": "1.31.1"}, unmet=(Need(OWN, "", "onnxruntime", "~=1.24.2", "1.31.1"),)),
        base(unmet=(Need("onnx", "", "numpy", ">=9", "2.4.6"),)),
        "onnxruntime 1.31.1", "pip install 'onnxruntime~=1.24.2'",
    ),
    "dependency-unmet": (
        base({"onnx": "1.21.0"}, unmet=(Need("onnx", "", "protobuf", ">=4.25", "3.20"),)),
        base({"onnx": "1.21.0"}, unmet=(Need(OWN, "", "numpy", ">=9", "2.4.6"),)),
        "onnx requires protobuf>=4.25, but 3.20", "pip install 'protobuf>=4.25'",
    ),
    "shared-folder": (
        base({"onnxruntime-gpu": "1.24.4"}),
        base({"tensorrt-cu13": "11.4.0", "tensorrt": "11.4.0"}, loaded("tensorrt")),
        "onnxruntime and onnxruntime-gpu",
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'trt-landmarks'",
    ),
    "files-missing": (
        base({}, failed("onnxruntime", "module 'onnxruntime' has no attribute 'InferenceSession'")),
        base({}, failed("onnxruntime", "libstdc++.so.6 is too old")),
        "onnxruntime 1.24.4", "pip install --force-reinstall --no-deps onnxruntime==1.24.4",
    ),
    "tensorrt-stub": (
        base({"tensorrt-cu13": "11.4.0"}, failed("tensorrt", NO_STUB), unmet=STUB),
        base({"tensorrt-cu13": "11.4.0"}, loaded("tensorrt")),
        "tensorrt-cu13-libs and tensorrt-cu13-bindings are missing", "pip install 'trt-landmarks[rtx]'",
    ),
    "tensorrt-parts": (
        base({"tensorrt-cu13": "11.4.0"}, loaded("tensorrt"), unmet=MIXED),
        base({"tensorrt-cu13": "11.4.0"}, failed("tensorrt", NO_STUB), unmet=STUB),
        "tensorrt-cu13-libs 11.2.0", "tensorrt-cu13-libs==11.4.0",
    ),
    "driver-refuses": (
        base({}, no_gpu(*REFUSED), kernel_driver="580.65", cards=8),
        base({}, gpu(H200), kernel_driver="580.65", cards=8),
        "lists 8 GPUs", "fabric manager",
    ),
    "driver-library-missing": (
        base({}, no_gpu("there is no NVIDIA driver (libcuda.so.1)"), kernel_driver="580.65"),
        base({}, no_gpu("there is no NVIDIA driver (libcuda.so.1)")),
        "580.65", "--gpus all",
    ),
    "driver-old": (
        base({"nvidia-dali-cuda130": "2.4.0"}, loaded("dali") | DRIVER_12),
        base({"nvidia-dali-cuda120": "2.4.0"}, loaded("dali") | DRIVER_12),
        "nvidia-dali-cuda130 is built for CUDA 13; the driver supports CUDA 12.8", "580 or later, or: pip uninstall -y "
        "nvidia-dali-cuda130 && pip install nvidia-dali-cuda120",
    ),
    "gpu-old": (
        base({"tensorrt-rtx-cu13": "1.7"}, loaded("tensorrt-rtx") | gpu({**RTX, "compute_capability": "7.0"})),
        base({"tensorrt-rtx-cu13": "1.7"}, loaded("tensorrt-rtx") | gpu({**RTX, "compute_capability": "7.5"})),
        "compute capability 7.0", "CUDA 12",
    ),
    "onnxruntime-cuda-libraries": (
        base({"onnxruntime-gpu": "1.24.4"}, failed("onnxruntime-cuda", LIBRARY)),
        base({"onnxruntime-gpu": "1.24.4"}, loaded("onnxruntime-cuda")),
        "libcublasLt.so.12 is missing", "pip install 'onnxruntime-gpu[cuda,cudnn]==1.24.4'",
    ),
    "pycuda-driver": (
        base({"pycuda": "2026.1"}, failed("pycuda", "libcuda.so.1: cannot open shared object file")),
        base({}, failed("pycuda", "No module named 'pycuda'", "missing")),
        "libcuda.so.1", "pip uninstall -y pycuda",
    ),
    "pycuda-headers": (
        base({"pycuda": "2026.1"}, failed("pycuda", "_driver.so: undefined symbol: cuCtxCreate_v4") | gpu(H200)),
        base({"pycuda": "2026.1"}, failed("pycuda", "_driver.so: undefined symbol: _ZN5boost") | gpu(H200)),
        "cuCtxCreate_v4", "--force-reinstall",
    ),
    "torch-cpu-only": (
        base({"torch": "2.13.0+cpu"}, gpu(H200), torch_cuda=""),
        base({"torch": "2.13.0"}, gpu(H200), torch_cuda="13.0"),
        "CPU build", "CUDA",
    ),
    "cache-unwritable": (
        base({}, {"cache": Answer("loaded", {**LOADED["cache"], "writable": False})}),
        base({}, failed("cache", "broken")),
        "~/.cache/x", "TRTLM_CACHE",
    ),
}  # fmt: skip
NOTES = {"torch-cpu-only"}


def codes(facts: Facts) -> list[str]:
    return [conflict.code for conflict in find_conflicts(facts)]


@pytest.mark.parametrize("code", CONFLICTS)
def test_a_conflict_is_found_where_it_is_and_only_there(code: str) -> None:
    there, almost, message, remedy = CONFLICTS[code]
    (found,) = [conflict for conflict in find_conflicts(there) if conflict.code == code]
    assert message in found.message and remedy in found.remedy
    assert found.severity == ("note" if code in NOTES else "problem")
    assert code not in codes(almost)
    assert code not in codes(base())
    assert found.message in render(make_report(there)) and found.remedy in render(make_report(there))


def test_a_base_installation_has_no_conflict() -> None:
    assert codes(base()) == []


def test_a_version_that_several_extras_refuse_is_one_conflict() -> None:
    facts = base(unmet=tuple(Need(OWN, extra, "torch", "<2.14", "2.20") for extra in ("train", "export")))
    (found,) = find_conflicts(facts)
    assert "its extra train, export" in found.message


def test_every_pair_in_one_folder_is_a_conflict() -> None:
    for package in PACKAGES:
        for other in package.distributions[1:]:
            facts = base({package.distributions[0]: "1", other: "1"})
            assert "shared-folder" in codes(facts)


def test_a_stub_is_one_conflict_not_three() -> None:
    assert codes(CONFLICTS["tensorrt-stub"][0]) == ["tensorrt-stub"]
    assert codes(CONFLICTS["tensorrt-parts"][0]) == ["tensorrt-parts"]


def test_a_hidden_gpu_is_told() -> None:
    facts = base({}, no_gpu(*REFUSED), kernel_driver="580.65", cards=1, settings={"CUDA_VISIBLE_DEVICES": "-1"})
    (found,) = find_conflicts(facts)
    assert "lists 1 GPU." in found.message and "CUDA_VISIBLE_DEVICES is set to '-1'" in found.message


def test_a_driver_without_hardware_is_only_a_note() -> None:
    (found,) = find_conflicts(base({}, no_gpu(*REFUSED)))
    assert (found.code, found.severity) == ("driver-refuses", "note")


def test_an_old_driver_without_an_older_package_only_says_update() -> None:
    facts = base({"torch": "2.13.0"}, gpu({**RTX, "driver": "12.8"}), torch_cuda="13.0")
    (found,) = find_conflicts(facts)
    assert found.code == "driver-old" and "pip" not in found.remedy


def test_problems_come_before_notes() -> None:
    facts = base({"torch": "2+cpu", "onnxruntime-gpu": "1.24.4"}, gpu(H200), torch_cuda="")
    assert [conflict.severity for conflict in find_conflicts(facts)] == ["problem", "note"]


def test_a_check_that_fails_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def _odd(facts: Facts) -> list[Conflict]:
        raise KeyError("unheard of")

    monkeypatch.setattr("trt_landmarks.doctor.checks.CHECKS", (*CHECKS, _odd))
    (found,) = find_conflicts(base())
    assert found.code == "odd" and "unheard of" in found.message
