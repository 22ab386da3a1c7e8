"""What serving costs: scans a second of `trtlm serve` against `trtlm infer` in the same run, and hostile uploads.

    python -m benchmarks.server --scans FOLDER --model brain-afids --out server.json
    python -m benchmarks.server --scans FOLDER --hostile 500

Both sides take turns with the same files, engine and threads; each figure is the median of the ratios of the rounds.
With one client the other side reads and computes scan after scan, as one client does; with more it is a run over all
of them.  CPU time counts the server without its clients.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from trt_landmarks.bundles.bundle import open_bundle
from trt_landmarks.runs.batch import infer
from trt_landmarks.runs.workers import Workers, open_workers
from trt_landmarks.scan import ScanFile, find_scans

CLIENTS = (1, 4, 16)


class Served:
    """A server in a process of its own."""

    def __init__(self, model: str, *options: str) -> None:
        command = [sys.executable, "-m", "trt_landmarks", "serve", "--model", model, "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = next(line for line in self.process.stderr if line.startswith("serving at "))
        self.client = httpx.Client(base_url=line.split()[-1], timeout=600)
        self.model = model

    def ask(self, name: str, content: bytes) -> int:
        """Send a scan; gives the HTTP status."""
        answer = self.client.post(f"infer/{self.model}", files={"file": (name, content)})
        if "multipart" not in answer.headers.get("content-type", "") and answer.status_code == 200:
            raise RuntimeError("the server gave no result")
        return answer.status_code

    def cpu(self) -> float:
        """CPU seconds of the server."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> float:
        """MiB of memory that the server has."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def close(self) -> None:
        self.process.terminate()
        if self.process.wait(60) != 0:
            raise RuntimeError("the server did not end cleanly")


def timed(run: Callable[[], object], cpu: Callable[[], float]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    start, before = time.perf_counter(), cpu()
    run()
    return time.perf_counter() - start, cpu() - before


def direct(files: list[ScanFile], workers: Workers, alone: bool) -> None:
    cases: list[Any] = []
    for some in [[file] for file in files] if alone else [files]:
        infer(some, workers.localizers, cases.extend)
    if any(case.error is not None for case in cases):
        raise RuntimeError("a scan failed")


def compare(served: Served, workers: Workers, files: list[ScanFile], clients: int, rounds: int) -> dict[str, Any]:
    """Ratios of the server to a direct run, over scans taken in turns."""
    contents = [(file.path.name, file.path.read_bytes()) for file in files]
    ratios, cpu_ratios, seconds = [], [], []
    with ThreadPoolExecutor(clients) as pool:
        for number in range(rounds + 1):
            ours = timed(lambda: direct(files, workers, clients == 1), time.process_time)
            theirs = timed(lambda: list(pool.map(lambda one: served.ask(*one), contents)), served.cpu)
            if number:  # the first round warms both up
                ratios.append(theirs[0] / ours[0])
                cpu_ratios.append(theirs[1] / ours[1])
                seconds.append(theirs[0] / len(files))
    return {
        "clients": clients, "scans": len(files), "rounds": rounds,
        "wall_ratio": round(statistics.median(ratios), 3), "wall_ratios": [round(one, 3) for one in ratios],
        "cpu_ratio": round(statistics.median(cpu_ratios), 3), "seconds_per_scan": round(statistics.median(seconds), 3),
    }  # fmt: skip


def hostile(served: Served, good: ScanFile, count: int) -> dict[str, Any]:
    """Damaged and random files, in turn with good ones, several at a time."""
    rng = random.Random(1)
    content = good.path.read_bytes()
    endings = [".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".nhdr", ".dcm", ".npz", ".zip", ""]

    def bad() -> tuple[str, bytes]:
        damaged = bytearray(content if rng.random() < 0.6 else rng.randbytes(rng.randint(0, 1 << 16)))
        for _ in range(rng.randint(1, 30) if damaged else 0):
            damaged[rng.randrange(min(len(damaged), 4096) if rng.random() < 0.5 else len(damaged))] = rng.randrange(256)
        return f"scan{rng.choice(endings)}", bytes(
            damaged[: rng.randint(0, len(damaged))] if rng.random() < 0.3 else damaged
        )

    answers: Counter[int] = Counter()
    good_answers: Counter[int] = Counter()
    memory = []
    with ThreadPoolExecutor(4) as pool:
        for _ in range(0, count, 20):
            answers.update(pool.map(lambda one: served.ask(*one), [bad() for _ in range(20)]))
            good_answers[served.ask(good.path.name, content)] += 1
            memory.append(round(served.resident()))
    return {
        "uploads": count, "statuses": dict(sorted(answers.items())), "good_statuses": dict(good_answers),
        "resident_mib": memory, "alive": served.process.poll() is None,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, required=True)
    parser.add_argument("--model", default="brain-afids")
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--count", type=int, default=16, help="scans a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hostile", type=int, default=0, help="send so many bad files instead")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    files = find_scans([options.scans])
    served = Served(options.model, "--engine", options.engine, "--jobs", str(options.jobs))
    if options.hostile:
        report: dict[str, Any] = hostile(served, files[0], options.hostile)
    else:
        some = [files[n % len(files)] for n in range(options.count)]
        workers = open_workers(open_bundle(options.model), 1, engine=options.engine, jobs=options.jobs)
        rows = [compare(served, workers, some, clients, options.rounds) for clients in CLIENTS]
        report = {"model": options.model, "engine": options.engine, "jobs": options.jobs, "rows": rows}
    served.close()
    text = json.dumps(report, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
