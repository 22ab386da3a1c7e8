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
    assert 1 <= system.physical_cores() <= system.cores() <= len(system.affinity()) <= (os.cpu_count() or 1)
    memory = system.memory_bytes()
    assert memory is None or 2**28 < memory < 2**46


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of control groups, of which there are none."""
    (tmp_path / "own").write_text("")
    monkeypatch.setattr(system, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(system, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(system, "CPU_FOLDERS", tmp_path / "cpu")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    return tmp_path / "cgroup"


def put(folder: Path, **settings: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in settings.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_limits_of_a_container(groups: Path, tmp_path: Path) -> None:
    whole = system.memory_bytes()
    assert whole is not None and system.cores() == 8
    (tmp_path / "own").write_text("0::/\n")
    put(groups, memory__max="1048576", cpu__max="150000 100000")
    assert (system.memory_bytes(), system.cores()) == (1048576, 2)
    put(groups, memory__max="max", cpu__max="max 100000")
    assert (system.memory_bytes(), system.cores()) == (whole, 8)
    put(groups, memory__max=str(whole * 2), cpu__max="900000 100000")
    assert (system.memory_bytes(), system.cores()) == (whole, 8)


def test_limits_of_nested_groups(groups: Path, tmp_path: Path) -> None:
    """The smallest counts, wherever it is above this process."""
    (tmp_path / "own").write_text("0::/a/b/c\n")
    put(groups / "a" / "b" / "c", memory__max="max", cpu__max="700000 100000")
    put(groups / "a" / "b", memory__max="3000000")
    put(groups / "a", memory__max="4000000", cpu__max="50000 100000")
    put(groups / "a" / "other", memory__max="5")
    assert (system.memory_bytes(), system.cores()) == (3000000, 1)


@pytest.mark.parametrize("path", ["/docker/1", "/", "/../outside"])
def test_limits_of_the_first_version(groups: Path, tmp_path: Path, path: str) -> None:
    """In a container the path may be one that is only outside."""
    (tmp_path / "own").write_text(f"4:memory:{path}\n3:cpu,cpuacct:{path}\n1:cpuset:/\n")
    put(groups / "memory", memory__limit_in_bytes="2000000")
    put(groups / "cpu,cpuacct", cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000")
    assert (system.memory_bytes(), system.cores()) == (2000000, 3)
    put(groups / "memory", memory__limit_in_bytes="9223372036854771712")
    put(groups / "cpu,cpuacct", cpu__cfs_quota_us="-1")
    assert system.memory_bytes() not in (2000000, None) and system.cores() == 8


def test_threads_of_one_core_count_once(groups: Path, tmp_path: Path) -> None:
    assert system.physical_cores() == 8
    for core in range(8):
        put(tmp_path / "cpu" / f"cpu{core}" / "topology", thread_siblings_list=f"{core % 4},{core % 4 + 4}")
    assert (system.physical_cores(), system.cores()) == (4, 8)


def test_a_system_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(Path, "read_text", refused)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert system.processor() == platform.machine()
    monkeypatch.setattr(os, "sysconf", refused)
    assert system.memory_bytes() is None
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert 1 <= system.cores() <= (os.cpu_count() or 1)


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
