"""Rounds: who runs when, and what becomes of a way that fails in the middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trt_landmarks.bench.child import Child
from trt_landmarks.bench.measure import MOST_RUNS, Subject, folder_turns, take_turns, turned
from trt_landmarks.bench.ways import Spec, Way
from trt_landmarks.errors import EngineError
from trt_landmarks.scan import ScanFile

FILES = [ScanFile(name, Path(f"{name}.nii.gz")) for name in ("s", "t")]


class StandIn(Child):
    """A process that answers at once, and tells what it was asked for."""

    log: list[tuple[str, str]]

    def __init__(self, name: str, log: list[tuple[str, str]], times: Any = None, fails_at: int | None = None) -> None:
        self.name, self.log, self.times, self.fails_at, self.asked = name, log, times or (lambda n: 10.0), fails_at, 0
        self.pid = 1

    def ask(self, order: dict[str, Any], seconds: float = 1) -> dict[str, Any]:
        self.asked += 1
        if self.asked == self.fails_at:
            raise EngineError("broken")
        if "folder" in order:
            return {"seconds": 2.0}
        self.log.append((self.name, Path(order["scan"]["path"]).name[0]))
        return {"points": [[self.asked, 0, 0]], "stages": {"read": 1.0, "coarse": self.times(self.asked) - 1},
                "cpu_ms": 15.0}  # fmt: skip

    def close(self) -> None:
        pass


def subjects(log: list[tuple[str, str]], **fails_at: int) -> list[Subject]:
    made = [Subject(Way(name, "", "torch"), Spec(name, "torch")) for name in "abc"]
    for one in made:
        one.child = StandIn(one.way.name, log, fails_at=fails_at.get(one.way.name))
    return made


def test_the_order_turns_from_scan_to_scan_and_all_runs_count(tmp_path: Path) -> None:
    log: list[tuple[str, str]] = []
    ways = subjects(log)
    take_turns(ways, FILES, 3, tmp_path)
    assert ["".join(name for name, _ in log[n : n + 3]) for n in range(0, 18, 3)] == ["abc", "bca", "cab"] * 2
    assert [scan for _, scan in log] == [scan for _ in range(3) for scan in "st" for _ in range(3)]
    assert sorted(name for name, _ in log) == sorted("abc" * 6)
    for one in ways:
        assert one.samples == {"s": [10.0] * 3, "t": [10.0] * 3}
        assert one.cpu == [15.0] * 6
        assert one.stages == {"read": [1.0] * 6, "coarse": [9.0] * 6}
        np.testing.assert_array_equal(one.points["t"], [[6, 0, 0]])  # the last


def test_a_way_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    log: list[tuple[str, str]] = []
    ways = subjects(log, b=3)
    take_turns(ways, FILES, 2, tmp_path)
    assert "round 2, scan s: broken" in ways[1].problem
    assert [name for name, _ in log].count("b") == 2
    assert all(len(one.samples["s"]) == 2 and not one.problem for one in (ways[0], ways[2]))
    assert [one.way.name for one in turned(ways, 1)] == ["c", "a"]


def test_folders_are_timed_in_turn(tmp_path: Path) -> None:
    ways = subjects([], c=2)
    assert folder_turns(ways, FILES, 2, tmp_path) == {"a": [2.0, 2.0], "b": [2.0, 2.0], "c": [2.0]}
    assert ways[2].problem == "broken"


@pytest.mark.parametrize(
    ("times", "runs", "stable"),
    [(lambda n: 10.0, 3, True), (lambda n: 100.0 / n, 8, False), (lambda n: 50.0 if n < 3 else 10.0, 5, True)],
)
def test_warm_is_who_stays_the_same(times: Any, runs: int, stable: bool, tmp_path: Path) -> None:
    subject = subjects([])[0]
    subject.child = StandIn("a", [], times)
    subject._warm(FILES[0], tmp_path)
    assert subject.warm_up == {"runs": runs, "stable": stable} and runs <= MOST_RUNS
    assert not subject.samples  # none of them counts
