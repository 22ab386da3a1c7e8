"""Readers that do what a library's C++ may do, by the name of the scan; read by reader processes in tests."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.scan import Scan, ScanFile, read_scan

if TYPE_CHECKING:
    from trt_landmarks.engines.base import Arrays
    from trt_landmarks.runs.workers import Workers


def hostile_read(file: ScanFile) -> Scan:
    """Read a scan; one whose name begins with what happens lets it happen."""
    kind = file.path.name.split("-")[0]
    act = globals().get(kind)
    if callable(act) and kind in ACTS:
        act(file.path)
    return read_scan(file)


def slow_read(file: ScanFile) -> Scan:
    """Read a scan as if from a slow disk."""
    time.sleep(0.15)
    return read_scan(file)


def segfault(path: Path) -> None:
    ctypes.string_at(0)


def abort(path: Path) -> None:
    os.abort()


def hang(path: Path) -> None:
    while True:
        time.sleep(60)


def spin(path: Path) -> None:
    while True:
        pass


def eat(path: Path) -> None:
    blocks = []
    while True:
        blocks.append(np.ones(32 << 20, np.uint8))


def killed(path: Path) -> None:
    os.kill(os.getpid(), 9)


def leave(path: Path) -> None:
    raise SystemExit(3)


def poison(path: Path) -> None:
    """Break the process for whoever is read next in it."""
    import trt_landmarks.scan.read as module

    module._read = lambda file: os.abort()  # type: ignore[assignment]
    raise ValueError("poisoned")


ACTS = ("segfault", "abort", "hang", "spin", "eat", "killed", "leave", "poison")


def deadly_workers() -> Workers:
    """Workers whose engine crashes over scans as bright as 0.9."""
    from tests.runs.test_batch import TASK, Reader
    from tests.synthetic import HEAD
    from trt_landmarks.localization.localizer import Localizer
    from trt_landmarks.runs.workers import Workers

    class Deadly(Reader):
        def run(self, graph: str, *arrays: NDArray[np.float32]) -> Arrays:
            if 0.88 < arrays[0].max() < 0.92:
                os.abort()
            return super().run(graph, *arrays)

    engine = Deadly()
    return Workers([Localizer(TASK, HEAD, engine)], engine, "", "")


def modules() -> set[str]:
    """Packages that the process has imported."""
    return {name.split(".")[0] for name in sys.modules}
