"""The log of a run: a line for every case, and every few minutes how far it is."""

from __future__ import annotations

import logging
import time
from datetime import timedelta
from pathlib import Path

from trt_landmarks.errors import TrtlmError
from trt_landmarks.results.case import CaseResult

#: Minutes between two lines that say how far the run is.
MINUTES = 5.0
_FORMAT = "%(levelname)s %(asctime)s %(message)s"


class RunLog:
    """Writes to a file, through Python's logging; without a file it writes nothing.

    A case's line is ``INFO <time> <case> ok <ms> ms``, or ``ERROR <time> <case> failed <code> <ms> ms: <message>``;
    a case with warnings is at level WARNING and has their codes behind it.

    Args:
        path: the log file, which is appended to.

    Raises:
        TrtlmError: if it cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._logger = logging.Logger("trt_landmarks.run")  # of its own: no other handler sees names of scans
        self._logger.addHandler(logging.NullHandler())
        self._began = self._told = time.monotonic()
        if path is not None:
            try:
                handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
            except OSError as problem:
                raise TrtlmError(f"{path}: the log cannot be written: {problem.strerror}.", code="log") from None
            handler.setFormatter(logging.Formatter(_FORMAT))
            self._logger.addHandler(handler)

    def case(self, case: CaseResult, done: int, count: int) -> None:
        """A case is done; the ``done``-th of ``count``."""
        took = f"{case.timing_ms['total']:.0f} ms" if "total" in case.timing_ms else "- ms"
        name = printable(case.id)
        if case.error is not None:
            self._logger.error("%s failed %s %s: %s", name, case.error.code, took, printable(case.error.message))
        elif case.warnings:
            codes = ", ".join(warning.code for warning in case.warnings)
            self._logger.warning("%s ok %s: %s", name, took, codes)
        else:
            self._logger.info("%s ok %s", name, took)
        now = time.monotonic()
        if now - self._told >= 60 * MINUTES:
            self._told = now
            speed = done / (now - self._began)
            left = timedelta(seconds=round((count - done) / speed))
            self.say(f"{done} of {count} done ({100 * done // count} %), {speed:.3g} scans/s, {left} left")

    def say(self, message: str) -> None:
        """A line about the run."""
        self._logger.info(printable(message))

    def close(self) -> None:
        """Close the file."""
        for handler in self._logger.handlers:
            handler.close()


def printable(text: str) -> str:
    """A text on one line without control characters, which would act on a terminal; they become escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
