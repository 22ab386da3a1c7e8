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
from contextlib import contextmanager
from dataclasses import dataclass, field
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
#: Threads that may be left behind, stuck in what they do, before all ends.
LOSSES = 8


class _Died(NamedTuple):
    """What ended a stage, and at what it was."""

    doing: str
    error: BaseException


@dataclass(frozen=True)
class Patience(Generic[Item, Loaded, Result]):
    """What becomes of items that take too long.

    Attributes:
        late: seconds that a thread (its identifier is given) is late with what it is at; negative if it is not.
        cancel: is to end early what such a thread is computing; called again and again.  A reader cannot be ended.
        unread: what stands for an item whose reader is left behind.
        uncomputed: the results of a batch whose worker is left behind, :data:`GRACE` seconds after it became late.
    """

    late: Callable[[int], float]
    cancel: Callable[[int], None]
    unread: Callable[[Item], Loaded]
    uncomputed: Callable[[list[Loaded]], Result]


@dataclass
class _Seat(Generic[Loaded, Result]):
    """What a thread is at; it is given to another thread if it takes too long.

    Attributes:
        work: of a worker; None for a reader.
        thread: that has the seat.
        at: index of the item that is read, or number of the batch that is computed; None while waiting.
        loaded: what is computed.
        lost: the thread was left behind: nobody waits for what it does.
    """

    work: Callable[[list[Loaded]], Result] | None = None
    thread: threading.Thread = field(default_factory=threading.Thread)
    at: int | None = None
    loaded: list[Loaded] = field(default_factory=list)
    lost: bool = False


class Deadlines:
    """Knows which threads are late.

    Args:
        seconds: that a thread may take for one scan; None for as long as it likes.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        self._ends: dict[int, float] = {}  # thread -> when it is late

    @contextmanager
    def __call__(self, scans: int = 1) -> Iterator[None]:
        """The calling thread is at something that may take the seconds of so many scans."""
        thread = threading.get_ident()
        if self.seconds is not None:
            self._ends[thread] = time.monotonic() + self.seconds * scans
        try:
            yield
        finally:
            self._ends.pop(thread, None)

    def late(self, thread: int | None = None) -> float:
        """Seconds that a thread (the calling one if none is given) is late; negative if it is not."""
        end = self._ends.get(threading.get_ident() if thread is None else thread)
        return -1.0 if end is None else time.monotonic() - end


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
        patience: what becomes of items that take too long; None: they are waited for.
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
        patience: Patience[Item, Loaded, Result] | None = None,
    ) -> None:
        if batch < 1 or readers < 1 or not workers:
            raise ValueError("a pipeline needs a reader, a worker and batches of at least 1")
        self._items, self._read, self._batch, self._name, self._cancel = items, read, batch, name, cancel
        self._batches = -(-len(items) // batch)
        #: Items that may be loaded, or be loading, without a worker that has taken them.
        self.ahead = len(workers) * batch + readers
        self._next = 0  # the batch that the caller gets next
        self._stopped = False
        self._patience = patience
        self._losses = 0
        self._lock = threading.Lock()  # of the next two, and of the seats
        self._asked = 0  # items that a reader has, or may take
        self._loaded: dict[int, dict[int, Loaded]] = {}  # batch -> item -> what was read
        self._to_read: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._to_compute: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._room: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._finished: dict[int, Result] = {}  # batch -> results that the caller has not taken yet
        self._news: queue.SimpleQueue[_Died | None] = queue.SimpleQueue()  # None: look what is finished
        self._seats: list[_Seat[Loaded, Result]] = [self._seat(f"reader-{n}", None) for n in range(readers)]
        self._seats += [self._seat(f"worker-{n}", work) for n, work in enumerate(workers)]

    def __iter__(self) -> Iterator[Result]:
        """Results of batch after batch, in input order, each as soon as those before it are there.

        Raises:
            PipelineError: if a stage raised anything, or its thread ended in any other way: what and where.
            TrtlmError: as it is, if a stage raised one.
        """
        for seat in self._seats:
            seat.thread.start()
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
        for _ in self._seats:
            self._to_read.put(None)
            self._to_compute.put(None)
            self._room.put(False)
        end = time.monotonic() + GRACE
        while (alive := [seat.thread for seat in self._seats if seat.thread.is_alive()]) and time.monotonic() < end:
            if self._next < self._batches:
                self._cancel()
            alive[0].join(LOOK)
        rest = [self._finished[number] for number in sorted(self._finished) if number >= self._next]
        self._finished.clear()
        self._loaded.clear()
        return rest

    def _wait(self) -> None:
        """Wait until a batch is finished; raise what a stage died of."""
        self._replace_who_is_late()
        dead = [seat.thread.name for seat in self._seats if not seat.thread.is_alive()]  # before its last words
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

    def _replace_who_is_late(self) -> None:
        """End what takes too long; leave behind who cannot be ended, and go on with another thread."""
        if self._patience is None:
            return
        for number, seat in enumerate(self._seats):
            late = self._patience.late(seat.thread.ident or 0)
            if late < 0 or seat.at is None:
                continue
            if seat.work is not None:
                self._patience.cancel(seat.thread.ident or 0)
                if late < GRACE:
                    continue
            with self._lock:  # it may have ended, or begun with another, meanwhile
                seat.lost = seat.at is not None and self._patience.late(seat.thread.ident or 0) >= 0
            if seat.lost:
                self._seats[number] = self._replacement(seat, self._patience)

    def _replacement(
        self, seat: _Seat[Loaded, Result], patience: Patience[Item, Loaded, Result]
    ) -> _Seat[Loaded, Result]:
        """A seat like the one of a thread that is left behind; what that was at is done with."""
        assert seat.at is not None
        self._losses += 1
        if self._losses > LOSSES:
            item = self._items[seat.at if seat.work is None else seat.at * self._batch]
            doing = "reading" if seat.work is None else "computing"
            raise PipelineError(
                f"{self._name(item)}: {doing} takes too long, as it did for {LOSSES} others that are still at it.",
                "Check the disk and the machine, or allow more time.",
            )
        if seat.work is None:
            self._arrived(seat.at, patience.unread(self._items[seat.at]))
        else:
            self._finished[seat.at] = patience.uncomputed(seat.loaded)
            self._news.put(None)
        instead = self._seat(seat.thread.name, seat.work)
        instead.thread.start()
        return instead

    def _seat(self, name: str, work: Callable[[list[Loaded]], Result] | None) -> _Seat[Loaded, Result]:
        seat: _Seat[Loaded, Result] = _Seat(work)
        loop = self._reader if work is None else self._worker
        # Daemons, so that one that hangs in the operating system does not keep the process alive.
        seat.thread = threading.Thread(target=loop, args=(seat,), name=name, daemon=True)
        return seat

    def _reader(self, seat: _Seat[Loaded, Result]) -> None:
        while not seat.lost and (index := self._to_read.get()) is not None and not self._stopped:
            try:
                self._load(index, seat)
            except BaseException as error:
                self._died(seat, f"{self._name(self._items[index])}: reading", error)
                return

    def _load(self, index: int, seat: _Seat[Loaded, Result]) -> None:
        seat.at = index
        loaded = self._read(self._items[index])
        with self._lock:
            seat.at = None
            if seat.lost:
                return
        self._arrived(index, loaded)

    def _arrived(self, index: int, loaded: Loaded) -> None:
        number = index // self._batch
        with self._lock:
            arrived = self._loaded.setdefault(number, {})
            arrived[index] = loaded
            complete = len(arrived) == min(self._batch, len(self._items) - number * self._batch)
        if complete:
            self._to_compute.put(number)

    def _worker(self, seat: _Seat[Loaded, Result]) -> None:
        while (
            not seat.lost and self._room.get() and (number := self._to_compute.get()) is not None and not self._stopped
        ):
            try:
                self._compute(number, seat)
            except BaseException as error:
                self._died(seat, f"{self._name(self._items[number * self._batch])}: computing", error)
                return

    def _compute(self, number: int, seat: _Seat[Loaded, Result]) -> None:
        assert seat.work is not None
        with self._lock:
            arrived = self._loaded.pop(number)
            seat.at, seat.loaded = number, [arrived[index] for index in sorted(arrived)]
            del arrived
        self._ask(len(seat.loaded))
        results = seat.work(seat.loaded)
        with self._lock:
            seat.at, seat.loaded = None, []
            if seat.lost:
                return
        self._finished[number] = results
        self._news.put(None)

    def _died(self, seat: _Seat[Loaded, Result], doing: str, error: BaseException) -> None:
        with self._lock:
            if seat.lost:
                return
            seat.at, seat.loaded = None, []
        self._news.put(_Died(doing, error))

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
