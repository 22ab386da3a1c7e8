"""Loading packages in processes of their own, all at once, each with its own time limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from trt_landmarks.doctor.probe import plain

#: How much nicer a polite process is.
POLITE = 5
#: The child looks for modules where this process does, whatever its working folder.
_CODE = """
import os, sys
os.nice(int(sys.argv.pop(1)))
sys.path[:] = sys.argv.pop(1).split("\\n")
from trt_landmarks.doctor.probe import main
main(sys.argv[1:])
"""


@dataclass(frozen=True)
class Answer:
    """What came of one step.

    Attributes:
        state: ``loaded``; ``missing`` (not installed); ``failed`` (raises or ends the process); ``late`` (did not
            finish in time); ``untried`` (an earlier step of the same process did not finish).
        facts: what the step found out.
        problem: why it is not loaded, one line.
    """

    state: str
    facts: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def loaded(self) -> bool:
        """Whether it works."""
        return self.state == "loaded"


@dataclass(frozen=True)
class Group:
    """Steps for one process.

    Attributes:
        steps: keys of :data:`trt_landmarks.doctor.probe.STEPS`, taken in order.
        seconds: time for all of them.
        polite: whether other processes go first.
    """

    steps: tuple[str, ...]
    seconds: float
    polite: bool = False


def ask(groups: Sequence[Group]) -> dict[str, Answer]:
    """Take all groups' steps, every group in its own process, all at once.

    Returns:
        Step to its answer: every step has one, whatever the packages do.
    """
    with ThreadPoolExecutor(max_workers=max(1, len(groups))) as pool:
        answers: dict[str, Answer] = {}
        for found in pool.map(_ask, groups):
            answers.update(found)
    return answers


def _ask(group: Group) -> dict[str, Answer]:
    command = [sys.executable, "-c", _CODE, str(POLITE * group.polite), "\n".join(sys.path), *group.steps]
    start = time.monotonic()
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return {step: Answer("failed", problem=f"no process can be started: {plain(error)}") for step in group.steps}
    late = False
    try:
        output, _ = child.communicate(timeout=max(0.0, group.seconds - (time.monotonic() - start)))
    except subprocess.TimeoutExpired:
        late = True
        output = _kill(child)
    except BaseException:
        _kill(child)
        raise
    return _read(group, output, child.returncode, late)


def _kill(child: subprocess.Popen[str]) -> str:
    """End a child and what it started; returns what it had told."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except OSError:
        child.kill()
    try:
        return child.communicate(timeout=1)[0]
    except subprocess.TimeoutExpired:  # something that left the child's group holds the pipe
        return ""


def _read(group: Group, output: str, code: int | None, late: bool) -> dict[str, Answer]:
    """The answers among the lines of a child."""
    answers: dict[str, Answer] = {}
    last = ""
    for line in output.splitlines():
        try:
            told = json.loads(line)
            last = told["step"]
            if told["state"] != "started":
                answers[last] = Answer(told["state"], told["facts"], told["problem"])
        except (ValueError, TypeError, KeyError):  # half a line, or not the child's
            continue
    for step in group.steps:
        if step in answers:
            continue
        if step == last or not last:
            answers[step] = (
                Answer("late", problem=f"did not load within {group.seconds:g} s")
                if late
                else Answer("failed", problem=f"loading it ends the process ({_ending(code)})")
            )
        else:
            answers[step] = Answer("untried", problem=f"not tried, because of {last}")
    return answers


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"
