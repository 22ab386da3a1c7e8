r"""Functions called in processes of their own, so that a crash in a library's C++ costs one call and nothing else.

    command --control--> nursery --forks--> reader, reader, ...     (trt_landmarks.runs.nursery)
       \____________ a connection each ____________/

A reader serves call after call.  One that takes too long is killed; one that dies is replaced, and if it had served
others before, its last call is made once more in a new one: what an earlier scan broke must not cost a later one.
"""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any, TypeVar

from trt_landmarks.errors import TrtlmError
from trt_landmarks.runs.nursery import ALIGNMENT, ENDED, RAISED
from trt_landmarks.scan.dicom_objects import DicomFolder, dicom_files, list_series
from trt_landmarks.scan.find import Lister

Returned = TypeVar("Returned")

_LOGGER = logging.getLogger(__name__)
READER_CRASHED, COMPUTE_CRASHED = "reader_crashed", "compute_crashed"
#: Nurseries that may be lost before functions are called in this process.
LOSSES = 3


class ReaderEndedError(TrtlmError):
    """A reader process died, or was killed because it took too long; ``code`` says which."""

    code = READER_CRASHED


class _NurseryLostError(Exception):
    """The nursery is gone, and nothing is known of the call."""


@dataclass
class _Reader:
    """A reader process.

    Attributes:
        line: the connection to it.
        pid: its process id.
        served: calls that it has answered.
    """

    line: Connection
    pid: int = 0
    served: int = 0


class Isolation:
    """Calls functions in reader processes; threads may share it.  Always :meth:`close` it.

    It starts at once and is ready about a third of a second later.  Where no process can be started, functions are
    called in this one, and ``warn`` is told so once.

    Args:
        memory: bytes that a reader may have; None for any number.
        warn: receives one line if it cannot work.
    """

    def __init__(self, memory: int | None = None, warn: Callable[[str], None] = _LOGGER.warning) -> None:
        self.memory, self._warn = memory, warn
        self._lock = threading.Lock()
        self._idle: list[_Reader] = []
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: Connection | None = None
        self._lost = 0
        self._answered = self._closed = False
        #: Whether functions are called in other processes.
        self.works = True
        with self._lock:
            self._start()

    def call(
        self,
        function: Callable[..., Returned],
        *arguments: Any,
        name: object,
        doing: str = "reading",
        timeout: float | None = None,
        here: Callable[..., Returned] | None = None,
    ) -> Returned:
        """What a function returns, called in another process.

        Args:
            function: of a module; arguments and what it returns must be picklable.
            arguments: its arguments.
            name: the scan, for messages.
            doing: what the function does, for messages.
            timeout: seconds it may take.
            here: called instead, in this process, where there is no other; None for the function itself.

        Raises:
            ReaderEndedError: ``reader_crashed`` (``compute_crashed`` if more than reading was done); ``out_of_memory``
                if the system killed it; ``timeout``.
            Exception: what the function raises.
        """
        request = pickle.dumps((function, arguments))
        while self.works:
            try:
                reader = self._take()
                try:
                    return self._ask(reader, request, doing, timeout)
                except ReaderEndedError as error:
                    if error.code == "timeout" or not reader.served:
                        raise ReaderEndedError(f"{name}: {error.message}", error.remedy, code=error.code) from None
            except _NurseryLostError:
                self._replace()
        return (here or function)(*arguments)

    def close(self) -> None:
        """End all processes; calls under way raise :class:`ReaderEndedError`."""
        with self._lock:
            self._closed = True
            self._end()

    def __enter__(self) -> Isolation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self) -> _Reader:
        """A reader that waits for work, or a new one."""
        with self._lock:
            if self._closed:
                raise ReaderEndedError("the run was ended.")
            if self._idle:
                return self._idle.pop()
            if self._control is None:
                raise _NurseryLostError
            mine, theirs = Pipe()
            try:
                self._control.send_bytes(b"")
                send_handle(self._control, theirs.fileno(), None)
            except OSError:
                mine.close()
                raise _NurseryLostError from None
            finally:
                theirs.close()
        try:
            return _Reader(mine, int(mine.recv_bytes()))
        except (EOFError, OSError, ValueError):
            mine.close()
            raise _NurseryLostError from None

    def _ask(self, reader: _Reader, request: bytes, doing: str, timeout: float | None) -> Any:
        """A reader's answer; it is idle afterwards, or gone."""
        end = None if timeout is None else time.monotonic() + timeout
        try:
            reader.line.send_bytes(request)
            if end is not None and not reader.line.poll(max(0.0, end - time.monotonic())):
                self._kill(reader)
                raise ReaderEndedError(
                    f"{doing} takes longer than {timeout:g} s.",
                    "Allow more time, or look whether its disk answers.",
                    code="timeout",
                )
            content = pickle.loads(reader.line.recv_bytes())
            if content[0] == ENDED:
                raise _ended(content[1], doing)
            kind, value = _received(reader.line, *content)
        except BrokenPipeError:
            return self._last_words(reader, doing)
        except (EOFError, OSError):
            reader.line.close()
            raise _NurseryLostError from None
        except BaseException:
            reader.line.close()
            raise
        reader.served += 1
        with self._lock:
            self._answered = True
            if not self._closed:
                self._idle.append(reader)
        if kind == RAISED:
            raise value
        return value

    def _last_words(self, reader: _Reader, doing: str) -> Any:
        """How a reader ended that died while it had nothing to do."""
        try:
            content = pickle.loads(reader.line.recv_bytes())
        except (EOFError, OSError):
            raise _NurseryLostError from None
        finally:
            reader.line.close()
        raise _ended(content[1], doing)

    def _kill(self, reader: _Reader) -> None:
        with self._lock:
            if self._control is not None:
                try:
                    self._control.send_bytes(str(reader.pid).encode())
                except OSError:
                    pass

    def _start(self) -> None:
        """Start the nursery."""
        mine, theirs = Pipe()
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from trt_landmarks.runs.nursery import main; "
            f"main({theirs.fileno()}, {self.memory!r})"
        )
        # Its NumPy has one thread: forking is safe then, and readers leave the cores to what computes.
        variables = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        try:
            self._nursery = subprocess.Popen(
                [sys.executable, "-c", code], pass_fds=[theirs.fileno()], env=variables,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,  # what libraries print is not for people
            )  # fmt: skip
            self._control = mine
        except (OSError, ValueError, TypeError) as error:
            mine.close()
            self._give_up(str(error))
        finally:
            theirs.close()

    def _replace(self) -> None:
        """Start another nursery in place of one that is gone."""
        with self._lock:
            if self._closed or not self.works:
                return
            if self._nursery is not None and self._nursery.poll() is None and self._control is not None:
                try:  # another thread may have replaced it already
                    self._control.send_bytes(b"0")
                    return
                except OSError:
                    pass
            self._lost += 1
            self._end()
            if self._lost > LOSSES or not self._answered:
                self._give_up("its process ended")
            else:
                self._start()

    def _give_up(self, why: str) -> None:
        self.works = False
        self._warn(f"trtlm: scans are read in this process, where a crash or a hang of a reader ends the run: {why}")

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._nursery is not None:
            try:  # it kills its readers first
                self._nursery.wait(1)
            except subprocess.TimeoutExpired:
                self._nursery.kill()
                self._nursery.wait()
            self._nursery = None
        for reader in self._idle:
            reader.line.close()
        self._idle.clear()


def series_lister(isolation: Isolation, timeout: float | None = None) -> Lister:
    """What lists the DICOM series of a folder in another process.

    A folder whose listing ends its reader counts as one damaged scan, which says so when it is read.
    """

    def series(folder: Path) -> DicomFolder | None:
        try:
            return isolation.call(list_series, folder, name=folder, timeout=timeout)
        except ReaderEndedError:
            return DicomFolder(folder, (), Counter(), tuple(dicom_files(folder)))

    return series


def _received(line: Connection, sizes: list[int], content: bytes) -> tuple[str, Any]:
    """An answer, with its arrays where the reader has put them."""
    if not sizes:
        answer: tuple[str, Any] = pickle.loads(content)
        return answer
    descriptor = recv_handle(line)
    try:
        places = [0]
        for size in sizes:
            places.append(places[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
        shared = memoryview(mmap.mmap(descriptor, places[-2] + sizes[-1]))
    finally:
        os.close(descriptor)
    answer = pickle.loads(content, buffers=[shared[at : at + size] for at, size in zip(places, sizes, strict=False)])
    return answer


def _ended(status: int, doing: str) -> ReaderEndedError:
    """The error for a reader that died."""
    if status == -signal.SIGKILL:
        return ReaderEndedError(
            f"the system killed the process that was {doing} it, most likely because memory ran out.",
            "Free memory or crop the scan.",
            code="out_of_memory",
        )
    how = f"signal {_signal_name(-status)}" if status < 0 else f"exit code {status}"
    return ReaderEndedError(
        f"{doing} it crashed ({how}).",
        "The file is damaged, or a library has a fault.",
        code=READER_CRASHED if doing == "reading" else COMPUTE_CRASHED,
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
