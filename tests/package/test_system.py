"""What the operating system tells of the machine, and what is told where it is silent."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest

from trt_landmarks import system


def test_this_machine() -> None:
    assert system.processor()
    assert 1 <= system.cores() == len(system.affinity()) <= (os.cpu_count() or 1)
    memory = system.memory_bytes()
    assert memory is None or 2**28 < memory < 2**46


def test_memory_of_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(system, "CONTAINER_LIMIT", limit)
    whole = system.memory_bytes()
    assert whole is not None
    limit.write_text("1048576\n")
    assert system.memory_bytes() == 1048576
    for text in ("max\n", f"{whole * 2}\n"):
        limit.write_text(text)
        assert system.memory_bytes() == whole


def test_a_system_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(Path, "read_text", refused)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert system.processor() == platform.machine()
    monkeypatch.setattr(os, "sysconf", refused)
    assert system.memory_bytes() is None
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert system.cores() == os.cpu_count()


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (
            '{"url": "file:///home/me/my project", "dir_info": {"editable": true}}',
            "pip install -e '/home/me/my project[b]'",
        ),
        (None, "pip install 'x>=1' 'y<3'"),
    ],
)
def test_an_extra_is_installed_from_the_checkout_or_by_its_packages(
    monkeypatch: pytest.MonkeyPatch, origin: str | None, command: str
) -> None:
    """The package itself is on no registry."""
    requires = ['z; python_version > "3"', 'x>=1; extra == "a"', 'y<3; extra == "b"', 'trt-landmarks[a]; extra == "b"']
    package = SimpleNamespace(name="trt-landmarks", requires=requires, read_text=lambda name: origin)
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: package)
    assert sorted(system.install_command("b").split()) == sorted(command.split())
