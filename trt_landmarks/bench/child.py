"""The process of a way (:mod:`trt_landmarks.bench.worker`), from outside.

Each way has a process of its own, so that none inherits memory, threads or settings from another, and one that
crashes or hangs takes none with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from trt_landmarks.bench.ways import Spec
from trt_landmarks.errors import EngineError

#: The process looks for modules where this one does, whatever its working folder.
_CODE = """
import sys
sys.path[:] = sys.argv[1].split("\\n")
from trt_landmarks.bench.worker import main
main()
"""
#: Seconds for an answer, unless told otherwise.
PATIENCE = 300.0


class Child:
    """A running process; close it, or use it as a context.

    Args:
        spec: the way.
        folder: for temporary files.

    Attributes:
        pid: of the process.
        started: when it was started, on the clock of ``time.perf_counter``.
        gone: whether it was ended or found dead.
    """

    def __init__(self, spec: Spec, folder: Path) -> None:
        self.spec = spec
        self._errors = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        threads = str(spec.threads)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
        }
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, "\n".join(os.path.abspath(entry) for entry in sys.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment,
            start_new_session=True,
        )  # fmt: skip
        self.pid = self._process.pid
        self.gone = False

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def open(self, seconds: float = PATIENCE) -> str:
        """Open the way; what it says of itself."""
        return str(self.ask({"open": self.spec.to_dict()}, seconds)["note"])

    def ask(self, order: dict[str, Any], seconds: float = PATIENCE) -> dict[str, Any]:
        """Send an order and wait for its answer.

        Raises:
            EngineError: if it cannot be done, the process ended, or no answer came in time.  After the latter two the
                process is gone.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        if self.gone:
            raise EngineError(f"{self.spec.way}: its process has ended.", code="worker_died")
        try:
            self._process.stdin.write((json.dumps(order) + "\n").encode())
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            self.close()
            raise EngineError(f"{self.spec.way}: did not answer within {seconds:.0f} s.", code="timeout")
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer = dict(json.loads(line))
        if "problem" in answer:
            raise EngineError(str(answer["problem"]))
        return answer

    def close(self) -> None:
        """End the process and all that it started."""
        self.gone = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _ended(self) -> EngineError:
        """What the process died of, as far as it could tell."""
        code = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read()[-2000:].decode(errors="replace").strip().splitlines()
        self.close()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        return EngineError(f"{self.spec.way}: its process {how}{f' ({last[-1]})' if last else ''}.", code="worker_died")
