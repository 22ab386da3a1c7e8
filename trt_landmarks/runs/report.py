"""The report of a run: what ran where, how much of it went well, and how long it took.

``report.schema.json`` in the package describes it for other tools (JSON Schema 2020-12).  It names no host and no
paths but those that the user named.
"""

from __future__ import annotations

import json
import platform
import statistics
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from trt_landmarks import __version__
from trt_landmarks.errors import TrtlmError
from trt_landmarks.files import write_text
from trt_landmarks.results.case import CaseResult
from trt_landmarks.results.predictions import Predictions
from trt_landmarks.runs.memory import resident_memory
from trt_landmarks.system import cores, installed_versions, memory_bytes, processor

SCHEMA_VERSION = "1"
#: The report's JSON Schema.
SCHEMA_FILE = Path(__file__).with_name("report.schema.json")
#: Packages whose versions may change results.
PACKAGES = (
    "numpy", "onnxruntime", "openvino", "SimpleITK", "pydicom", "isal", "tensorrt-cu13", "tensorrt-rtx-cu13",
    "nvidia-dali-cuda130",
)  # fmt: skip


@dataclass
class Tally:
    """What came of the cases.

    Attributes:
        scans: that were named.
        ok: cases with landmarks, of those that were named.
        failures: code to number of failed cases, of those that were named.
        warnings: code to number of cases with it, the same.
        low: cases with a landmark of low confidence, of those that were named.
        before: cases that an earlier run had done.
        computed: cases of this run.
        stages: step to its milliseconds in each case of this run.
    """

    scans: int
    ok: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    low: int = 0
    before: int = 0
    computed: int = 0
    stages: dict[str, array[float]] = field(default_factory=dict)

    def add(self, case: CaseResult, before: bool = False) -> None:
        """Count a case.

        Args:
            case: of a scan that was named.
            before: whether an earlier run had done it.
        """
        if case.error is None:
            self.ok += 1
        else:
            self.failures[case.error.code] += 1
        codes = {warning.code for warning in case.warnings}
        self.warnings.update(codes)
        if "not_this_anatomy" not in codes:
            self.low += any(mark.status == "low_confidence" for mark in case.landmarks)
        if before:
            self.before += 1
            return
        self.computed += 1
        for step, milliseconds in case.timing_ms.items():
            self.stages.setdefault(step, array("d")).append(milliseconds)

    @property
    def failed(self) -> int:
        """Failed cases."""
        return self.failures.total()

    @property
    def wrong(self) -> int:
        """Cases that do not show the anatomy: none of their landmarks is to be relied on."""
        return self.warnings["not_this_anatomy"]

    @property
    def done(self) -> int:
        """Cases."""
        return self.ok + self.failed


def run_report(
    header: Predictions,
    out: Path,
    found: Tally,
    settings: Mapping[str, Any],
    *,
    started: datetime,
    seconds: float,
    status: str,
    problem: str | None,
    exit_code: int,
) -> dict[str, Any]:
    """The report.

    Args:
        header: task, model and engine.
        out: the results file, as the user named it.
        found: what came of the cases.
        settings: what the user chose.
        started: when, with its time zone.
        seconds: that the run took.
        status: ``finished``, ``interrupted`` or ``failed``.
        problem: what ended a failed run.
        exit_code: of the command.
    """
    stages = {
        step: {
            "sum": round(sum(values), 3),
            "median": round(statistics.median(values), 3),
            "max": round(max(values), 3),
        }
        for step, values in found.stages.items()
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "status": status,
        "problem": problem,
        "exit_code": exit_code,
        "started": started.astimezone(timezone.utc).isoformat(timespec="seconds"),
        "ended": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "results": str(out),
        "task": header.task,
        "model": {key: header.model.get(key) for key in ("name", "sha256")},
        "engine": {key: header.engine.get(key) for key in ("name", "precision", "provider", "preprocessing")},
        "settings": dict(settings),
        "versions": {"trt-landmarks": __version__, "python": platform.python_version(), **installed_versions(PACKAGES)},
        "machine": _machine(),
        "counts": {
            "scans": found.scans,
            "ok": found.ok,
            "failed": found.failed,
            "not_done": found.scans - found.done,
            "computed": found.computed,
            "from_before": found.before,
        },
        "failures": dict(sorted(found.failures.items())),
        "warnings": dict(sorted(found.warnings.items())),
        "seconds": round(seconds, 3),
        "scans_per_second": round(found.computed / seconds, 4) if seconds > 0 else None,
        "stages_ms": stages,
        "peak_memory_bytes": _peak(),
    }


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report.

    Raises:
        TrtlmError: if it cannot be written.
    """
    write_text(path, json.dumps(report, indent=1) + "\n", TrtlmError)


def _machine() -> dict[str, Any]:
    """Facts of the machine that decide how fast it is; nothing that tells which machine it is."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": processor(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
    }


def _peak() -> int | None:
    try:
        return resident_memory(peak=True)
    except TrtlmError:
        return None
