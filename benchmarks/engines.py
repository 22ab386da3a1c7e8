"""Engines on the CPU, end to end: time, memory, start, and how far their landmarks are from ONNX Runtime's.

    python -m benchmarks.engines SCANS --landmarks FOLDER --out benchmarks/results/openvino [--model NAME]

SCANS are those of the model's validation if it names them, else all.  Every round localizes one scan with each engine,
in turn; CPU time stands beside wall time, because other processes may share the machine.  Cold starts are whole
commands (`trtlm infer` on one scan): without a cache of compiled models, and with it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.writing import table, this_machine, write_results
from trt_landmarks.bench.statistics import ratio
from trt_landmarks.bundles.bundle import open_bundle
from trt_landmarks.calibration.gate import deviation
from trt_landmarks.calibration.scans import choose_scans, read_scans
from trt_landmarks.engines.base import Engine
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.openvino import OpenVinoEngine
from trt_landmarks.files import CACHE_VARIABLE
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.system import cores, installed_versions

#: Engine and precision of each way; the first is what the others are compared with.
WAYS = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"))


#: The command, which tells its peak memory at its end: what wait4 tells of a child may be its parent's.
CHILD = """
import atexit, trt_landmarks.cli, trt_landmarks.system
atexit.register(lambda: print(trt_landmarks.system.resident_bytes(peak=True)))
trt_landmarks.cli.main()
"""


def command(model: str, scan: Path, engine: str, precision: str, cache: Path) -> dict[str, float]:
    """CPU and wall seconds and peak memory (MiB) of ``trtlm infer`` on one scan, in a process of its own."""
    words = ["infer", str(scan), "--model", model, "--engine", engine, "--precision", precision, "--quiet"]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *words, "--out", str(cache / "preds.json"), "--overwrite"],
        env={**os.environ, CACHE_VARIABLE: str(cache)}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu": cpu, "wall": time.perf_counter() - start, "mib": int(done.stdout.split()[-1]) / 2**20}


def main() -> None:
    """Measure and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path)
    parser.add_argument("--landmarks", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="files OUT.json and OUT.md are written")
    parser.add_argument("--model", default="mouse-skull", help="bundle folder or shipped model")
    parser.add_argument("--rounds", type=int, default=3, help="of all scans")
    parser.add_argument("--cold", type=int, default=3, help="cold starts")
    parser.add_argument("--threads", type=int, default=cores())
    options = parser.parse_args()
    bundle = open_bundle(options.model)
    unseen = bundle.manifest.get("training", {}).get("split", {}).get("val", [])
    chosen = choose_scans(options.scans, 0, max(1, len(unseen)), validation=unseen, landmarks=options.landmarks)
    scans, truth = read_scans(chosen.held_out), chosen.truth(bundle.task.landmarks)

    engines: dict[str, Engine] = {}
    for name, precision in WAYS:
        engines[f"{name} {precision}"] = (
            OnnxRuntimeEngine(bundle.cpu_graphs, precision, options.threads)
            if name == "onnxruntime"
            else OpenVinoEngine(bundle.graphs, precision, options.threads)
        )
    localizers = {way: Localizer(bundle.task, bundle.mean_shape, engine) for way, engine in engines.items()}
    results = {way: [localizer.localize(scan) for scan in scans] for way, localizer in localizers.items()}
    ways = list(localizers)
    times: dict[str, dict[str, list[float]]] = {way: {"cpu": [], "wall": []} for way in ways}
    for turn in range(options.rounds * len(scans)):
        for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
            wall, cpu = time.perf_counter(), time.process_time()
            localizers[way].localize(scans[turn % len(scans)])
            times[way]["cpu"].append(1000 * (time.process_time() - cpu))
            times[way]["wall"].append(1000 * (time.perf_counter() - wall))

    report: dict[str, Any] = {
        "command": f"python -m benchmarks.engines SCANS --model {bundle.name} --rounds {options.rounds}",
        "model": bundle.name, "scans": [scan.id for scan in scans], "threads": options.threads,
        "machine": this_machine(), "versions": installed_versions(["openvino", "onnxruntime", "numpy"]), "ways": {},
    }  # fmt: skip
    for way, (name, precision) in zip(ways, WAYS, strict=True):
        figures = deviation(bundle, results[ways[0]], results[way], truth)
        figures.pop("landmarks")
        report["ways"][way] = {
            **{f"{kind}_ms": round(float(np.median(values)), 1) for kind, values in times[way].items()},
            "faster": {kind: ratio(times[ways[0]][kind], times[way][kind]).to_dict() for kind in ("cpu", "wall")},
            "deviation": figures,
            "cold": cold(options.model, chosen.held_out[0].path, name, precision, options.cold),
        }
        print(way, json.dumps(report["ways"][way]["cold"]), flush=True)
    write_results(options.out, report, markdown(report))


def cold(model: str, scan: Path, engine: str, precision: str, count: int) -> dict[str, dict[str, float]]:
    """Medians of whole commands: ``first``, without a cache, and ``later``, with it."""
    found: dict[str, list[dict[str, float]]] = {"first": [], "later": []}
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            for start in found:
                found[start].append(command(model, scan, engine, precision, Path(folder)))
            shutil.rmtree(Path(folder, "openvino"), ignore_errors=True)
    return {
        start: {kind: round(float(np.median([run[kind] for run in runs])), 2) for kind in runs[0]}
        for start, runs in found.items()
    }


def markdown(report: dict[str, Any]) -> list[str]:
    """The report as tables."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"`{report['command']}`", "",
        f"{report['model']}, {len(report['scans'])} scans, {report['threads']} threads of {machine['processor']}; "
        f"{versions}. Medians; other processes shared the machine: compare CPU times and ratios.", "",
    ]  # fmt: skip
    rows = []
    for way, figures in report["ways"].items():
        faster = {
            kind: f"{x['value']:.2f} ({x['low']:.2f} to {x['high']:.2f})" for kind, x in figures["faster"].items()
        }
        rows.append([way, f"{figures['cpu_ms']:.0f}", f"{figures['wall_ms']:.0f}", faster["cpu"], faster["wall"]])
    lines += table(["engine", "CPU ms", "wall ms", "times as fast, CPU (95 %)", "times as fast, wall"], rows)
    rows = []
    for way, figures in report["ways"].items():
        x = figures["deviation"]
        mre = f"{x['mre_mm']:.4f} ({x['mre_percent']:+.2f} %)" if "mre_mm" in x else "no annotations"
        rows.append([way, f"{x['mean_voxel']:.5f}", f"{x['p99_voxel']:.5f}", f"{x['max_voxel']:.5f}", mre])
    header = ["engine", "mean", "p99", "max", "MRE, mm"]
    lines += ["", "From ONNX Runtime in FP32, voxels of the patches:", "", *table(header, rows)]
    rows = []
    for way, figures in report["ways"].items():
        first, later = figures["cold"]["first"], figures["cold"]["later"]
        cells = [f"{one[kind]:.2f}" for kind in ("cpu", "wall") for one in (first, later)]
        rows.append([way, *cells, f"{max(first['mib'], later['mib']):.0f}"])
    header = ["engine", "CPU s, first", "later", "wall s, first", "later", "peak MiB"]
    return [*lines, "", "`trtlm infer` on one scan, the whole command:", "", *table(header, rows)]


if __name__ == "__main__":
    main()
