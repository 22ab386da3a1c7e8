"""What is told of the machine, and what is not."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trt_landmarks.bench import machine


def test_the_machine_is_described_without_names_of_folders_or_hosts() -> None:
    found = machine.describe()
    assert found["processor"] and found["cores"] == len(found["affinity"]) >= 1
    assert (found["gpus"] == []) == (found["no_gpu"] is not None)
    text = json.dumps(machine.scrubbed([found, machine.versions(), machine.commit()]))
    assert str(Path.home()) not in text
    assert len(platform.node()) <= 2 or platform.node() not in text
    assert machine.versions()["numpy"]


def test_the_commit_is_that_of_the_checkout(repo_root: Path) -> None:
    if not (repo_root / ".git").exists():
        pytest.skip("not a checkout")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repo_root, capture_output=True, text=True, check=True)
    assert (machine.commit() or "").rstrip("+") == head.stdout.strip()


def test_work_of_own_processes_is_not_that_of_others() -> None:
    burn = "import time\nwhile True: pass"
    with subprocess.Popen([sys.executable, "-c", burn]) as busy:
        try:
            time.sleep(0.2)
            foreign = machine.others(lambda: time.sleep(0.5))
            own = machine.others(lambda: time.sleep(0.5), [busy.pid])
        finally:
            busy.kill()
    assert foreign > 0
    assert own < foreign + 0.5 / (os.cpu_count() or 1)


def test_the_peak_of_memory_is_this_process_own_and_stays() -> None:
    code = (
        "from trt_landmarks.bench.machine import resident\n"
        "before = resident(True); block = b'x' * (80 << 20); del block; print(before, resident(True), resident())"
    )
    ballast = bytearray(200 << 20)  # a child's own figure does not know what its parent has
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, peak, now = map(float, done.stdout.split())
    assert len(ballast) and before < 150
    assert peak >= before + 70 and now < peak - 70
