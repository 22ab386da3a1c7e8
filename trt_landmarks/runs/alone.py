"""Scans that may have killed a run: each is read and computed in a process that holds nothing else.

Which of the scans that a run had begun when it died has killed it, if any has, nobody knows.  So they come first when
it goes on, one at a time, in another process: one that kills it fails with its code, and all others have their results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from trt_landmarks.localization.case import failed_case
from trt_landmarks.results.case import CaseResult
from trt_landmarks.runs import batch
from trt_landmarks.runs.isolation import Isolation, ReaderEndedError
from trt_landmarks.runs.workers import Workers
from trt_landmarks.scan import ScanFile

#: Opens the workers of a run; picklable.
Opener = Callable[[], Workers]
#: Seconds that opening a model may take, where time is limited.
OPENING = 120.0


def infer_alone(
    files: Sequence[ScanFile], opener: Opener, memory: int | None, timeout: float | None, begin: batch.Begin
) -> Iterator[CaseResult]:
    """The cases of scans, computed one at a time in another process.

    Args:
        files: the scans.
        opener: opens what computes, there.
        memory: bytes that the other process may have; None for any number.
        timeout: seconds that reading a scan, or computing it, may take.
        begin: called before each.
    """
    with Isolation(memory) as process:
        for file in files:
            begin(file)
            most = None if timeout is None else OPENING + 2 * timeout
            try:
                load = batch.read_scan  # type: ignore[attr-defined]  # where tests put readers that crash
                yield process.call(
                    _infer, file, opener, timeout, load, name=file.path, doing="computing", timeout=most
                )
            except ReaderEndedError as error:
                yield replace(failed_case(file, error), input=batch.case_input(file))


def _infer(file: ScanFile, opener: Opener, timeout: float | None, load: batch.Load) -> CaseResult:
    cases: list[CaseResult] = []
    batch.infer([file], opener().localizers[:1], cases.extend, timeout=timeout, load=load)
    return cases[0]
