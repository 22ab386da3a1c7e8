"""The process of one way: it opens the way, and does what the benchmark's lines on standard input ask for.

Every line is a JSON object with one of these keys, and is answered by one::

    open    a Spec                              -> note
    scan    path, out                           -> points, stages (ms), cpu_ms
    folder  paths, out                          -> seconds
    memory                                      -> host_peak_mib

What cannot be done is answered with ``problem``.  Seconds are measured here, so that the lines cost nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from trt_landmarks.bench.machine import resident
from trt_landmarks.bench.ways import Opened, Spec, open_way
from trt_landmarks.errors import TrtlmError


class _Worker:
    def __init__(self) -> None:
        self.way: Opened | None = None

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        if "open" in order:
            self.way = open_way(Spec(**order["open"]))
            return {"note": self.way.note}
        if "memory" in order:
            return {"host_peak_mib": resident(peak=True)}
        assert self.way is not None
        if "scan" in order:
            cpu = time.process_time()
            points, stages = self.way.localize(Path(order["scan"]["path"]), Path(order["scan"]["out"]))
            cpu_ms = 1000 * (time.process_time() - cpu)  # of all threads of this process
            return {"points": None if points is None else points.tolist(), "stages": stages, "cpu_ms": cpu_ms}
        paths = [Path(path) for path in order["folder"]["paths"]]
        start = time.perf_counter()
        self.way.folder(paths, Path(order["folder"]["out"]))
        return {"seconds": time.perf_counter() - start}


def main() -> None:
    """Answer line after line until there are no more."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = _Worker()
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except TrtlmError as error:
            answer = {"problem": str(error)}
        except ModuleNotFoundError as error:
            answer = {"problem": f"the package {error.name} is not installed"}
        except Exception as error:  # of any library; the benchmark goes on without this way
            reason = (str(error).strip().splitlines() or [""])[0]
            answer = {"problem": f"{type(error).__name__}: {reason}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
