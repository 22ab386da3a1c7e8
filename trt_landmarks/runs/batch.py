"""Inference over many scans: one bad scan never stops the rest, and nothing computed is lost.

Reading, computing and keeping overlap (:mod:`trt_landmarks.runs.pipeline`): readers and workers have threads of their
own, and the caller's thread takes the results in order.  Runs that survive are in :mod:`trt_landmarks.runs`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar

from trt_landmarks.engines.base import Cancellable, RunCancelled
from trt_landmarks.errors import ScanError, TrtlmError
from trt_landmarks.localization.case import case_result, failed_case
from trt_landmarks.localization.result import Localization
from trt_landmarks.results.case import CaseInput, CaseResult
from trt_landmarks.runs.isolation import Isolation
from trt_landmarks.runs.memory import MemoryBudget
from trt_landmarks.runs.pipeline import Deadlines, Patience, Pipeline
from trt_landmarks.runs.workers import AnyLocalizer, readers_for
from trt_landmarks.scan import Scan, ScanFile, read_scan
from trt_landmarks.scan.content import Content, scan_content, scan_state

Returned = TypeVar("Returned")

#: Called after every case: the case, how many are done, how many there are.
Progress = Callable[[CaseResult, int, int], None]
#: Called in a worker's thread with each case that is ok and its scan, which is let go afterwards.
Look = Callable[[CaseResult, Scan], None]
Load = Callable[[ScanFile], Scan]
#: Called in a reader's thread before a scan is read.
Begin = Callable[[ScanFile], None]
#: Keeps cases; what it is given a second time, because it may have been interrupted the first time, counts once.
Keep = Callable[[Sequence[CaseResult]], None]


class Loaded(NamedTuple):
    """A file that was read, or could not be.

    Attributes:
        number: of its batch.
        file: what was read.
        found: the scan, or the failed case of one that cannot be read.
        milliseconds: that it took.
        content: what its files held; None if they cannot be read.
    """

    number: int
    file: ScanFile
    found: Scan | CaseResult
    milliseconds: float = 0.0
    content: CaseInput | None = None


def infer(
    files: Sequence[ScanFile],
    localizers: Sequence[AnyLocalizer],
    keep: Keep,
    *,
    batch: int = 1,
    readers: int | None = None,
    progress: Progress = lambda case, done, count: None,
    look: Look = lambda case, scan: None,
    timeout: float | None = None,
    memory: MemoryBudget | None = None,
    isolation: Isolation | None = None,
    begin: Begin = lambda file: None,
    load: Load | None = None,
) -> None:
    """Localize in every file and give a case to ``keep`` for each, in order.

    The results are those of one localizer that takes batch after batch, whatever finishes first.

    Args:
        files: what :func:`trt_landmarks.scan.find_scans` found.
        localizers: each computes in a thread of its own, such as one for every GPU; they share the files.  They may
            share an engine that runs in several threads at once.
        keep: receives the cases, in the caller's thread; such as :meth:`Predictions.add`.  Interrupted or not, it
            receives all that were computed.
        batch: scans that go through the nets together.
        readers: threads that read scans ahead; None for as many as help, see :func:`readers_for`.
        progress: called after every case, in order.
        look: called with every scan that was localized, to draw it for example; it must not raise.
        timeout: seconds that reading a scan, or computing it, may take before it fails; None for any time.
        memory: bounds the scans that are in memory at the same time; None for as many as are read ahead.
        isolation: reads scans in other processes; None to read them in this one, where a crash of a reader ends all,
            and one that takes too long is left behind.
        begin: called before a scan is read, in its reader's thread.
        load: reads a file, a function of a module if ``isolation`` is to call it; None for :func:`read_scan`.

    Raises:
        PipelineError: if a thread dies of anything but a failure of a scan, or too many are stuck.
        PredictionsError: if ``keep`` raises it.
    """
    batch = max(1, batch)
    batches = [files[n : n + batch] for n in range(0, len(files), batch)]
    stages = Stages(localizers, timeout, memory, batches.__getitem__, isolation, begin, load)
    pipeline: Pipeline[tuple[int, ScanFile], Loaded, list[CaseResult]] = Pipeline(
        [(number // batch, file) for number, file in enumerate(files)],
        stages.read,
        [partial(stages.localize, localizer=localizer, look=look) for localizer in localizers],
        batch=batch,
        readers=readers or readers_for(localizers),
        name=lambda item: item[1].shown,
        cancel=stages.cancel,
        patience=Patience(stages.watch.late, stages.cancel, stages.unread, stages.uncomputed),
    )
    done = 0
    taken: list[CaseResult] = []
    try:
        for taken in pipeline:
            keep(taken)  # all of them, before progress can be interrupted
            cases, taken = taken, []
            for case in cases:
                done += 1
                progress(case, done, len(files))
    finally:
        stages.end()
        for cases in (taken, *pipeline.close()):
            keep(cases)


class Stages:
    """What the pipeline does with a file: reading and localizing, within the limits of time and memory.

    Args:
        localizers: all workers' localizers.
        timeout: as in :func:`infer`.
        memory: the same.
        batch_of: the files of a batch, by its number.
        isolation: as in :func:`infer`.
        begin: the same.
        load: the same.
    """

    def __init__(
        self,
        localizers: Sequence[AnyLocalizer],
        timeout: float | None,
        memory: MemoryBudget | None,
        batch_of: Callable[[int], Sequence[ScanFile]],
        isolation: Isolation | None = None,
        begin: Begin = lambda file: None,
        load: Load | None = None,
    ) -> None:
        self.watch = Deadlines(timeout)
        self._memory = memory
        self._batch_of, self._load = batch_of, load
        self._isolation = isolation
        self._begin = begin
        self._engines = {id(one.engine): one.engine for one in localizers if isinstance(one.engine, Cancellable)}
        self._ended = False

    def read(self, item: tuple[int, ScanFile]) -> Loaded:
        """Read a scan."""
        number, file = item
        content = None
        try:
            if self._memory is not None:
                self._memory.enter(number, file, self._batch_of(number))
            self._begin(file)
            start = time.perf_counter()
            before = scan_state(file)
            content = _input(file, self._call(scan_content, file))
            scan = self._call(self._load or read_scan, file)
            if scan_state(file) != before:
                raise ScanError(f"{file.path}: was changed while it was read.", "Run again.", code="scan_changed")
        except Exception as error:  # also a fault of a reader's own: no file may end the run
            return Loaded(number, file, failed_case(file, error), 0.0, content)
        return Loaded(number, file, scan, 1000 * (time.perf_counter() - start), content)

    def _call(self, function: Callable[[ScanFile], Returned], file: ScanFile) -> Returned:
        """Call what reads a file: in another process, or here if there is none."""

        def here(file: ScanFile) -> Returned:
            with self.watch():
                return function(file)

        if self._isolation is None:
            return here(file)
        return self._isolation.call(function, file, name=file.path, timeout=self.watch.seconds, here=here)

    def localize(self, batch: Sequence[Loaded], localizer: AnyLocalizer, look: Look) -> list[CaseResult]:
        """Results of a batch of files, in order; what cannot be read or localized is a failed case."""
        try:
            scans = [one for one in batch if isinstance(one.found, Scan)]
            cases = self._localize(scans, localizer)
            for read, case in zip(scans, cases, strict=True):
                if case.status == "ok" and isinstance(read.found, Scan):
                    look(case, read.found)
            located = iter(cases)
            return _known(batch, [one.found if isinstance(one.found, CaseResult) else next(located) for one in batch])
        finally:
            self._leave(batch)

    def unread(self, item: tuple[int, ScanFile]) -> Loaded:
        """What stands for a scan whose reading takes too long."""
        number, file = item
        return Loaded(number, file, failed_case(file, self._too_late(file, "reading")))

    def uncomputed(self, batch: Sequence[Loaded]) -> list[CaseResult]:
        """The failed cases of a batch whose computing takes too long, and cannot be ended."""
        self._leave(batch)
        return _known(
            batch,
            [
                read.found
                if isinstance(read.found, CaseResult)
                else failed_case(read.file, self._too_late(read.file, "computing"))
                for read in batch
            ],
        )

    def cancel(self, thread: int | None = None) -> None:
        """End what a thread is computing, or all of them, if their engine can."""
        for engine in self._engines.values():
            engine.cancel(thread)

    def end(self) -> None:
        """From now on nothing is begun again that was ended, and nobody waits for memory."""
        self._ended = True
        if self._memory is not None:
            self._memory.close()

    def _localize(self, scans: Sequence[Loaded], localizer: AnyLocalizer) -> list[CaseResult]:
        """Results of scans; if they fail together, they go through one by one, so that one cannot fail the others."""
        while scans:
            try:
                with self.watch(len(scans)):
                    try:
                        found = localizer.localize_batch([one.found for one in scans if isinstance(one.found, Scan)])
                    except RunCancelled:
                        if self._ended:
                            raise
                        if self.watch.late() < 0:  # the scan before was meant, and was done just in time
                            continue
                        raise self._too_late(scans[0].file, "computing") from None
                return [_case(one, located, localizer) for one, located in zip(scans, found, strict=True)]
            except RunCancelled:
                raise
            except Exception as error:  # also a fault of our own: no scan may end the run
                if len(scans) == 1:
                    return [failed_case(scans[0].file, error)]
            return [case for one in scans for case in self._localize([one], localizer)]
        return []

    def _leave(self, batch: Sequence[Loaded]) -> None:
        if self._memory is not None:
            self._memory.leave(batch[0].number)

    def _too_late(self, file: ScanFile, doing: str) -> TrtlmError:
        return TrtlmError(
            f"{file.path}: {doing} takes longer than {self.watch.seconds:g} s.",
            "Allow more time, or look whether its disk answers.",
            code="timeout",
        )


def case_input(file: ScanFile) -> CaseInput | None:
    """What a scan's files hold, for results; None if they cannot be read."""
    return _input(file, scan_content(file))


def _known(batch: Sequence[Loaded], cases: Sequence[CaseResult]) -> list[CaseResult]:
    """The cases of a batch, with what they were computed from."""
    return [replace(case, input=read.content) for read, case in zip(batch, cases, strict=True)]


def _input(file: ScanFile, content: Content | None) -> CaseInput | None:
    if content is None:
        return None
    modified = content.modified if file.label is None else None  # a date may tell who it is
    return CaseInput(content.bytes, content.files, content.sha256, modified)


def _case(read: Loaded, found: Localization, localizer: AnyLocalizer) -> CaseResult:
    assert isinstance(read.found, Scan)
    found.timing_ms["read"] = read.milliseconds
    found.timing_ms["total"] = sum(found.timing_ms.values())
    return case_result(read.file, read.found, found, localizer.task)
