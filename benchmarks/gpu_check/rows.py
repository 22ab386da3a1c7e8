"""Rows of the report: what sections yield, and how they are written."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

OK, FAILED, MEASURED, NOT_RUN = "ok", "failed", "measured", "not run"

#: ``what``, ``result``, ``reason`` if there is something to say, and figures.
Row = dict[str, Any]


def row(what: str, result: str, reason: str = "", **figures: Any) -> Row:
    """One row; ``what`` is checked or measured, ``figures`` are plain data."""
    return {"what": what, "result": result, **({"reason": reason} if reason else {}), **figures}


def verdict(what: str, agrees: bool, reason: str = "", **figures: Any) -> Row:
    """A row that agrees or failed; the reason is told if it failed."""
    return row(what, OK if agrees else FAILED, "" if agrees else reason, **figures)


def latency(call: Callable[[], Any], runs: int = 30, warm_up: int = 5) -> dict[str, float]:
    """Wall time of a call that ends when its results are on the host: ``median_ms``, ``p90_ms``, ``runs``."""
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return {"median_ms": round(statistics.median(times), 3), "p90_ms": round(float(np.percentile(times, 90)), 3),
            "runs": runs}  # fmt: skip


def markdown(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = ["# GPU check", "", report["verdict"], ""]
    for section in report["sections"]:
        lines += [f"## {section['name']}", "", "| what | result | figures | reason |", "|---|---|---|---|"]
        for entry in section["rows"]:
            figures = "; ".join(
                f"{name} {_short(value)}" for name, value in entry.items() if name not in ("what", "result", "reason")
            )
            cells = (entry["what"], entry["result"], figures, entry.get("reason", ""))
            lines.append("| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |")
        lines += ["", f"{section['seconds']} s", ""]
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(entry)}" for name, entry in value.items())
    return ", ".join(map(_short, value)) if isinstance(value, list | tuple) else str(value)
