"""The pipeline: order, bounds, and threads that die."""

from __future__ import annotations

import _thread
import itertools
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_landmarks.errors import EngineError, PipelineError
from trt_landmarks.runs import pipeline as module
from trt_landmarks.runs.pipeline import Deadlines, Pipeline

#: Long enough for whatever should happen to happen, on a busy machine; only a test that fails takes so long.
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def double(loaded: list[int]) -> list[int]:
    return [2 * value for value in loaded]


def run(pipeline: Pipeline[int, int, list[int]]) -> list[list[int]]:
    try:
        return list(pipeline)
    finally:
        pipeline.close()


@given(
    count=st.integers(0, 30),
    batch=st.integers(1, 7),
    readers=st.integers(1, 4),
    workers=st.integers(1, 4),
    slow=st.sets(st.integers(0, 30)),
)
@settings(max_examples=60, deadline=None)
def test_batches_come_in_order_whatever_finishes_first(
    count: int, batch: int, readers: int, workers: int, slow: set[int]
) -> None:
    def read(item: int) -> int:
        time.sleep(0.002 * (item in slow))
        return item + 100

    def work(loaded: list[int]) -> list[int]:
        time.sleep(0.002 * (loaded[0] % 3 == 0))
        return double(loaded)

    found = run(Pipeline(range(count), read, [work] * workers, batch=batch, readers=readers))
    expected = [2 * (item + 100) for item in range(count)]
    assert found == [expected[start : start + batch] for start in range(0, count, batch)]


@pytest.mark.parametrize(("batch", "readers", "workers"), [(1, 1, 1), (1, 3, 2), (4, 2, 2), (8, 1, 1)])
def test_no_more_is_read_than_said(batch: int, readers: int, workers: int) -> None:
    """Computing stands still until as much has been read as may be, and then a while longer."""
    lock = threading.Lock()
    waiting = most = 0
    full = threading.Event()

    def read(item: int) -> int:
        nonlocal waiting, most
        with lock:
            waiting += 1
            most = max(most, waiting)
            if waiting == pipeline.ahead:
                full.set()
        return item

    def work(loaded: list[int]) -> list[int]:
        nonlocal waiting
        with lock:
            waiting -= len(loaded)
        if loaded[0] < workers * batch:  # each worker's first batch
            assert full.wait(PATIENCE)
            time.sleep(0.1)
        return double(loaded)

    pipeline: Pipeline[int, int, list[int]] = Pipeline(range(60), read, [work] * workers, batch=batch, readers=readers)
    assert pipeline.ahead == workers * batch + readers
    assert sum(map(len, run(pipeline))) == 60
    assert pipeline.ahead <= most <= pipeline.ahead + workers * batch  # taken, but counted a moment later


def test_a_caller_that_takes_nothing_stops_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 5)
    computed: list[int] = []
    pipeline = Pipeline(range(100), lambda item: item, [lambda loaded: computed.extend(loaded)] * 2)
    batches = iter(pipeline)
    for taken in (1, 2, 3):
        next(batches)
        settle(lambda expected=4 + taken: len(computed) >= expected)  # type: ignore[misc]
        time.sleep(0.1)
        assert len(computed) == 4 + taken
    pipeline.close()


def settle(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not reached() and time.monotonic() < end:
        time.sleep(0.005)
    assert reached()


def test_workers_share_the_items() -> None:
    """Three workers that compute at once: none gives a result before all have a batch."""
    together = threading.Barrier(3)
    seen: list[list[int]] = [[], [], []]

    def worker(number: int) -> Callable[[list[int]], list[int]]:
        def work(loaded: list[int]) -> list[int]:
            seen[number] += loaded
            together.wait(PATIENCE)
            return double(loaded)

        return work

    assert run(Pipeline(range(9), lambda item: item, [worker(n) for n in range(3)])) == [[2 * n] for n in range(9)]
    assert sorted(itertools.chain(*seen)) == list(range(9))
    assert [len(one) for one in seen] == [3, 3, 3]


class Gone(BaseException):
    """Nothing that anybody expects."""


@pytest.mark.parametrize("error", [RuntimeError("a bug"), MemoryError(), SystemExit(3), Gone("gone"), OSError()])
@pytest.mark.parametrize("stage", ["reading", "computing"])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_thread_that_dies_ends_all_and_says_why(error: BaseException, stage: str, workers: int) -> None:
    def at_seven(value: int, here: bool) -> None:
        if here and value == 7:
            raise error

    def read(item: int) -> int:
        at_seven(item, stage == "reading")
        return item

    def work(loaded: list[int]) -> list[int]:
        at_seven(loaded[0], stage == "computing")
        return double(loaded)

    taken: list[list[int]] = []
    pipeline = Pipeline(range(500), read, [work] * workers, readers=workers, name=lambda item: f"scan {item}")
    with pytest.raises(PipelineError) as raised:
        taken.extend(pipeline)
    assert str(raised.value).startswith(f"scan 7: {stage}: {type(error).__name__}{f': {error}' if str(error) else ''}")
    assert "test_pipeline.py, line" in str(raised.value)
    assert raised.value.__cause__ is error
    taken += pipeline.close()
    values = [value for (value,) in taken]
    assert values == sorted(values) and 14 not in values
    assert values[:7] == list(range(0, 14, 2)) or workers > 1 or stage == "reading"


def test_an_error_for_people_stays_as_it_is() -> None:
    error = EngineError("the GPU is gone.", "Plug it in.")

    def work(loaded: list[int]) -> list[int]:
        raise error

    with pytest.raises(EngineError) as raised:
        run(Pipeline(range(3), lambda item: item, [work]))
    assert raised.value is error


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_cannot_say_why_it_died_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(module, "_Died", no_memory)
    with pytest.raises(PipelineError, match="worker-0 ended"):
        run(Pipeline(range(9), lambda item: item, [lambda loaded: [1 // 0]]))


def test_what_was_computed_out_of_order_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Item 0 never ends; all others are computed by the other worker before the caller is interrupted."""
    monkeypatch.setattr(module, "GRACE", PATIENCE)
    others = threading.Semaphore(0)
    cancelled = threading.Event()

    def work(loaded: list[int]) -> list[int]:
        if loaded == [0]:
            assert cancelled.wait(PATIENCE)
            raise RuntimeError("cancelled")
        others.release()
        return double(loaded)

    def interrupt() -> None:
        for _ in range(9):
            assert others.acquire(timeout=PATIENCE)
        _thread.interrupt_main()

    pipeline = Pipeline(range(10), lambda item: item, [work] * 2, cancel=cancelled.set)
    signal = threading.Thread(target=interrupt)
    signal.start()
    with pytest.raises(KeyboardInterrupt):
        list(pipeline)  # waits for item 0 when the signal comes
    assert pipeline.close() == [[2 * item] for item in range(1, 10)]
    assert pipeline.close() == []
    signal.join()


def test_who_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE", 0.2)
    hangs, released = threading.Event(), threading.Event()

    def read(item: int) -> int:
        if item == 2:
            hangs.set()
            assert released.wait(PATIENCE)
        return item

    pipeline = Pipeline(range(9), read, [double])
    batches = iter(pipeline)
    assert [next(batches), next(batches)] == [[0], [2]]
    assert hangs.wait(PATIENCE)
    pipeline.close()
    (left,) = [thread for thread in threading.enumerate() if thread.name == "reader-0"]
    assert left.daemon  # so it does not keep the process alive
    released.set()
    left.join(PATIENCE)


def test_nothing_is_held_that_has_been_computed() -> None:
    """While workers and caller wait, no scan lives on in a variable of theirs."""
    import weakref

    class Scan:
        pass

    scans: list[weakref.ref[Scan]] = []
    at_end = threading.Event()

    def read(item: int) -> Scan:
        if item == 8:
            assert at_end.wait(PATIENCE)
        scan = Scan()
        scans.append(weakref.ref(scan))
        return scan

    pipeline = Pipeline(range(9), read, [len, len], batch=1)
    batches = iter(pipeline)
    assert [next(batches) for _ in range(8)] == [1] * 8
    settle(lambda: not any(scan() for scan in scans))
    at_end.set()
    assert next(batches) == 1
    pipeline.close()


def test_a_pipeline_needs_readers_and_workers() -> None:
    for batch, readers, workers in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="needs a reader"):
            Pipeline(range(3), lambda item: item, [double] * workers, batch=batch, readers=readers)


def test_closing_without_a_start_does_nothing() -> None:
    assert Pipeline(range(3), lambda item: item, [double]).close() == []


def test_a_thread_is_late_after_its_seconds_and_only_within() -> None:
    watch = Deadlines(0.05)
    assert watch.late() < 0
    with watch():
        assert watch.late() < 0
        time.sleep(0.08)
        assert 0 <= watch.late() < 10
        late: list[float] = []
        thread = threading.Thread(target=lambda: late.append(watch.late(main)))
        main = threading.get_ident()
        thread.start()
        thread.join()
        assert late[0] > 0
    assert watch.late() < 0


def test_several_scans_may_take_the_time_of_each() -> None:
    watch = Deadlines(0.05)
    with watch(1000):
        time.sleep(0.08)
        assert watch.late() < 0


def test_without_a_limit_nobody_is_late() -> None:
    with (watch := Deadlines())():
        assert watch.late() < 0
