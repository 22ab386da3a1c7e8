"""How long threads are at what they do, so that none may be at it for too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Watch:
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
