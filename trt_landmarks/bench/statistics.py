"""What is said of timings: nothing is left out, and ratios have intervals.

* **Percentiles** interpolate linearly between the sorted values; with fewer than a hundred values, p99 is little else
  than the largest of them.
* **Ratio** of two ways: they take turns, so each of their runs has a neighbour, the other's run on the same scan in the
  same round.  What the machine does meanwhile (heat, other processes) hits both, and leaves the ratio within a pair.
  The figure is the median of these ratios; the interval is a percentile bootstrap over the pairs.
* **Change** between two reports: their runs have no neighbours.  The figure is the geometric mean over the scans of
  the ratio of medians; the bootstrap resamples the runs of each scan in each report.  It knows how much runs
  differ within a report, not how much reports of the same machine differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

#: Resamples of every interval, and what they cover.
RESAMPLES = 2000
COVERAGE = 0.95


@dataclass(frozen=True)
class Summary:
    """Timings in a few figures, in their own unit."""

    n: int
    mean: float
    p50: float
    p90: float
    p99: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Ratio:
    """A ratio of times and its interval; ``low`` and ``high`` are None where there is too little for one."""

    value: float
    low: float | None
    high: float | None
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {name: None if value is None else round(value, 4) for name, value in asdict(self).items()}


def summarize(values: Sequence[float]) -> Summary:
    """The figures of at least one timing."""
    array = np.asarray(values, dtype=np.float64)
    p50, p90, p99 = (float(p) for p in np.percentile(array, [50, 90, 99]))
    return Summary(len(array), float(array.mean()), p50, p90, p99)


def ratio(baseline: Sequence[float], way: Sequence[float], seed: int = 0) -> Ratio:
    """How many times faster a way is than a baseline.

    Args:
        baseline: times, at least one.
        way: times of the same scans in the same rounds, in the same order.
        seed: of the resampling.
    """
    pairs = np.asarray(baseline, dtype=np.float64) / np.asarray(way, dtype=np.float64)
    if len(pairs) < 2:
        return Ratio(float(pairs[0]), None, None, len(pairs))
    chosen = np.random.default_rng(seed).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    low, high = _interval(np.median(pairs[chosen], axis=1))
    return Ratio(float(np.median(pairs)), low, high, len(pairs))


def change(old: Mapping[str, Sequence[float]], new: Mapping[str, Sequence[float]], seed: int = 0) -> Ratio:
    """How many times as long it takes now: above 1 is slower.

    Args:
        old: scan to times.
        new: the same of the later report; only scans of both count, of which there must be one.
        seed: of the resampling.
    """
    generator = np.random.default_rng(seed)
    scans = [scan for scan in old if scan in new]
    value, resampled, fewest = 0.0, np.zeros(RESAMPLES), min(len(one[scan]) for one in (old, new) for scan in scans)
    for times, sign in ((new, 1), (old, -1)):
        for scan in scans:
            array = np.asarray(times[scan], dtype=np.float64)
            value += sign * float(np.log(np.median(array)))
            chosen = generator.integers(0, len(array), (RESAMPLES, len(array)))
            resampled += sign * np.log(np.median(array[chosen], axis=1))
    result = float(np.exp(value / len(scans)))
    if fewest < 2:
        return Ratio(result, None, None, fewest * len(scans))
    low, high = _interval(np.exp(resampled / len(scans)))
    return Ratio(result, low, high, fewest * len(scans))


def spread(values: Any) -> dict[str, float]:
    """Median and range, for JSON."""
    return {"median": round(float(np.median(values)), 3), "min": round(float(np.min(values)), 3),
            "max": round(float(np.max(values)), 3)}  # fmt: skip


def _interval(resampled: Any) -> tuple[float, float]:
    tail = 50 * (1 - COVERAGE)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return float(low), float(high)
