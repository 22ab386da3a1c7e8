"""Two reports: what became slower, and whether that is more than the runs differ among themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_landmarks.bench.report import SCHEMA_VERSION
from trt_landmarks.bench.statistics import Ratio, change
from trt_landmarks.errors import TrtlmError
from trt_landmarks.files import read_text

#: What has to be the same for two reports to be comparable: where it is, and what it is called.
SAME = (
    (("model", "sha256"), "the model"),
    (("scans", "ids"), "the scans"),
    (("machine", "processor"), "the processor"),
    (("machine", "cores"), "the number of cores"),
    (("machine", "gpus"), "the GPUs"),
    (("method", "threads"), "the number of threads"),
    (("method", "torch_device"), "the device of PyTorch"),
)


@dataclass(frozen=True)
class Change:
    """How a figure changed.

    Attributes:
        what: the way, and ``warm``, ``cold`` or ``folder``.
        ratio: new time by old time.
        regressed: slower by more than the threshold, and the interval excludes no change.
    """

    what: str
    ratio: Ratio
    regressed: bool

    def line(self) -> str:
        """For people."""
        r = self.ratio
        interval = "too few runs for an interval" if r.low is None else f"{r.low:.3f} to {r.high:.3f}"
        return f"{self.what}: {r.value:.3f} times as long ({interval})" + ("  REGRESSION" if self.regressed else "")


def read_report(path: Path) -> dict[str, Any]:
    """A report of ``trtlm bench``.

    Raises:
        TrtlmError: if it is none, or of another version.
    """
    try:
        report = json.loads(read_text(path, TrtlmError, "benchmark report"))
        version = report["schema_version"]
        report["ways"], report["machine"], report["method"], report["scans"], report["model"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise TrtlmError(f"{path}: is not a report of trtlm bench.", "Name its bench.json.") from None
    if version != SCHEMA_VERSION:
        raise TrtlmError(f"{path}: has version {version!r}; this version reads {SCHEMA_VERSION!r}.")
    return dict(report)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What keeps two reports from being comparable; empty if nothing does."""
    found = []
    for (section, key), name in SAME:
        before, after = old[section].get(key), new[section].get(key)
        if before != after:
            found.append(f"{name} ({_short(before)} before, {_short(after)} now)")
    return found


def compare(old: Mapping[str, Any], new: Mapping[str, Any], threshold: float = 10.0) -> list[Change]:
    """How the ways of both reports changed.

    Args:
        old: the earlier report.
        new: the later one.
        threshold: percent that a time may grow.
    """
    before = {way["way"]: way for way in old["ways"]}
    changes = []
    for way in new["ways"]:
        if way["way"] not in before:
            continue
        earlier = before[way["way"]]
        changes.append(_change(f"{way['way']}, warm", earlier["samples_ms"], way["samples_ms"], threshold))
        cold, cold_now = ({"cold": one["cold_samples_ms"]} for one in (earlier, way))
        changes.append(_change(f"{way['way']}, cold", cold, cold_now, threshold))
    if old.get("throughput") and new.get("throughput"):
        olds, news = old["throughput"], new["throughput"]
        for name in olds["seconds"]:
            if name in news["seconds"]:
                then, now = ({"folder": [s / one["scans"] for s in one["seconds"][name]]} for one in (olds, news))
                changes.append(_change(f"{name}, folder", then, now, threshold))
    return changes


def _change(what: str, old: Mapping[str, Any], new: Mapping[str, Any], threshold: float) -> Change:
    found = change(old, new)
    certain = found.low is not None and found.low > 1
    return Change(what, found, certain and found.value > 1 + threshold / 100)


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
