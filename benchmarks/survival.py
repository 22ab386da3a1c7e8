"""A run that nothing ends: scans whose reading crashes, hangs or eats memory, and kills at random moments.

    python -m benchmarks.survival --model BUNDLE --good 100 --bad 10 --kills 40

Small stand-in scans are made.  The good ones alone give what must come out.  Then bad ones are put among them: the run
must go on, give the good ones the same to the bit, and fail each bad one with its own code.  Then the same run is
killed at random moments, and goes on with ``--resume`` each time: in the end nothing may differ, and no journal and no
process may be left.  What bad scans do is in ``tests/runs/hostile.py``, with which the command reads here.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks.geometry import Geometry
from trt_landmarks.scan import Scan, write_scan

#: What happens while a scan of that name is read, and the codes that its case may have.
KINDS = {
    "segfault": {"reader_crashed"}, "hang": {"timeout"}, "eat": {"out_of_memory", "timeout"},
    "abort": {"reader_crashed"}, "killed": {"out_of_memory"}, "spin": {"timeout"}, "leave": {"reader_crashed"},
}  # fmt: skip
#: Seconds that reading a scan may take here.
TIMEOUT = 3.0
#: Memory that the command, and each reader, may have.
MEMORY = "3G"
#: The command, reading with the hostile reader.
CODE = """
from tests.runs.hostile import hostile_read
from trt_landmarks.cli import main
from trt_landmarks.runs import batch
batch.read_scan = hostile_read
main()"""


def make_scans(folder: Path, good: int, bad: int) -> None:
    """Good scans, and bad ones among them."""
    geometry = Geometry((20, 22, 24), (0.9, 1.0, 1.1), (-3.0, 4.0, 5.0), np.eye(3))
    names = [f"good-{n:03}" for n in range(good)]
    names += [f"{kind}-{n:03}" for n, kind in enumerate(islice(cycle(KINDS), bad))]
    random.Random(0).shuffle(names)
    for number, name in enumerate(names):
        voxels = np.random.default_rng(number).integers(0, 255, (24, 22, 20), dtype=np.uint8)
        below = folder / f"{number:03}"  # scans come in order of path
        below.mkdir(parents=True)
        write_scan(Scan(name, None, voxels, geometry), below / f"{name}.nii.gz")


def start(scans: Path, out: Path, model: str, *more: str) -> subprocess.Popen[str]:
    """The command over the scans."""
    arguments = [
        "infer",
        scans,
        "--out",
        out,
        "--model",
        model,
        "--timeout",
        TIMEOUT,
        "--quiet",
        "--limit-memory",
        MEMORY,
        *more,
    ]
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def cases_of(out: Path) -> dict[str, Any]:
    """Id to case, without times."""
    cases = json.loads(out.read_text())["cases"]
    return {case["id"]: {key: value for key, value in case.items() if key != "timing_ms"} for case in cases}


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """What is not as it must be."""
    problems = [f"{name} is not the same" for name, case in expected.items() if found.get(name) != case]
    for name, case in found.items():
        kind = name.split("-")[0]
        code = (case["error"] or {}).get("code")
        if kind in KINDS and code not in KINDS[kind]:
            problems.append(f"{name}: {code}")
    return problems


def processes(folder: Path) -> list[int]:
    """Processes that have a file of the folder open, or its name on their command line."""
    found = []
    for one in Path("/proc").iterdir():
        try:
            if one.name.isdecimal() and str(folder).encode() in (one / "cmdline").read_bytes():
                found.append(int(one.name))
        except OSError:
            continue
    return found


def survive(folder: Path, model: str, good: int, bad: int, kills: int, seed: int) -> list[str]:
    """Run all of it; what went wrong."""
    chance = random.Random(seed)
    scans, out = folder / "scans", folder / "out.json"
    make_scans(scans, good, bad)
    alone = start(scans, folder / "alone.json", model, "--include", "good-*")
    begun = time.perf_counter()
    message = alone.communicate()[1]
    took = time.perf_counter() - begun
    if alone.returncode != 0:
        return [f"the good ones alone: exit code {alone.returncode}: {message}"]
    expected = cases_of(folder / "alone.json")
    among = start(scans, out, model)
    message = among.communicate()[1]
    problems = [] if among.returncode == (1 if bad else 0) else [f"exit code {among.returncode}: {message}"]
    found = cases_of(out)
    problems += differences(found, expected)
    print(f"{good} good and {bad} bad scans: {len(found)} cases, problems: {problems or 'none'}", flush=True)

    out.unlink()
    done = 0
    for number in range(kills):
        run = start(scans, out, model, "--resume")
        try:
            run.wait(chance.uniform(0.3, took))
            done += 1
            break  # it was finished before
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.communicate()
            done = number + 1
    last = start(scans, out, model, "--resume")
    message = last.communicate()[1]
    if last.returncode != (1 if bad else 0):
        problems.append(f"after the kills: exit code {last.returncode}: {message}")
    after = cases_of(out)
    problems += differences(after, expected)
    problems += [f"{name} is missing" for name in found.keys() - after.keys()]
    problems += [f"{one.name} was left" for one in folder.iterdir() if one.name.startswith((".out", "out.json."))]
    time.sleep(1)
    problems += [f"process {pid} was left" for pid in processes(folder)]
    print(f"{done} kills: {len(after)} cases, problems: {problems or 'none'}", flush=True)
    return problems


def main() -> None:
    """Run it; exit code 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="bundle folder or shipped model")
    parser.add_argument("--good", type=int, default=100)
    parser.add_argument("--bad", type=int, default=10)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        problems = survive(Path(name), options.model, options.good, options.bad, options.kills, options.seed)
    raise SystemExit(1 if problems else 0)


if __name__ == "__main__":
    main()
