"""The timing cache: shared, merged under a lock, and never a reason for a build to fail."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engines.tensorrt.plans import FakeCache, FakeConfig, FakeTensorRT
from trt_landmarks.bundles.bundle import CACHE_VARIABLE
from trt_landmarks.engines.tensorrt.flavours import Log
from trt_landmarks.engines.tensorrt.timing_cache import TimingCache, timing_cache_path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "timing" / "tensorrt.cache"


class Build:
    """A build with the shared cache: what it has of it, and what it says."""

    def __init__(self, path: Path, config: FakeConfig | None = None) -> None:
        self.config = config or FakeConfig()
        self.said: list[str] = []
        trt = FakeTensorRT()
        self.times = TimingCache(trt, self.config, path, Log(trt), self.said.append)

    @property
    def entries(self) -> set[str]:
        assert self.config.cache is not None
        return self.config.cache.entries


def stored(path: Path) -> set[str]:
    return set(json.loads(path.read_bytes())[1])


def test_files_are_apart_by_flavour_version_and_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    first = timing_cache_path("tensorrt", "11.4.1.2", "NVIDIA RTX 6000/Ada", "8.9")
    assert first == tmp_path / "timing" / "tensorrt-11.4.1.2-NVIDIA-RTX-6000-Ada-8.9.cache"
    others = [
        timing_cache_path("tensorrt", "11.4.1.3", "NVIDIA RTX 6000/Ada", "8.9"),
        timing_cache_path("tensorrt", "11.4.1.2", "NVIDIA H200", "9.0"),
    ]
    assert len({first, *others}) == 3


def test_times_are_measured_once(path: Path) -> None:
    first = Build(path)
    assert first.config.flags == {"editable_timing_cache"} and not first.entries
    first.entries.add("a")
    first.times.merge()
    second = Build(path)
    assert second.entries == {"a"} and not second.said
    assert path.read_bytes() == FakeCache({"a"}).serialize()  # nothing but TensorRT's own bytes


def test_builds_at_the_same_time_lose_nothing(path: Path) -> None:
    one, two = Build(path), Build(path)
    one.entries.add("a")
    two.entries.add("b")
    one.times.merge()
    two.times.merge()
    assert stored(path) == {"a", "b"}


class Slow(FakeConfig):
    """Reads a cache so slowly that another process would get in between."""

    def create_timing_cache(self, blob: bytes) -> FakeCache | None:
        cache = super().create_timing_cache(blob)
        time.sleep(0.05)
        return cache


def _merge(path: Path, name: str) -> None:
    build = Build(path, Slow())
    build.entries.add(name)
    build.times.merge()


def test_processes_at_the_same_time_lose_nothing(path: Path) -> None:
    """Without the lock each would write over what another has written since it read the file."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_merge, args=(path, f"kernel-{n}")) for n in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 6
    assert stored(path) == {f"kernel-{n}" for n in range(6)}


@pytest.mark.parametrize("content", [b"garbage", b'["here", ["a", "b"', b"\x00" * 100])
def test_a_damaged_file_is_discarded_with_a_note(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    build = Build(path)
    assert not build.entries
    assert len(build.said) == 1 and f"{path}: this timing cache is damaged and is discarded" in build.said[0]
    build.entries.add("a")
    build.times.merge()
    assert stored(path) == {"a"}


class Lenient(FakeConfig):
    """Makes nothing, or an empty cache, of a damaged file, and says so in the log only."""

    def __init__(self, made: FakeCache | None) -> None:
        super().__init__()
        self.made = made
        self.log: Log | None = None

    def create_timing_cache(self, blob: bytes) -> FakeCache | None:
        if not blob:
            return FakeCache(set())
        if self.log is not None:
            text = "Failed to deserialize timing cache. Returning an empty timing cache."
            self.log.logger.log(FakeTensorRT.ILogger.Severity.WARNING, text)
        return self.made


@pytest.mark.parametrize("made", [None, FakeCache(set())])
def test_a_file_that_tensorrt_discards_itself_is_noted_too(path: Path, made: FakeCache | None) -> None:
    path.parent.mkdir()
    path.write_bytes(b"garbage")
    config = Lenient(made)
    trt = FakeTensorRT()
    config.log = Log(trt)
    said: list[str] = []
    TimingCache(trt, config, path, config.log, said.append)
    assert "is discarded: Failed to deserialize timing cache. Returning an empty timing cache" in said[0]
    assert config.cache is not None and not config.cache.entries


def test_a_silent_refusal_is_noted(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"garbage")
    assert "TensorRT does not take it" in Build(path, Lenient(None)).said[0]


def test_a_cache_of_another_device_is_discarded_with_a_note(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(FakeCache({"a"}, device="there").serialize())
    build = Build(path)
    assert not build.entries and "made for another GPU or version" in build.said[0]
    build.entries.add("b")
    build.times.merge()
    assert len(build.said) == 2 and stored(path) == {"b"}


def test_a_folder_that_cannot_be_made_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "timing").write_text("a file where the folder should be")
    build = Build(tmp_path / "timing" / "tensorrt.cache")
    build.times.merge()
    assert len(build.said) == 1 and "cannot be kept" in build.said[0] and "measures again" in build.said[0]


def test_a_full_disk_is_a_note_and_the_file_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Build(path)
    first.entries.add("a")
    first.times.merge()
    second = Build(path)
    second.entries.add("b")

    def full(*paths: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    second.times.merge()
    assert "no space left on device" in second.said[0] and "measures again" in second.said[0]
    assert stored(path) == {"a"}
    assert {file.name for file in path.parent.iterdir()} == {path.name, f"{path.name}.lock"}
