"""Scans that take too long fail, and the run goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.runs.test_batch import TASK, Reader, empty, infer, put
from tests.synthetic import HEAD
from trt_landmarks.engines.base import Arrays, RunCancelled
from trt_landmarks.errors import PipelineError
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.results.case import CaseResult
from trt_landmarks.runs import batch, pipeline
from trt_landmarks.scan import Scan, ScanFile, find_scans, read_scan
from trt_landmarks.task.graphs import COARSE

SECONDS = 0.4


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets go what hangs, at the end."""
    before = set(threading.enumerate())
    event = threading.Event()
    yield event
    event.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def files(tmp_path: Path) -> list[ScanFile]:
    for number in range(12):
        put(tmp_path, f"scan-{number:02}", 20 + 5 * number)
    return find_scans([tmp_path])


@pytest.fixture
def hangs(release: threading.Event, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Scans whose reading does not come back."""
    names: set[str] = set()

    def hanging(file: ScanFile) -> Scan:
        if file.path.name.split(".")[0] in names:
            assert release.wait(60)
        return read_scan(file)

    monkeypatch.setattr(batch, "read_scan", hanging)
    return names


def codes(cases: Sequence[CaseResult]) -> dict[str, str]:
    assert [case.id for case in cases] == [f"scan-{number:02}" for number in range(12)]
    return {case.id: case.error.code for case in cases if case.error is not None}


@pytest.mark.parametrize(("batch", "readers"), [(1, 1), (3, 2)])
def test_a_reader_that_hangs_is_left_behind(files: list[ScanFile], hangs: set[str], batch: int, readers: int) -> None:
    hangs |= {"scan-03", "scan-04"}
    alone = Localizer(TASK, HEAD, Reader())
    found = infer(files, [alone] * 2, empty(), timeout=SECONDS, batch=batch, readers=readers).cases
    assert codes(found) == {"scan-03": "timeout", "scan-04": "timeout"}
    assert found[3].error is not None
    assert f"scan-03.mha: reading takes longer than {SECONDS:g} s. Allow more time" in found[3].error.message


def test_too_many_that_hang_end_the_run(
    files: list[ScanFile], hangs: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "LOSSES", 2)
    hangs |= {f"scan-{number:02}" for number in range(3, 12)}
    found = empty()
    with pytest.raises(PipelineError, match=r"scan-05.*reading takes too long, as it did for 2 others"):
        infer(files, [Localizer(TASK, HEAD, Reader())], found, timeout=SECONDS, readers=1)
    assert [case.id for case in found.cases][:3] == ["scan-00", "scan-01", "scan-02"]


class Slow(Reader):
    """Does not come back with scans of some brightnesses, unless it is cancelled or let go."""

    def __init__(self, release: threading.Event, *numbers: int) -> None:
        super().__init__()
        self.release = release
        self.bright = [(20 + 5 * number) / 100 for number in numbers]

    def run(self, graph: str, *arrays: NDArray[np.float32]) -> Arrays:
        (array,) = arrays
        bright = array.max(axis=(1, 2, 3, 4))
        if graph == COARSE and any(np.isclose(bright, value, atol=0.005).any() for value in self.bright):
            self.wait(graph)
        return super().run(graph, array)

    def wait(self, graph: str) -> None:
        assert self.release.wait(60)


class Obedient(Slow):
    """The same, and can be cancelled."""

    def __init__(self, release: threading.Event, *numbers: int) -> None:
        super().__init__(release, *numbers)
        self.cancelled: dict[int, threading.Event] = {}

    def wait(self, graph: str) -> None:
        event = self.cancelled[threading.get_ident()] = threading.Event()
        assert event.wait(60)
        raise RunCancelled(graph)

    def cancel(self, thread: int | None = None) -> None:
        for one, event in list(self.cancelled.items()):
            if thread in (None, one):
                event.set()


@pytest.mark.parametrize("batch", [1, 4])
def test_computing_that_takes_too_long_is_cancelled(
    files: list[ScanFile], release: threading.Event, batch: int
) -> None:
    engine = Obedient(release, 2, 7)
    found = infer(files, [Localizer(TASK, HEAD, engine)] * 2, empty(), timeout=SECONDS / batch, batch=batch).cases
    assert codes(found) == {"scan-02": "timeout", "scan-07": "timeout"}
    assert found[2].error is not None and "computing takes longer than" in found[2].error.message


def test_computing_that_cannot_be_cancelled_is_left_behind(
    files: list[ScanFile], release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "GRACE", 0.2)
    engine = Slow(release, 2, 7)
    found = infer(files, [Localizer(TASK, HEAD, engine)], empty(), timeout=SECONDS).cases
    assert codes(found) == {"scan-02": "timeout", "scan-07": "timeout"}


def test_a_cancellation_that_comes_too_late_costs_nothing(files: list[ScanFile]) -> None:
    """Meant for the scan before, it hits the next one, which is begun again."""

    class Nervous(Reader):
        hit = False

        def run(self, graph: str, *arrays: NDArray[np.float32]) -> Arrays:
            if len(self.calls) == 7 and not self.hit:
                self.hit = True
                raise RunCancelled(graph)
            return super().run(graph, *arrays)

    engine = Nervous()
    assert codes(infer(files, [Localizer(TASK, HEAD, engine)], empty(), timeout=60).cases) == {}
    assert engine.hit
