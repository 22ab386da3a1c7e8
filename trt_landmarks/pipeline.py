"""Stages that overlap: items are read ahead in some threads, computed in others, and handed over in their order.

    items -> readers, an item at a time -> workers, a batch at a time -> the caller, batches in input order

The stages are plain callables; what they do is their own business: a worker may run ONNX Runtime on the CPU, or
hold a GPU of its own, several of them sharing one sequence of items.  Threads are enough, because what takes long
(reading, decompressing, NumPy on arrays, the engines) releases Python's lock.

Everything in between is bounded by tokens.  An index in ``_to_read`` is the permission to read that item: at the
start as many are out as may be read ahead, and a worker that takes a batch puts one new for each of its items.  A
worker takes a batch only with a token from ``_room``; the caller gives it back when it comes for the next batch.
"""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from trt_landmarks.errors import PipelineError, TrtlmError

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Result = TypeVar("Result")

#: Batches that may be computed, or be under way, before the caller is done with them: what a slow disk holds up.
WAITING = 64
#: Seconds that closing waits at most for stages that are still at work.
GRACE = 1.0
#: Seconds between two looks at whether all threads live, and between two calls of ``cancel``.
LOOK = 0.05


class _Died(NamedTuple):
    """What ended a stage, and at what it was."""

    doing: str
    error: BaseException


class Pipeline(Generic[Item, Loaded, Result]):
    """Reads, computes and hands over; iterated over once, it gives the batches' results in input order.

    Always :meth:`close` it.  Failures that concern one item only are results: whatever a stage raises ends all.

    Args:
        items: what there is to do; the first ``batch`` of them are the first batch, and so on.
        read: loads an item, in a reader's thread.
        workers: each turns a batch of loaded items into its results, in a thread of its own.
        batch: items that are computed together, at least 1.
        readers: threads that read, at least 1.
        name: an item in error messages.
        cancel: is to end early what the workers are computing, if that may take long; called again and again, by
            the thread that closes, until they have ended.
    """

    def __init__(
        self,
        items: Sequence[Item],
        read: Callable[[Item], Loaded],
        workers: Sequence[Callable[[list[Loaded]], Result]],
        *,
        batch: int = 1,
        readers: int = 1,
        name: Callable[[Item], str] = str,
        cancel: Callable[[], None] = lambda: None,
    ) -> None:
        if batch < 1 or readers < 1 or not workers:
            raise ValueError("a pipeline needs a reader, a worker and batches of at least 1")
        self._items, self._read, self._batch, self._name, self._cancel = items, read, batch, name, cancel
        self._batches = -(-len(items) // batch)
        #: Items that may be loaded, or be loading, without a worker that has taken them.
        self.ahead = len(workers) * batch + readers
        self._next = 0  # the batch that the caller gets next
        self._stopped = False
        self._lock = threading.Lock()  # of the next two
        self._asked = 0  # items that a reader has, or may take
        self._loaded: dict[int, dict[int, Loaded]] = {}  # batch -> item -> what was read
        self._to_read: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._to_compute: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._finished: dict[int, Result] = {}  # batch -> results that the caller has not taken yet
        self._news: queue.SimpleQueue[_Died | None] = queue.SimpleQueue()  # None: look what is finished
        self._threads = [self._thread(f"reader-{n}", self._reader) for n in range(readers)]
        self._threads += [self._thread(f"worker-{n}", self._worker, work) for n, work in enumerate(workers)]

    def __iter__(self) -> Iterator[Result]:
        """Results of batch after batch, in input order, each as soon as those before it are there.

        Raises:
            PipelineError: if a stage raised anything, or its thread ended in any other way: what and where.
            TrtlmError: as it is, if a stage raised one.
        """
        for thread in self._threads:
            thread.start()
        self._ask(self.ahead)
        for _ in range(WAITING):
            self._room.put(True)
        while self._next < self._batches:
            while self._next not in self._finished:
                self._wait()
            # Python looks for signals at calls and jumps. Here is none: these are close()'s results, or the caller's.
            results = self._finished[self._next]
            self._next += 1
            yield results
            del results, self._finished[self._next - 1]
            self._room.put(True)

    def close(self) -> list[Result]:
        """End all threads, and give the results that were computed but not yet taken, in input order.

        Reading and computing under way are waited for :data:`GRACE` seconds; who needs longer is left behind (its
        thread ends with what it is doing, and does not keep the process alive).
        """
        self._stopped = True
        for _ in self._threads:
            self._to_read.put(None)
            self._to_compute.put(None)
            self._room.put(False)
        end = time.monotonic() + GRACE
        while (alive := [one for one in self._threads if one.is_alive()]) and time.monotonic() < end:
            if self._next < self._batches:
                self._cancel()
            alive[0].join(LOOK)
        rest = [self._finished[number] for number in sorted(self._finished) if number >= self._next]
        self._finished.clear()
        self._loaded.clear()
        return rest

    def _wait(self) -> None:
        """Wait until a batch is finished; raise what a stage died of."""
        dead = [thread.name for thread in self._threads if not thread.is_alive()]  # before looking for its last words
        try:
            died = self._news.get(timeout=LOOK)
        except queue.Empty:
            if dead:
                raise PipelineError(f"{dead[0]} ended and could not say why.", "Free memory.") from None
            return
        if died is None:
            return
        if isinstance(died.error, TrtlmError):
            raise died.error
        raise PipelineError(f"{died.doing}: {_reason(died.error)}.") from died.error

    def _thread(self, name: str, loop: Callable[..., None], *arguments: object) -> threading.Thread:
        # Daemons, so that one that hangs in the operating system does not keep the process alive.
        return threading.Thread(target=loop, args=arguments, name=name, daemon=True)

    def _reader(self) -> None:
        while (index := self._to_read.get()) is not None and not self._stopped:
            try:
                self._load(index)
            except BaseException as error:
                self._news.put(_Died(f"{self._name(self._items[index])}: reading", error))
                return

    def _load(self, index: int) -> None:
        loaded = self._read(self._items[index])
        number = index // self._batch
        with self._lock:
            arrived = self._loaded.setdefault(number, {})
            arrived[index] = loaded
            complete = len(arrived) == min(self._batch, len(self._items) - number * self._batch)
        if complete:
            self._to_compute.put(number)

    def _worker(self, work: Callable[[list[Loaded]], Result]) -> None:
        while self._room.get() and (number := self._to_compute.get()) is not None and not self._stopped:
            try:
                self._compute(number, work)
            except BaseException as error:
                self._news.put(_Died(f"{self._name(self._items[number * self._batch])}: computing", error))
                return

    def _compute(self, number: int, work: Callable[[list[Loaded]], Result]) -> None:
        with self._lock:
            arrived = self._loaded.pop(number)
        self._ask(len(arrived))
        self._finished[number] = work([arrived[index] for index in sorted(arrived)])
        self._news.put(None)

    def _ask(self, count: int) -> None:
        """Let the readers read that many more."""
        with self._lock:
            for _ in range(min(count, len(self._items) - self._asked)):
                self._to_read.put(self._asked)
                self._asked += 1


def _reason(error: BaseException) -> str:
    """An exception and where it was raised, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}" if str(error) else f"{type(error).__name__}{where}"
