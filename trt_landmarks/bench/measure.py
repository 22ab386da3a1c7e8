"""Rounds: ways take turns on the same scans, so that whatever the machine does meanwhile hits all of them alike.

In each round every way runs every scan once.  The order of the ways turns by one from scan to scan (A B C, B C A,
C A B, ...).  Every run counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trt_landmarks.bench.child import PATIENCE, Child
from trt_landmarks.bench.machine import gpu_memory_used, others, seconds
from trt_landmarks.bench.ways import Spec, Way
from trt_landmarks.errors import EngineError
from trt_landmarks.geometry import Floats
from trt_landmarks.scan import ScanFile

Say = Callable[[str], None]

#: A way is warm when its last runs of the first scan are this close (slowest to fastest) ...
STABLE_RUNS, STABLE_RATIO = 3, 1.1
#: ... or after so many runs, or so many seconds.
MOST_RUNS, MOST_SECONDS = 8, 20.0


@dataclass
class Subject:
    """A way that is measured, and what was measured of it.

    Attributes:
        way: which.
        spec: how it is opened.
        note: what it says of itself.
        child: its process; None before and after.
        samples: scan id to the milliseconds of its runs, all stages together, round after round.
        stages: stage to the milliseconds of all runs in the order they were made.
        cpu: processor time of the same runs, all threads of its process together, ms.
        points: scan id to the points ``[N, 3]`` that it found last (LPS mm).
        cold: milliseconds from the start of a process to the first scan's results, for each process.
        host_peak_mib: most memory of the process.
        device_mib: memory on the GPU that came into use when it was opened and warm; None without a GPU.
        warm_up: ``runs``, and whether it became ``stable``.
        problem: why it ended before its time; empty if it did not.
    """

    way: Way
    spec: Spec
    note: str = ""
    child: Child | None = None
    samples: dict[str, list[float]] = field(default_factory=dict)
    stages: dict[str, list[float]] = field(default_factory=dict)
    cpu: list[float] = field(default_factory=list)
    points: dict[str, Floats] = field(default_factory=dict)
    cold: list[float] = field(default_factory=list)
    host_peak_mib: float | None = None
    device_mib: float | None = None
    warm_up: dict[str, float | bool] = field(default_factory=dict)
    problem: str = ""

    def start(self, first: ScanFile, folder: Path, cold: int = 1) -> None:
        """Start its process ``cold`` times, each time up to the results of a scan; the last one stays.

        Raises:
            EngineError: if the way cannot run.
        """
        for _ in range(max(1, cold)):
            self.close()
            before = gpu_memory_used()
            self.child = Child(self.spec, folder)
            self.note = self.child.open()
            self._ask(first, folder)
            self.cold.append(1000 * (time.perf_counter() - self.child.started))
        self._warm(first, folder)
        used = gpu_memory_used()
        self.device_mib = None if before is None or used is None else used - before

    def run(self, file: ScanFile, folder: Path) -> float:
        """One run that counts; its milliseconds."""
        points, stages, cpu_ms = self._ask(file, folder)
        self.cpu.append(cpu_ms)
        for stage, taken in stages.items():
            self.stages.setdefault(stage, []).append(taken)
        total = sum(stages.values())
        self.samples.setdefault(file.id, []).append(total)
        if points is not None:
            self.points[file.id] = points
        return total

    def finish(self) -> None:
        """Take the memory's peak, and end the process."""
        if self.child is not None:
            try:
                self.host_peak_mib = self.child.ask({"memory": True}, 10)["host_peak_mib"]
            except EngineError:
                pass
        self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        if self.child is not None:
            self.child.close()
            self.child = None

    def out(self, folder: Path) -> Path:
        """Where its results go."""
        return folder / f"{self.way.name}.json"

    def _warm(self, first: ScanFile, folder: Path) -> None:
        times: list[float] = []
        stable = False
        while not stable and len(times) < MOST_RUNS and sum(times) < 1000 * MOST_SECONDS:
            times.append(sum(self._ask(first, folder)[1].values()))
            last = times[-STABLE_RUNS:]
            stable = len(last) == STABLE_RUNS and max(last) <= STABLE_RATIO * min(last)
        self.warm_up = {"runs": len(times), "stable": stable}

    def _ask(self, file: ScanFile, folder: Path) -> tuple[Floats | None, dict[str, float], float]:
        assert self.child is not None
        answer = self.child.ask({"scan": {"path": str(file.path.resolve()), "out": str(self.out(folder))}})
        points = answer["points"]
        return None if points is None else np.asarray(points, dtype=np.float64), answer["stages"], answer["cpu_ms"]


def turned(subjects: Sequence[Subject], turn: int) -> list[Subject]:
    """The order of a turn, without those that have ended."""
    first = turn % len(subjects)
    return [one for one in (*subjects[first:], *subjects[:first]) if not one.problem]


def take_turns(
    subjects: Sequence[Subject], files: Sequence[ScanFile], rounds: int, folder: Path, say: Say = lambda text: None
) -> list[float]:
    """Run all rounds; the share of the cores that other processes had in each.

    A way that fails is ended and left out from then on, with the reason in its ``problem``.
    """
    shares = []
    for number in range(rounds):

        def one_round(number: int = number) -> None:
            for position, file in enumerate(files):
                for subject in turned(subjects, number * len(files) + position):
                    try:
                        subject.run(file, folder)
                    except EngineError as error:
                        subject.problem = f"stopped in round {number + 1}, scan {file.id}: {error.message}"

        alive = [one.child.pid for one in subjects if one.child is not None and not one.problem]
        shares.append(_share(one_round, alive))
        ways = len([one for one in subjects if not one.problem])
        say(f"round {number + 1} of {rounds}: {ways} ways, {len(files)} scans, others {100 * shares[-1]:.0f} %")
    return shares


def folder_turns(
    subjects: Sequence[Subject], files: Sequence[ScanFile], rounds: int, folder: Path, say: Say = lambda text: None
) -> dict[str, list[float]]:
    """Seconds that ways take for all files, each round in turn."""
    taken: dict[str, list[float]] = {subject.way.name: [] for subject in subjects}
    paths = [str(file.path.resolve()) for file in files]
    for number in range(rounds):
        for subject in turned(subjects, number):
            assert subject.child is not None
            order = {"folder": {"paths": paths, "out": str(subject.out(folder))}}
            try:
                taken[subject.way.name].append(subject.child.ask(order, PATIENCE + 20 * len(files))["seconds"])
            except EngineError as error:
                subject.problem = error.message
        say(f"folder of {len(files)} scans, round {number + 1} of {rounds}")
    return taken


def _share(action: Callable[[], None], pids: Sequence[int]) -> float:
    """Share of the cores that others had during an action; NaN where it cannot be told."""
    done = False

    def once() -> None:
        nonlocal done
        done = True
        action()

    try:
        return others(once, pids)
    except OSError:  # not Linux, or a process ended meanwhile
        if not done:
            seconds(once)
        return float("nan")
