"""Processes of ways: what they answer, and what becomes of those that fail, die or hang."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_cli import make_scan
from trt_landmarks.bench.child import Child
from trt_landmarks.bench.ways import DEFAULT, ONNXRUNTIME, Spec
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.errors import EngineError


@pytest.fixture
def child(tiny_bundle: Bundle, tmp_path: Path) -> Iterator[Child]:
    with Child(Spec(DEFAULT, ONNXRUNTIME, model=str(tiny_bundle.root)), tmp_path) as one:
        yield one


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_way_answers_fails_where_it_must_and_goes_on(child: Child, tmp_path: Path) -> None:
    assert "onnxruntime fp32" in child.open()
    with pytest.raises(EngineError, match="no-such-scan"):
        child.ask({"scan": {"path": str(tmp_path / "no-such-scan.nii.gz"), "out": str(tmp_path / "p.json")}})
    scan = make_scan(tmp_path / "a.nii.gz")
    answer = child.ask({"scan": {"path": str(scan), "out": str(tmp_path / "p.json")}})
    assert len(answer["points"]) == 6 and (tmp_path / "p.json").stat().st_size
    assert {"read", "normalize", "coarse", "fine_independent", "fine_correlated", "write"} <= set(answer["stages"])
    folder = child.ask({"folder": {"paths": [str(scan)] * 3, "out": str(tmp_path / "p.json")}})
    assert folder["seconds"] > 0
    assert 50 < child.ask({"memory": True})["host_peak_mib"] < 2000
    child.close()
    assert not alive(child.pid)


def test_one_that_dies_says_so(child: Child) -> None:
    os.kill(child.pid, signal.SIGSEGV)
    with pytest.raises(EngineError, match=f"signal {int(signal.SIGSEGV)}") as caught:
        child.open()
    assert caught.value.code == "worker_died"


def test_one_that_hangs_is_ended(child: Child) -> None:
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(EngineError, match="did not answer") as caught:
        child.open(seconds=0.1)
    assert caught.value.code == "timeout" and child.gone
    with pytest.raises(EngineError, match="has ended"):
        child.open()
    assert not alive(child.pid)
