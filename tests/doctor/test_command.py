"""The report, and the command in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trt_landmarks.doctor as documentation
from tests.doctor.stand_ins import H200, LOADED, MIXED, REFUSED, RTX, STUB, fake, full, gpu, no_gpu
from trt_landmarks.doctor import facts as facts_module
from trt_landmarks.doctor.facts import Facts
from trt_landmarks.doctor.packages import PACKAGES
from trt_landmarks.doctor.probe import STEPS, Answer, Group, ask
from trt_landmarks.doctor.report import doctor, make_report, render


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
def test_a_driver_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    reports = []
    for start in ("0", "802", "__builtin_trap(), 1"):
        source = tmp_path / "driver.c"
        source.write_text(DRIVER)
        library = tmp_path / "libcuda.so.1"
        subprocess.run(["cc", "-shared", "-fPIC", f"-DSTART=({start})", "-o", library, source], check=True)
        reports.append(make_report(full(ask([Group(("driver",), 60.0)]))))
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
        "import sys; from trt_landmarks.doctor.report import doctor; doctor();"
        "heavy = {'torch', 'tensorrt', 'tensorrt_rtx', 'modelopt', 'onnx', 'nvidia', 'onnxruntime', 'numpy', 'rich'};"
        "print(*heavy & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stderr.strip()


def test_it_runs_without_typer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, runpy; sys.modules['typer'] = None; sys.argv = ['doctor', '--json'];"
    code += "runpy.run_module('trt_landmarks.doctor', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and json.loads(done.stdout)["verdict"]["ok"]
    monkeypatch.setattr(facts_module, "ask", lambda groups: {})
    assert doctor() == 2
    assert "Verdict: NOT OK" in capsys.readouterr().out
