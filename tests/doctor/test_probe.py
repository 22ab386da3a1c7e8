"""Loading packages in processes of their own, whatever the packages do."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.doctor.stand_ins import LOADED, fake
from trt_landmarks.doctor.probe import LONGEST, Group, ask, plain, take

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
