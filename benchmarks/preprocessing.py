"""Preprocessing by the reference and by DALI, on real heads: which is faster here, and how far apart are they?

    python -m benchmarks.preprocessing --data DIR [--rounds 15] [--out benchmarks/results/preprocessing]

DIR holds mouse-skull-ct.  The heads come in standard pose, as they were scanned (larger, each of its own size), and
in standard pose lying obliquely in the world (real voxels, turned header).  Both preprocessors make the coarse
volumes of the same scans in alternating order, round after round; figures are medians over the rounds, and ratios
of two neighbouring runs, which the machine's load moves less than times.  Reading and the percentiles, which both
need alike, are not counted.  With a GPU, DALI runs there too, its results copied back to the host.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.writing import write_results
from trt_landmarks.bundles.bundle import open_bundle
from trt_landmarks.engines.tensorrt.gpu import gpu_problem
from trt_landmarks.geometry import Geometry, Grid
from trt_landmarks.preprocessing.dali import DaliPreprocessor
from trt_landmarks.preprocessing.reference import Preprocessor, ReferencePreprocessor
from trt_landmarks.preprocessing.sampling import intensity_range
from trt_landmarks.scan import Scan, read_scan
from trt_landmarks.task.task import Task

#: A turn of 12 degrees about an axis that is none of the world's.
TURN = np.array([[0.97985, -0.12375, 0.15661], [0.13639, 0.98799, -0.07277], [-0.14572, 0.09266, 0.98498]])


def heads(data: Path, count: int) -> dict[str, list[Scan]]:
    """The sets of scans by name."""
    folder = data / "mouse-skull-ct"
    cases = json.loads((folder / "split.json").read_text())["val"][:count]
    posed, raw = (
        [read_scan(folder / kind / "images" / f"{case}.nii.gz") for case in cases] for kind in ("posed", "raw")
    )
    return {"posed": posed, "raw": raw, "oblique": [oblique(scan) for scan in posed]}


def oblique(scan: Scan) -> Scan:
    """The scan, lying obliquely in the world."""
    g, (u, _, vt) = scan.geometry, np.linalg.svd(TURN)
    return Scan(scan.id, scan.path, scan.voxels, Geometry(g.size, g.spacing, g.origin, u @ vt @ g.direction))


def compare(task: Task, scans: Sequence[Scan], batch: int, rounds: int, other: Preprocessor) -> dict[str, Any]:
    """Medians of the times a scan (ms), of their ratio, and the largest difference of the results."""
    grids = [Grid(task.coarse.shape, task.coarse.spacing_mm, scan.geometry.centre) for scan in scans]
    ranges = [intensity_range(scan.voxels, task.intensity) for scan in scans]
    contestants: dict[str, Preprocessor] = {"reference": ReferencePreprocessor(), "dali": other}

    def run(name: str) -> tuple[float, Any]:
        start = time.perf_counter()
        volumes = [
            contestants[name].coarse_volumes(scans[n : n + batch], grids[n : n + batch], ranges[n : n + batch])
            for n in range(0, len(scans), batch)
        ]
        return (time.perf_counter() - start) / len(scans) * 1000, np.concatenate(volumes)

    results = {name: run(name)[1] for name in contestants}  # the first run warms up
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name in list(contestants)[:: -1 if turn % 2 else 1]:
            times[name].append(run(name)[0])
    ratios = [b / a for a, b in zip(times["reference"], times["dali"], strict=True)]
    return {
        "reference_ms": round(statistics.median(times["reference"]), 2),
        "dali_ms": round(statistics.median(times["dali"]), 2),
        "dali_to_reference": round(statistics.median(ratios), 2),
        "ratio_quartiles": [round(q, 2) for q in np.percentile(ratios, [25, 75])],
        "largest_difference": float(f"{np.abs(results['reference'] - results['dali']).max():.1e}"),
    }


def main() -> None:
    """Compare and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TRTLM_DATA", "../shared/data")))
    parser.add_argument("--count", type=int, default=5, help="heads of the validation split to take")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/preprocessing"))
    options = parser.parse_args()
    task = open_bundle("mouse-skull").task
    backends = {"CPU": DaliPreprocessor()}
    if gpu_problem() is None:
        backends["GPU"] = DaliPreprocessor(device_id=0)
    dali = backends["CPU"]
    rows = [
        {"scans": name, "dali_on": backend, "batch": batch, **compare(task, scans, batch, options.rounds, preprocessor)}
        for name, scans in heads(options.data, options.count).items()
        for backend, preprocessor in backends.items()
        for batch in (1, options.count)
    ]
    report = {
        "grid": task.coarse.shape,
        "rounds": options.rounds,
        "cpu_cores": dali.threads,
        "machine": platform.machine(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "dali": dali.version},
        "rows": rows,
    }
    lines = [
        f"DALI {dali.version} against NumPy {np.__version__}, {dali.threads} cores, {options.rounds} rounds.",
        "Milliseconds a scan (medians), which other load on the machine moves, and their ratio, which it moves less.",
        "",
        "| heads | DALI on | batch | reference, ms | DALI, ms | DALI / reference (quartiles) | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["ratio_quartiles"]
        lines.append(
            f"| {row['scans']} | {row['dali_on']} | {row['batch']} | {row['reference_ms']} | {row['dali_ms']} "
            f"| {row['dali_to_reference']} ({low} to {high}) | {row['largest_difference']:.0e} |"
        )
    write_results(options.out, report, lines)


if __name__ == "__main__":
    main()
