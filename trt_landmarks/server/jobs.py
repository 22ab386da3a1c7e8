"""What the server has to do: scans that wait for their turn, in one endless sequence."""

from __future__ import annotations

import itertools
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from numpy.typing import NDArray

from trt_landmarks.errors import TrtlmError
from trt_landmarks.geometry import Floats
from trt_landmarks.results.case import CaseResult
from trt_landmarks.scan import ScanFile

QUEUED, READING, COMPUTING, DONE = "queued", "reading", "computing", "done"


@dataclass(frozen=True, eq=False)
class Volume:
    """A scan that came in a request: voxels ``[k, j, i]``, and the affine ``[4, 4]`` from (i, j, k, 1) to RAS mm."""

    voxels: NDArray[Any]
    affine: Floats


@dataclass(eq=False)
class Job:
    """A scan that is to be localized in.

    Attributes:
        model: the model's name.
        file: the scan.
        volume: its content, if it is no file.
        id: cannot be guessed.
        state: ``queued``, ``reading``, ``computing`` or ``done``.
        result: the case, ok or failed.
    """

    model: str
    file: ScanFile
    volume: Volume | None = None
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    state: str = QUEUED
    started: float = field(default_factory=time.monotonic)
    result: Future[CaseResult] = field(default_factory=Future)

    def finish(self, case: CaseResult) -> None:
        """Set the result, if it is not there yet."""
        self.state = DONE
        if not self.result.done():
            self.result.set_result(case)


@dataclass(frozen=True)
class JobFile(ScanFile):
    """The file of a job, as the pipeline handles it; without a job where the queue was closed."""

    job: Job | None = None


class Queue(Sequence[tuple[int, JobFile]]):
    """Jobs as an endless sequence, as a pipeline takes them: an item that is not there yet is waited for.

    Args:
        most: jobs that are waited for or under way, at most.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._numbers = itertools.count()
        self._taken: dict[int, Job] = {}
        self._closed = False

    def put(self, job: Job) -> None:
        """Add a job.

        Raises:
            TrtlmError: if there are too many, or the queue was closed.
        """
        with self._changed:
            if self._closed:
                raise TrtlmError("the server is stopping.", code="server_stopping")
            if self.depth >= self.most:
                raise TrtlmError(f"{self.most} scans are waiting already.", "Try again later.", code="queue_full")
            self._waiting.append(job)
            self._changed.notify()

    @property
    def depth(self) -> int:
        """Jobs that are not done."""
        return len(self._waiting) + len(self._taken)

    def ahead(self, job: Job) -> int:
        """Jobs that come before one that is queued."""
        with self._changed:
            return self._waiting.index(job) if job in self._waiting else 0

    def forget(self, number: int) -> None:
        """A job is done."""
        with self._changed:
            self._taken.pop(number, None)

    def close(self) -> list[Job]:
        """Take no more jobs; gives those that are not done."""
        with self._changed:
            self._closed = True
            left = [*self._taken.values(), *self._waiting]
            self._waiting.clear()
            self._changed.notify_all()
        return left

    def __len__(self) -> int:
        return sys.maxsize >> 1

    @overload
    def __getitem__(self, number: int) -> tuple[int, JobFile]: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[tuple[int, JobFile]]: ...
    def __getitem__(self, number: int | slice) -> Any:
        assert isinstance(number, int)
        with self._changed:
            if number not in self._taken:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return number, JobFile("closed", Path("closed"))
                self._taken[number] = self._waiting.popleft()
            job = self._taken[number]
        return number, JobFile(job.file.id, job.file.path, job.file.series, job=job)
