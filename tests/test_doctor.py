"""The doctor: what it finds out of packages in any state, what it calls a conflict, and the command itself."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trt_landmarks.doctor as documentation
from trt_landmarks.doctor import facts as facts_module
from trt_landmarks.doctor.abilities import Can, dali_abilities, default_job, engine_abilities
from trt_landmarks.doctor.children import Answer, Group, ask
from trt_landmarks.doctor.command import doctor
from trt_landmarks.doctor.conflicts import CHECKS, Conflict, find_conflicts
from trt_landmarks.doctor.facts import Facts, gather
from trt_landmarks.doctor.packages import PACKAGES, Need, built_for, cuda_of, findable, installed, requirements
from trt_landmarks.doctor.probe import LONGEST, STEPS, plain, take
from trt_landmarks.doctor.report import make_report, render

LOADED: dict[str, dict[str, Any]] = {
    "driver": {"gpus": [], "none": {"reason": "there is no NVIDIA driver", "remedy": "", "driver": ""}},
    "numpy": {"version": "2.4.6"},
    "SimpleITK": {"version": "2.5.7"},
    "isal": {},
    "onnxruntime": {"version": "1.24.4", "providers": ["CPUExecutionProvider"], "package": "onnxruntime", "cuda": ""},
    "onnxruntime-cuda": {},
    "model": {"name": "mouse-skull", "shipped": True, "graphs": 3, "landmarks": 45, "ships": ["mouse-skull"]},
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


def codes(facts: Facts) -> list[str]:
    return [conflict.code for conflict in find_conflicts(facts)]


# --- what is installed --------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all Python finds distributions in."""
    import packaging.requirements  # noqa: F401 - found before the path is changed

    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder)])
    return folder


def install(site: Path, name: str, version: str, *requires: str, extras: tuple[str, ...] = ()) -> None:
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Provides-Extra: {extra}" for extra in extras] + [f"Requires-Dist: {line}" for line in requires]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")


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


# --- loading in child processes -----------------------------------------------------------------------------------


def fake(folder: Path, module: str, code: str) -> None:
    """A module with this code."""
    *packages, name = module.split(".")
    for package in packages:
        folder = folder / package
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
    (folder / f"{name}.py").write_text(code)


GOOD = "class Builder: pass\nclass OnnxParser: pass\n__version__ = '11.4.0'\n"


@pytest.mark.parametrize(
    ("code", "state", "says"),
    [
        (GOOD, "loaded", ""),
        (f"import os; print('noise'); os.write(1, b'{{\"step\": 1}}')\n{GOOD}", "loaded", ""),
        ("raise RuntimeError('no libnvinfer.so.11')", "failed", "no libnvinfer.so.11"),
        ("raise SystemExit(3)", "failed", "3"),
        ("class Odd(BaseException): pass\nraise Odd", "failed", "Odd"),
        ("import tensorrt_bindings_that_are_nowhere", "failed", "tensorrt_bindings_that_are_nowhere"),
        ("import os; os.abort()", "failed", "ends the process (SIGABRT)"),
        ("import os; os._exit(7)", "failed", "ends the process (exit code 7)"),
        ("import time; time.sleep(1000)", "late", "did not load within 1 s"),
        ("__version__ = '8'", "failed", "has no attribute 'Builder'"),
        ("def f(:", "failed", "syntax"),
        (None, "missing", "No module named"),
    ],
)
def test_whatever_a_module_does_has_an_answer(
    code: str | None, state: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(p for p in sys.path if not (Path(p) / "tensorrt").exists())])
    if code is not None:
        fake(tmp_path, "tensorrt", code)
    answer = ask([Group(("tensorrt",), 1.0 if state == "late" else 30.0)])["tensorrt"]
    assert answer.state == state
    assert says in answer.problem and bool(says) == bool(answer.problem)
    assert answer.facts == ({"version": "11.4.0", "targets": []} if state == "loaded" else {})


def test_one_broken_package_does_not_keep_the_others_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    fake(tmp_path, "tensorrt", "import os, time\nos.fork()\ntime.sleep(1000)")
    fake(tmp_path, "pycuda.driver", "import os; os.abort()")
    start = time.monotonic()
    answers = ask([Group(("tensorrt",), 2.0), Group(("pycuda", "numpy"), 30.0), Group(("numpy", "driver"), 30.0)])
    assert time.monotonic() - start < 25  # not the sleeper's 1000 s
    assert answers["tensorrt"].state == "late" and answers["pycuda"].state == "failed"
    assert answers["numpy"].loaded and answers["driver"].loaded


def test_steps_behind_a_crash_are_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    fake(tmp_path, "pycuda.driver", "import os; os.abort()")
    answers = ask([Group(("numpy", "pycuda", "isal", "cache"), 30.0)])
    assert answers["numpy"].loaded
    assert [answers[step].state for step in ("pycuda", "isal", "cache")] == ["failed", "untried", "untried"]
    assert answers["isal"].problem == "not tried, because of pycuda"


def test_without_processes_every_step_has_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    answers = ask([Group(("numpy", "isal"), 5.0)])
    assert {answer.state for answer in answers.values()} == {"failed"} and len(answers) == 2
    assert "no process can be started" in answers["numpy"].problem


def test_reasons_name_no_folder_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(tmp_path / "private")
    monkeypatch.setenv("HOME", "/home/somebody")
    text = f"{tmp_path}/private/tensorrt/lib.so: cannot be opened\n  for /home/somebody/x and {sys.prefix}/y"
    assert plain(OSError(text)) == "tensorrt/lib.so: cannot be opened for ~/x and y"
    assert plain(RuntimeError()) == "RuntimeError"
    assert len(plain("word " * 1000)) == LONGEST


def test_the_default_job_is_really_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRTLM_MODEL", raising=False)
    assert take("model")["facts"] == LOADED["model"]
    monkeypatch.setenv("TRTLM_MODEL", str(tmp_path / "nowhere"))
    assert "no such bundle folder" in take("model")["problem"]


def test_the_cache_folder_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "deep" / "cache"
    monkeypatch.setenv("TRTLM_CACHE", str(folder))
    before = take("cache")["facts"]
    assert (before["exists"], before["writable"], before["bytes"]) == (False, True, 0)
    assert not folder.exists()
    folder.mkdir(parents=True)
    (folder / "plan").write_bytes(b"12345")
    after = take("cache")["facts"]
    assert (after["folder"], after["exists"], after["bytes"]) == (str(folder), True, 5)
    monkeypatch.setenv("TRTLM_CACHE", str(folder / "plan"))
    assert not take("cache")["facts"]["writable"]


# --- facts of the machine -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release\nGCC version: 13", "580.65.06"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256  Thu", "470.256"),
        ("something else", ""),
    ],
)
def test_the_kernel_driver(text: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_module, "KERNEL_DRIVER", tmp_path)
    monkeypatch.setattr(facts_module, "ask", lambda groups: {})
    assert gather().kernel_driver is None
    (tmp_path / "version").write_text(text)
    (tmp_path / "gpus" / "0000:01:00.0").mkdir(parents=True)
    found = gather()
    assert found.kernel_driver == version and found.cards == 1


@pytest.mark.parametrize(
    ("line", "cuda"),
    [
        ("cuda: Optional[str] = None", ""),
        ("cuda: Optional[str] = '13.0'", "13.0"),
        ('cuda = "12.8"', "12.8"),
        ("hip = None", None),
    ],
)
def test_the_cuda_of_torch_is_read_not_loaded(line: str, cuda: str | None, site: Path) -> None:
    install(site, "torch", "2.13.0")
    fake(site, "torch.version", f"__version__ = '2.13.0'\n{line}\n")
    (site / "torch" / "__init__.py").write_text("raise RuntimeError")
    assert facts_module._torch_cuda() == cuda


def test_what_cannot_be_gathered_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> Any:
        raise OSError("broken")

    for name in ("installed", "requirements", "ask", "_kernel_driver", "_cards", "_machine"):
        monkeypatch.setattr(facts_module, name, broken)
    found = gather()
    assert len(found.faults) == 6 and all("broken" in fault for fault in found.faults)
    report = make_report(found)
    assert not report["verdict"]["ok"] and "broken" in render(report)


def test_without_packaging_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    monkeypatch.setattr(facts_module, "ask", lambda groups: loaded(*PLAIN))
    found = gather()
    assert "packaging" in found.faults[0] and found.installed
    assert make_report(found)["verdict"]["ok"]


# --- conflicts ----------------------------------------------------------------------------------------------------

OWN = "trt-landmarks"
STUB = (
    Need("tensorrt-cu13", "", "tensorrt-cu13-libs", "==11.4.0", None),
    Need("tensorrt-cu13", "", "tensorrt-cu13-bindings", "==11.4.0", None),
)
MIXED = (Need("tensorrt-cu13", "", "tensorrt-cu13-libs", "==11.4.0", "11.2.0"),)
NO_STUB = "No module named 'tensorrt_bindings'"
LIBRARY = "libcublasLt.so.12: cannot open shared object file: No such file or directory"
DRIVER_12 = gpu({**RTX, "driver": "12.8"})
REFUSED = ("the NVIDIA driver does not start (cuInit gave 802: not ready)", "Start the fabric manager.", "13.0")
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
    "several-tensorrt": (
        base({}, loaded("tensorrt", "tensorrt-rtx")),
        base({}, loaded("tensorrt-rtx") | failed("tensorrt", "broken")),
        "--engine auto takes tensorrt", "--engine tensorrt-rtx",
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
    "torch-cuda-unused": (
        base({"torch": "2.13.0"}, torch_cuda="13.0"),
        base({"torch": "2.13.0+cpu"}, torch_cuda=""),
        "CUDA 13.0", "Nothing",
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
NOTES = {"several-tensorrt", "torch-cuda-unused", "torch-cpu-only"}


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
    facts = base({"torch": "2", "onnxruntime-gpu": "1.24.4"}, torch_cuda="13.0")
    assert [conflict.severity for conflict in find_conflicts(facts)] == ["problem", "note"]


def test_a_check_that_fails_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def _odd(facts: Facts) -> list[Conflict]:
        raise KeyError("unheard of")

    monkeypatch.setattr("trt_landmarks.doctor.conflicts.CHECKS", (*CHECKS, _odd))
    (found,) = find_conflicts(base())
    assert found.code == "odd" and "unheard of" in found.message


# --- what can be done ---------------------------------------------------------------------------------------------


def abilities(facts: Facts) -> dict[str, tuple[Can, Can]]:
    return {f"{a.engine} {a.precision}".strip(): (a.build, a.run) for a in engine_abilities(facts)}


def can(facts: Facts) -> dict[str, tuple[bool | None, bool | None]]:
    return {name: (build.possible, run.possible) for name, (build, run) in abilities(facts).items()}


FULL = ("onnx", "torch", "modelopt", "tensorrt", "tensorrt-rtx", "pycuda", "dali")
PACKAGES_OF_ALL = {
    "onnx": "1.21.0", "torch": "2.13.0", "nvidia-modelopt": "0.47.0", "tensorrt-cu13": "11.4.0", "pycuda": "2026.1",
    "tensorrt-rtx-cu13": "1.7.1", "nvidia-dali-cuda130": "2.4.0",
}  # fmt: skip


def full(answers: dict[str, Answer], **changes: Any) -> Facts:
    """An installation with everything."""
    return base(PACKAGES_OF_ALL, loaded(*FULL) | answers, **{"lacking": {"calibrate": []}, **changes})


def test_a_base_installation_runs_onnxruntime_only() -> None:
    assert can(base()) == {
        "onnxruntime fp32": (True, True),
        "onnxruntime fp16": (False, True),
        "onnxruntime int8": (False, True),
        "tensorrt": (False, False),
        "tensorrt-rtx": (False, False),
    }
    found = abilities(base())
    assert "trt-landmarks[calibrate]" in found["onnxruntime fp16"][0].reason
    assert "trt-landmarks[rtx]" in found["tensorrt-rtx"][0].reason
    assert dali_abilities(base())["cpu"].possible is False


def test_everything_without_a_gpu() -> None:
    facts = full({})
    assert can(facts) == {
        "onnxruntime fp32": (True, True),
        "onnxruntime fp16": (True, True),
        "onnxruntime int8": (True, True),
        "tensorrt": (False, False),
        "tensorrt-rtx": (True, False),
    }
    assert abilities(facts)["tensorrt"][0].reason == "there is no NVIDIA driver"
    assert {name: found.possible for name, found in dali_abilities(facts).items()} == {"cpu": True, "gpu": False}


def test_everything_with_a_gpu() -> None:
    facts = full(gpu(RTX))
    assert set(can(facts).values()) == {(True, True)}
    assert dali_abilities(facts)["gpu"].possible
    assert "on the GPU (tensorrt, tensorrt-rtx)" in make_report(facts)["verdict"]["summary"]


def test_a_gpu_that_rtx_does_not_build_for_is_not_known() -> None:
    facts = full(gpu(H200))
    assert can(facts)["tensorrt-rtx"] == (True, None) and can(facts)["tensorrt"] == (True, True)
    assert "this GPU has 9.0" in abilities(facts)["tensorrt-rtx"][1].reason


@pytest.mark.parametrize(
    ("answers", "engine", "expected", "says"),
    [
        (failed("pycuda", "no libcuda"), "tensorrt", (True, False), "pycuda: no libcuda"),
        (failed("pycuda", "", "missing"), "tensorrt-rtx", (True, False), "pycuda"),
        (failed("tensorrt", "no libnvinfer"), "tensorrt", (False, False), "no libnvinfer"),
        (failed("tensorrt", "did not load within 1 s", "late"), "tensorrt", (None, None), "--deep"),
        (gpu({**RTX, "driver": "12.8"}), "tensorrt", (False, False), "built for CUDA 13"),
        (failed("driver", "did not load within 1 s", "late"), "tensorrt", (False, False), "does not answer"),
        (failed("modelopt", "broken"), "onnxruntime fp16", (False, True), "modelopt: broken"),
        (failed("onnxruntime", "broken"), "onnxruntime int8", (False, False), "onnxruntime: broken"),
    ],
)
def test_what_one_fault_takes_away(
    answers: dict[str, Answer], engine: str, expected: tuple[bool | None, bool | None], says: str
) -> None:
    facts = full(gpu(RTX) | answers)
    assert can(facts)[engine] == expected
    assert says in " ".join(found.reason for found in abilities(facts)[engine])


def test_without_the_toolkits_metadata_the_packages_themselves_count() -> None:
    assert can(full({}, lacking={}))["onnxruntime fp16"][0]
    assert not can(base(lacking={}))["onnxruntime fp16"][0]


def test_a_precision_that_this_version_does_not_have() -> None:
    facts = full({"builds": Answer("loaded", {**LOADED["builds"], "precisions": ["fp32", "fp16"]})})
    assert abilities(facts)["onnxruntime int8"] == (Can(False, "not part of this version"),) * 2


@pytest.mark.parametrize("step", ["numpy", "SimpleITK", "onnxruntime", "model"])
@pytest.mark.parametrize("state", ["failed", "late", "missing", "untried"])
def test_the_verdict_needs_every_step_of_the_default_job(step: str, state: str) -> None:
    facts = base({}, failed(step, "the reason", state))
    assert default_job(facts).possible is False and "the reason" in default_job(facts).reason
    report = make_report(facts)
    assert not report["verdict"]["ok"] and "the reason" in report["verdict"]["summary"]
    assert "Verdict: NOT OK" in render(report)


def test_isal_may_be_missing() -> None:
    assert default_job(base({}, failed("isal", "No module named 'isal'", "missing"))).possible


# --- the report and the command -----------------------------------------------------------------------------------


def keys(report: dict[str, Any]) -> list[str]:
    return re.findall(r"^    (\w+) ", str(documentation.__doc__), re.MULTILINE)


def test_the_documentation_lists_the_keys() -> None:
    report = make_report(full(gpu(RTX)), 0.5)
    assert keys(report) == list(report)
    assert json.loads(json.dumps(report)) == report


STATES = st.sampled_from(["loaded", "failed", "missing", "late", "untried"])


@given(states=st.dictionaries(st.sampled_from(sorted(STEPS)), STATES), data=st.data())
def test_a_report_is_made_of_any_facts(states: dict[str, str], data: st.DataObject) -> None:
    answers = {
        step: Answer(state, LOADED[step] if state == "loaded" else {}, "" if state == "loaded" else "the reason")
        for step, state in states.items()
    }
    some_gpu = data.draw(st.sampled_from([{}, gpu(RTX), gpu(H200, RTX), no_gpu(*REFUSED)]))
    names = [name for package in PACKAGES for name in (*package.distributions, *package.umbrellas)]
    facts = Facts(
        installed=dict.fromkeys(data.draw(st.sets(st.sampled_from(names))), "1.0"),
        answers=answers | some_gpu,
        unmet=data.draw(st.sampled_from([(), STUB, MIXED])),
        torch_cuda=data.draw(st.sampled_from([None, "", "13.0"])),
        kernel_driver=data.draw(st.sampled_from([None, "", "580.65"])),
        cards=data.draw(st.integers(0, 8)),
    )
    report = json.loads(json.dumps(make_report(facts)))
    text = render(report)
    essential = {"numpy", "SimpleITK", "onnxruntime", "model"}
    assert report["verdict"]["ok"] == (essential <= {step for step, state in states.items() if state == "loaded"})
    assert text.splitlines()[-1].startswith("Verdict: ok" if report["verdict"]["ok"] else "Verdict: NOT OK")
    assert not [conflict for conflict in report["conflicts"] if "could not be made" in conflict["message"]]


def command(*arguments: str, code: int = 0, **environment: str) -> str:
    """Run it in a process of its own; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", "from trt_landmarks.cli import main; main()", "doctor", *arguments],
        capture_output=True,
        text=True,
        env={**{key: value for key, value in os.environ.items() if not key.startswith("TRTLM_")}, **environment},
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout


def test_here_the_default_job_works() -> None:
    text = command()
    assert re.search(r"^Verdict: ok, inference works on the CPU", text, re.MULTILINE)
    assert "mouse-skull (shipped), 45 landmarks, 3 graphs opened" in text
    assert max(map(len, text.splitlines())) < 320
    for private in (sys.prefix, str(Path.home()), "://"):
        assert private not in text


def test_json_here() -> None:
    report = json.loads(command("--json"))
    assert report["verdict"]["ok"] and keys(report) == list(report)
    assert {package["state"] for package in report["packages"].values()} <= {"loaded", "missing", "found", "late"}
    for name in ("numpy", "SimpleITK", "onnxruntime"):
        assert report["packages"][name]["state"] == "loaded" and report["packages"][name]["version"]
    assert [engine["engine"] for engine in report["engines"]].count("onnxruntime") == 3
    assert report["faults"] == []


def test_a_setting_that_leads_nowhere_is_the_verdict(tmp_path: Path) -> None:
    text = command(code=2, TRTLM_MODEL=str(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in text.splitlines()[-1] and "Verdict: NOT OK" in text
    assert "Verdict: NOT OK" in command(code=2, TRTLM_MODEL="n\udcffowhere", PYTHONIOENCODING="ascii")


@pytest.mark.parametrize(
    ("module", "content", "says"),
    [
        ("onnxruntime", "import os; os.abort()", "onnxruntime: loading it ends the process (SIGABRT)"),
        ("onnxruntime", "raise ImportError('no libonnx.so')", "onnxruntime: no libonnx.so"),
        ("SimpleITK", "", "SimpleITK: module 'SimpleITK' has no attribute"),
        ("yaml", "raise ModuleNotFoundError(\"No module named 'yaml'\", name='yaml')", "'yaml'"),
    ],
)
def test_a_broken_package_is_the_verdict(module: str, content: str, says: str, tmp_path: Path) -> None:
    fake(tmp_path, module, content)
    assert says in command(code=2, PYTHONPATH=str(tmp_path)).splitlines()[-1]


def test_broken_optional_packages_do_not_matter(tmp_path: Path) -> None:
    fake(tmp_path, "tensorrt", "import time; time.sleep(1000)")
    fake(tmp_path, "pycuda.driver", "import os; os.abort()")
    fake(tmp_path, "tensorrt_rtx", "raise OSError('libtensorrt_rtx.so.1: cannot open shared object file')")
    report = json.loads(command("--json", PYTHONPATH=str(tmp_path)))
    states = {name: report["packages"][name]["state"] for name in ("tensorrt", "pycuda", "tensorrt-rtx")}
    assert states.pop("tensorrt") == "late"
    assert set(states.values()) <= {"failed", "late"}  # late where the machine is busy


DRIVER = """
#include <stddef.h>
#include <string.h>
int cuInit(unsigned flags) { return START; }
int cuDriverGetVersion(int *version) { *version = 12080; return 0; }
int cuDeviceGetCount(int *count) { *count = 2; return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strcpy(name, "NVIDIA Stand-in"); return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 8 : 9; return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)24 << 30; return 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_driver_is_asked(tmp_path: Path) -> None:
    reports = []
    for start in ("0", "802", "__builtin_trap(), 1"):
        source = tmp_path / "driver.c"
        source.write_text(DRIVER)
        library = tmp_path / "libcuda.so.1"
        subprocess.run(["cc", "-shared", "-fPIC", f"-DSTART=({start})", "-o", library, source], check=True)
        reports.append(json.loads(command("--json", LD_LIBRARY_PATH=str(tmp_path))))
    works, refuses, crashes = reports
    assert works["driver"]["cuda"] == "12.8" and works["driver"]["problem"] is None
    expected = {"name": "NVIDIA Stand-in", "compute_capability": "8.9", "memory_bytes": 24 << 30}
    assert works["gpus"] == [expected, expected]
    assert refuses["gpus"] == [] and "cuInit gave 802" in refuses["driver"]["problem"]
    assert "nvidia-fabricmanager" in next(c["remedy"] for c in refuses["conflicts"] if c["code"] == "driver-refuses")
    assert "does not answer (loading it ends the process" in crashes["driver"]["problem"]
    assert all(report["verdict"]["ok"] for report in reports)


def test_nothing_heavy_is_imported_by_the_command_itself() -> None:
    code = (
        "import sys; from trt_landmarks.doctor.command import doctor; doctor();"
        "heavy = {'torch', 'tensorrt', 'tensorrt_rtx', 'modelopt', 'onnx', 'nvidia', 'onnxruntime', 'numpy', 'rich'};"
        "print(*heavy & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stderr.strip()


def test_it_runs_without_typer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, runpy; sys.modules['typer'] = None; sys.argv = ['doctor', '--json'];"
    code += "runpy.run_module('trt_landmarks.doctor.command', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and json.loads(done.stdout)["verdict"]["ok"]
    monkeypatch.setattr(facts_module, "ask", lambda groups: {})
    assert doctor() == 2
    assert "Verdict: NOT OK" in capsys.readouterr().out
