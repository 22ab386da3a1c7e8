"""``trtlm doctor``, and ``python -m trt_landmarks.doctor.command``, which works where even ``trtlm`` does not start."""

from __future__ import annotations

import json
import sys
import time

from trt_landmarks.doctor.facts import gather
from trt_landmarks.doctor.report import make_report, render


def doctor(as_json: bool = False, deep: bool = False) -> int:
    """Print the report; returns the exit code: 0 if inference on the CPU works here, 2 if not.

    Args:
        as_json: print JSON (its keys: :mod:`trt_landmarks.doctor`) instead of text.
        deep: load the slow packages too, and give every package a minute.
    """
    start = time.perf_counter()
    facts = gather(deep)
    report = make_report(facts, time.perf_counter() - start)
    text = json.dumps(report, indent=1) if as_json else render(report)
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))  # settings may hold any bytes
    return 0 if report["verdict"]["ok"] else 2


if __name__ == "__main__":
    raise SystemExit(doctor("--json" in sys.argv, "--deep" in sys.argv))
