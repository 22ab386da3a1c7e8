"""What the operating system tells of the machine, and what is told where it is silent."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from trt_landmarks import hardware


def test_this_machine() -> None:
    assert hardware.processor()
    assert 1 <= hardware.cores() == len(hardware.affinity()) <= (os.cpu_count() or 1)
    memory = hardware.memory_bytes()
    assert memory is None or 2**28 < memory < 2**46


def test_memory_of_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(hardware, "CONTAINER_LIMIT", limit)
    whole = hardware.memory_bytes()
    assert whole is not None
    limit.write_text("1048576\n")
    assert hardware.memory_bytes() == 1048576
    for text in ("max\n", f"{whole * 2}\n"):
        limit.write_text(text)
        assert hardware.memory_bytes() == whole


def test_a_system_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(Path, "read_text", refused)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert hardware.processor() == platform.machine()
    monkeypatch.setattr(os, "sysconf", refused)
    assert hardware.memory_bytes() is None
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert hardware.cores() == os.cpu_count()
