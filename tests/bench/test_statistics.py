"""Figures of timings whose true values are known."""

from __future__ import annotations

import numpy as np
import pytest

from trt_landmarks.bench.statistics import change, ratio, spread, summarize

#: Repetitions of an experiment with a known answer, and the runs in each.
EXPERIMENTS, RUNS = 200, 25


def lognormal(generator: np.random.Generator, median: float, sigma: float = 0.1, count: int = RUNS):
    return median * np.exp(sigma * generator.normal(size=count))


def test_percentiles_interpolate_and_nothing_is_left_out() -> None:
    found = summarize([*range(1, 101), 100000])
    assert (found.n, found.p50, found.p90, found.p99) == (101, 51, 91, 100)
    assert found.mean == pytest.approx((5050 + 100000) / 101)
    one = summarize([7.0])
    assert (one.n, one.mean, one.p50, one.p90, one.p99) == (1, 7, 7, 7, 7)
    assert summarize([0.0, 10.0]).p90 == pytest.approx(9)


def test_a_ratio_of_known_times() -> None:
    found = ratio([30.0, 60.0, 90.0], [10.0, 20.0, 30.0])
    assert (found.value, found.low, found.high, found.n) == (3, 3, 3, 3)
    alone = ratio([3.0], [2.0])
    assert (alone.value, alone.low, alone.high) == (1.5, None, None)
    assert ratio([1.0, 2, 3], [3.0, 2, 1]) == ratio([1.0, 2, 3], [3.0, 2, 1])  # the seed decides


def test_what_hits_both_neighbours_leaves_the_ratio_within_them() -> None:
    drift = np.exp(np.linspace(0, 3, RUNS))  # twenty times slower in the end
    generator = np.random.default_rng(0)
    baseline, way = lognormal(generator, 200, 0.01) * drift, lognormal(generator, 100, 0.01) * drift
    found = ratio(baseline, way)
    assert found.low is not None and found.high is not None
    assert found.value == pytest.approx(2, rel=0.02) and found.high - found.low < 0.05
    assert np.percentile(baseline, 90) > 10 * np.percentile(baseline, 10)


@pytest.mark.parametrize("heavy", [False, True])
def test_the_interval_of_a_ratio_covers_the_truth_about_as_often_as_it_says(heavy: bool) -> None:
    generator, hits = np.random.default_rng(1), 0
    for _ in range(EXPERIMENTS):
        common = lognormal(generator, 1, 0.5)
        baseline, way = lognormal(generator, 300) * common, lognormal(generator, 100) * common
        if heavy:  # now and then something else runs
            baseline = baseline * np.where(generator.random(RUNS) < 0.1, 5, 1)
            way = way * np.where(generator.random(RUNS) < 0.1, 5, 1)
        found = ratio(baseline, way)
        assert found.low is not None and found.high is not None
        hits += found.low <= 3 <= found.high
    assert 0.9 <= hits / EXPERIMENTS <= 0.99


def test_a_change_of_known_times_whatever_the_scans_take() -> None:
    old = {"small": [10.0, 10, 10], "large": [1000.0, 1000, 1000], "gone": [1.0]}
    new = {"small": [12.0, 12, 12], "large": [1200.0, 1200, 1200], "added": [9.0]}
    found = change(old, new)
    assert found.value == pytest.approx(1.2) and found.low == pytest.approx(1.2)
    assert change({"a": [1.0]}, {"a": [2.0]}).low is None


def test_the_interval_of_a_change_covers_no_change_about_as_often_as_it_says() -> None:
    generator, hits = np.random.default_rng(2), 0
    for _ in range(EXPERIMENTS):
        old, new = ({str(n): lognormal(generator, 50 * (n + 1), count=5) for n in range(5)} for _ in range(2))
        found = change(old, new)
        assert found.low is not None and found.high is not None
        hits += found.low <= 1 <= found.high
    assert 0.88 <= hits / EXPERIMENTS <= 0.99


def test_spread() -> None:
    assert spread([3, 1, 2.00049]) == {"median": 2.0, "min": 1.0, "max": 3.0}
