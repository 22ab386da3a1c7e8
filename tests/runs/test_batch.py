"""Inference over many files: order, failures that stay their own, batches, interruptions."""

from __future__ import annotations

import _thread
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.synthetic import HEAD, Judge, about, head_geometry, rotation, single, small_task
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.engines.base import Arrays, RunCancelled
from trt_landmarks.geometry import Geometry
from trt_landmarks.localization.case import case_result
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.results.case import CaseResult
from trt_landmarks.results.predictions import Predictions, read_predictions
from trt_landmarks.runs import batch, pipeline, workers
from trt_landmarks.runs.journal import journal_path
from trt_landmarks.runs.workers import readers_for, side_by_side
from trt_landmarks.scan import Scan, ScanFile, find_scans, read_scan, write_scan
from trt_landmarks.task.graphs import COARSE, INDEPENDENT

TASK = small_task(intensity={"method": "window", "low": 0, "high": 100})


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


class Reader:
    """An engine whose answers depend on the brightness of what it sees, differently for every scan.

    Scans darker than 5 are too large for it; those between 5 and 10 it answers with NaN.
    """

    name = "reader"
    precision = "fp32"
    provider = "test"

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def run(self, graph: str, *arrays: NDArray[np.float32]) -> Arrays:
        (array,) = arrays
        self.calls.append((graph, len(array)))
        bright = array.max(axis=(1, 2, 3, 4))
        if (bright < 0.05).any():
            raise MemoryError
        if graph == COARSE:
            offsets = HEAD + bright[:, None, None]
            offsets[bright < 0.1] = np.nan
            return (single(offsets),)
        count = array.shape[1]
        offsets = np.zeros((len(array), count, 3)) + bright[:, None, None] / 2
        outputs = offsets, np.tile(np.linspace(0, 1, count), (len(array), 1))
        return tuple(single(output) for output in (outputs if graph == INDEPENDENT else (*outputs, bright)))


def put(folder: Path, name: str, value: int, geometry: Geometry | None = None) -> None:
    geometry = geometry or head_geometry(rotation(5, 10, value))
    voxels = np.full(geometry.size[::-1], value, np.uint8)
    voxels[0, 0, 0] = 0
    write_scan(Scan(name, None, voxels, geometry), folder / f"{name}.mha")


@pytest.fixture
def files(tmp_path: Path) -> list[ScanFile]:
    """Six scans not in the order of their names; 'c' is damaged and 'e' is gone."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, name in enumerate("abcdef"):
        put(folder, name, 20 + 10 * number)
    content = (folder / "c.mha").read_bytes()
    (folder / "c.mha").write_bytes(content[: len(content) // 2])
    found = {file.id: file for file in find_scans([folder])}
    (folder / "e.mha").unlink()
    return [found[name] for name in "fcaebd"]


def localizer() -> Localizer:
    return Localizer(TASK, HEAD, Reader())


def empty() -> Predictions:
    return Predictions(TASK.name, {"name": "test"}, {"name": "reader"})


def infer(files: Sequence[ScanFile], localizers: Sequence[Localizer], found: Predictions, **more: Any) -> Predictions:
    """With the cases in memory."""
    batch.infer(files, localizers, found.add, **more)
    return found


def positions(cases: Sequence[CaseResult]) -> NDArray[np.float64]:
    return np.array([[mark.position_lps_mm for mark in case.landmarks] for case in cases if case.status == "ok"])


def test_every_file_becomes_a_case_in_order(files: list[ScanFile]) -> None:
    seen: list[tuple[str, int, int]] = []
    result = infer(files, [localizer()], empty(), progress=lambda case, done, of: seen.append((case.id, done, of)))
    assert [case.id for case in result.cases] == list("fcaebd")
    assert seen == [(name, n + 1, 6) for n, name in enumerate("fcaebd")]
    assert [case.path for case in result.cases] == [str(file.path) for file in files]
    failed = {case.id: case.error for case in result.cases if case.status == "failed"}
    assert set(failed) == {"c", "e"}
    assert failed["c"] is not None and failed["c"].code == "scan_truncated" and "c.mha" in failed["c"].message
    assert failed["e"] is not None and failed["e"].code == "scan_missing" and "e.mha" in failed["e"].message
    expected = [HEAD + head_geometry().centre + 1.5 * (0.2 + 0.1 * "abcdef".index(name)) for name in "fabd"]
    np.testing.assert_allclose(positions(result.cases), expected, atol=1e-4)
    for case in result.cases:
        if case.status == "ok":
            assert {"read", "total", "coarse", "normalize"} <= set(case.timing_ms)
            rest = sum(ms for step, ms in case.timing_ms.items() if step != "total")
            assert case.timing_ms["total"] == pytest.approx(rest, abs=0.01)
            assert [mark.name for mark in case.landmarks] == list(TASK.landmarks)
            assert [one.group for one in case.key_slices] == ["mid"]


@pytest.mark.parametrize("batch", [0, 2, 4, 100])
def test_batches_change_nothing(files: list[ScanFile], batch: int) -> None:
    one, many = localizer(), localizer()
    expected = infer(files, [one], empty()).cases
    cases = infer(files, [many], empty(), batch=batch).cases
    assert [(case.id, case.status, case.error) for case in cases] == [
        (case.id, case.status, case.error) for case in expected
    ]
    np.testing.assert_allclose(positions(cases), positions(expected), atol=1e-5)
    assert isinstance(many.engine, Reader)
    assert max(n for _, n in many.engine.calls) == {0: 1, 2: 2, 4: 2, 100: 4}[batch]


@pytest.mark.parametrize(("batch", "workers", "readers"), [(1, 1, 1), (1, 3, 2), (2, 2, 1), (3, 2, 3), (9, 1, 2)])
def test_workers_and_readers_change_nothing_at_all(tmp_path: Path, batch: int, workers: int, readers: int) -> None:
    """The same to the last bit as batch after batch in one thread."""
    for number in range(20):
        put(tmp_path, f"scan-{number:02}", 20 + 3 * number)
    found = find_scans([tmp_path])
    alone = localizer()
    expected = []
    for start in range(0, 20, batch):
        scans = [read_scan(file.path) for file in found[start : start + batch]]
        for file, scan, located in zip(found[start:], scans, alone.localize_batch(scans), strict=False):
            expected.append(case_result(file, scan, located, alone.task))
    cases = infer(found, [localizer() for _ in range(workers)], empty(), batch=batch, readers=readers).cases
    assert [replace(case, timing_ms={}, input=None) for case in cases] == [
        replace(case, timing_ms={}) for case in expected
    ]


@pytest.mark.parametrize("batch", [1, 4])
def test_a_scan_that_cannot_be_localized_fails_alone(tmp_path: Path, batch: int) -> None:
    for name, value in {"a": 30, "dark": 3, "nan": 8, "z": 40}.items():
        put(tmp_path, name, value)
    cases = infer(find_scans([tmp_path]), [localizer()], empty(), batch=batch).cases
    assert [(case.id, case.status) for case in cases] == [
        ("a", "ok"), ("dark", "failed"), ("nan", "failed"), ("z", "ok")
    ]  # fmt: skip
    codes = [case.error.code for case in cases if case.error is not None]
    assert codes == ["out_of_memory", "engine_output"]
    assert cases[1].error is not None and "dark.mha: does not fit in memory" in cases[1].error.message


def test_nothing_computed_is_lost_when_interrupted(files: list[ScanFile]) -> None:

    def interrupt(case: CaseResult, done: int, of: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    found = empty()
    with pytest.raises(KeyboardInterrupt):
        infer(files, [localizer()], found, batch=1, progress=interrupt)
    written = [case.id for case in found.cases]
    assert written == list("fcaebd")[: max(4, len(written))]  # maybe more was computed meanwhile
    found = empty()
    with pytest.raises(KeyboardInterrupt):
        infer(files, [localizer()], found, batch=3, progress=interrupt)
    assert [case.id for case in found.cases] == list("fcaebd")  # the batch's others are computed too


def test_what_was_interrupted_while_it_was_kept_is_kept(files: list[ScanFile]) -> None:
    found = empty()

    def keep(cases: Sequence[CaseResult]) -> None:
        first = not found.cases
        found.add(cases)
        if first:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        batch.infer(files, [localizer()], keep)
    ids = [case.id for case in found.cases]
    assert ids == list("fcaebd")[: len(ids)]


class Stuck(Reader):
    """Takes its time over the brightest scan, until it is told to give up."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = threading.Event()
        self.others = 0

    def run(self, graph: str, *arrays: NDArray[np.float32]) -> Arrays:
        (array,) = arrays
        if array.max() > 0.65:
            assert self.cancelled.wait(60)
            raise RunCancelled(graph)
        answer = super().run(graph, array)
        self.others += graph not in (COARSE, INDEPENDENT)
        if self.others == 3:
            _thread.interrupt_main()
        return answer

    def cancel(self, thread: int | None = None) -> None:
        self.cancelled.set()


def test_an_interruption_ends_what_is_computed_and_keeps_what_was(
    files: list[ScanFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first scan, 'f', is computed all the while; 'a', 'b' and 'd' are done by the other worker meanwhile."""
    monkeypatch.setattr(pipeline, "GRACE", 60.0)  # the machine may be busy
    stuck = Stuck()
    found = empty()
    with pytest.raises(KeyboardInterrupt):
        infer(files, [Localizer(TASK, HEAD, stuck)] * 2, found)
    cases = found.cases
    assert [case.id for case in cases] == list("caebd")
    assert [case.id for case in cases if case.status == "failed"] == list("ce")


def start(*arguments: object, before: str = "") -> subprocess.Popen[str]:
    """The command in a process of its own, after some code."""
    run = f"import sys; sys.argv = {['trtlm', *map(str, arguments)]!r}\nfrom trt_landmarks import cli; cli.main()"
    code = f"{before}\n{run}"
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)


def test_control_c_ends_the_command_and_keeps_what_was_computed(mouse_scans: list[Path], tmp_path: Path) -> None:
    """The real model on real scans, interrupted once some are done and others are being computed."""
    out = tmp_path / "results.json"
    journal = journal_path(out)
    with start("infer", mouse_scans[0].parent, "--out", out, "--model", "mouse-skull") as process:
        while process.poll() is None and not (journal.exists() and b'"case":' in journal.read_bytes()):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=120)
    cases = read_predictions(out).cases
    assert process.returncode == 130, message
    assert 0 < len(cases) < len(mouse_scans) and all(case.status == "ok" for case in cases)
    if side_by_side(len(mouse_scans))[0] > 1:
        assert "workers with" in message.splitlines()[0]
    assert message.splitlines()[-1] == (
        f"trtlm: interrupted; {len(cases)} of {len(mouse_scans)} scans are in {out}; continue with --resume"
    )


def test_a_reader_that_dies_costs_the_command_one_case(tiny_bundle: Bundle, tmp_path: Path) -> None:
    for name in ("a", "leave-b", "segfault-c", "d"):
        put(tmp_path, name, 30)
    before = """
from tests.runs.hostile import hostile_read
from trt_landmarks.runs import batch
batch.read_scan = hostile_read"""
    out = tmp_path / "r.json"
    with start("infer", tmp_path, "--out", out, "--model", tiny_bundle.root, before=before) as process:
        _, message = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in message
    cases = read_predictions(out).cases
    assert {case.id: case.error and case.error.code for case in cases} == {
        "a": None, "leave-b": "reader_crashed", "segfault-c": "reader_crashed", "d": None
    }  # fmt: skip
    assert "segfault-c.mha: reading it crashed (signal SIGSEGV)." in message


@pytest.mark.parametrize("size", [1, 4])
def test_an_unexpected_error_while_computing_fails_its_scan_alone(files: list[ScanFile], size: int) -> None:
    broken = localizer()
    run = broken.engine.run

    def fail_at_b(graph: str, *arrays: NDArray[np.float32]) -> Arrays:
        if graph == COARSE and any(abs(array.max() - 0.3) < 0.02 for array in arrays[0]):
            raise RuntimeError("a bug")
        return run(graph, *arrays)

    broken.engine.run = fail_at_b  # type: ignore[method-assign]
    cases = infer(files, [broken], empty(), batch=size).cases
    codes = {case.id: case.error.code for case in cases if case.error is not None}
    assert codes == {"b": "internal", "c": "scan_truncated", "e": "scan_missing"}


@pytest.mark.parametrize(
    ("batches", "threads", "expected"),
    [(1, 8, (1, 8)), (3, 8, (1, 8)), (4, 8, (2, 4)), (500, 1, (1, 1)), (500, 2, (2, 1)), (500, 4, (4, 1)),
     (500, 16, (4, 4)), (500, 6, (4, 2)), (0, 2, (1, 2)), (1, None, (1, None))],
)  # fmt: skip
def test_workers_on_the_cpu(batches: int, threads: int | None, expected: tuple[int, int | None]) -> None:
    assert side_by_side(batches, threads) == expected


def test_workers_that_are_asked_for() -> None:
    assert side_by_side(2, 8, jobs=4) == (4, 2)
    assert side_by_side(100, 2, jobs=3) == (3, 1)
    assert side_by_side(100, 8, jobs=1) == (1, 8)


def test_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 5)
    assert readers_for([localizer()] * 2) == 2
    on_gpu = localizer()
    on_gpu.engine.provider = "GPU"
    assert readers_for([on_gpu] * 2) == 5
    monkeypatch.setattr(workers, "cores", lambda: 64)
    assert readers_for([on_gpu]) == workers.MOST_READERS


def test_workers_on_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 3)
    assert side_by_side(100) == (3, 1)
    assert side_by_side(100, 2) == (2, 1)


def test_without_files_the_results_are_empty() -> None:
    assert infer([], [localizer()], empty()).cases == []


@pytest.mark.parametrize("wrong", [False, True])
def test_what_confidence_says_becomes_part_of_the_result(tmp_path: Path, wrong: bool) -> None:
    put(tmp_path, "a", 20)
    judging = Localizer(TASK, HEAD, Reader(), confidence=Judge(wrong))
    (case,) = infer(find_scans([tmp_path]), [judging], empty()).cases
    assert [mark.status for mark in case.landmarks] == ["low_confidence"] * 2 + ["located"] * 5
    assert all(mark.confidence == 0.75 for mark in case.landmarks)
    expected = (None, None) if wrong else (0.25, 0.5)
    assert all((mark.expected_error_mm, mark.error_90_mm) == expected for mark in case.landmarks)
    assert [warning.code for warning in case.warnings] == (["not_this_anatomy"] if wrong else [])
    assert not wrong or "a.mha: does not look like a scan of the task small" in case.warnings[0].message


def test_statuses(tmp_path: Path) -> None:
    """Confidences rise evenly from 0 to 1 within each graph; the scan is cut before the nose, neck and top."""
    cut = about((40, -25, 130), (30, 14, 8), (0.9, 1.0, 1.2), np.eye(3))
    put(tmp_path, "cut", 20, cut)
    (case,) = infer(find_scans([tmp_path]), [localizer()], empty()).cases
    assert {mark.name: (mark.status, round(mark.confidence, 2)) for mark in case.landmarks} == {
        "ear-l": ("low_confidence", 0.0), "ear-r": ("located", 0.33),
        "jaw-l": ("located", 0.67), "jaw-r": ("located", 1.0),
        "top": ("outside_scan", 0.0), "nose": ("outside_scan", 0.5), "neck": ("outside_scan", 1.0),
    }  # fmt: skip
    for mark in case.landmarks:
        np.testing.assert_allclose(mark.voxel_ijk, cut.world_to_voxel(mark.position_lps_mm), atol=1e-4)
    (key,) = case.key_slices
    assert (key.group, key.axis) == ("mid", "left-right")
    assert key.point_lps_mm is not None and key.position_mm == key.point_lps_mm[0]
