"""How the time of a scan grows: with the number of landmarks, the patches' size, the volume's size, and the batch.

    python -m benchmarks.scaling --out benchmarks/results/scaling

A synthetic task without correlated landmarks is exported for every step of a series, with random weights, on which
speed does not depend.  The steps of a series run in turn, round after round; figures are medians over the rounds.
``--engines torch`` adds PyTorch, eager, with the same batched nets.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.writing import table, this_machine, write_results
from trt_landmarks.bench.machine import seconds
from trt_landmarks.bench.statistics import spread
from trt_landmarks.engines.base import Engine
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.export.cpu_graphs import write_cpu_graph
from trt_landmarks.export.onnx_graphs import export_graph
from trt_landmarks.geometry import Geometry
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.nets.folding import folded
from trt_landmarks.nets.model import build_nets
from trt_landmarks.scan import Scan
from trt_landmarks.task.graphs import input_shapes
from trt_landmarks.task.task import Task, parse_task

#: Edge of the synthetic scan, mm.
EXTENT_MM = 96.0
STAGES = ("normalize", "coarse_resample", "coarse", "patch_sampling", "fine_independent")


@dataclass(frozen=True)
class Step:
    """What is run: number of landmarks, edge of a patch and of the volume (voxels), scans together."""

    landmarks: int = 16
    patch: int = 32
    volume: int = 128
    batch: int = 1


SERIES: dict[str, list[int]] = {
    "landmarks": [1, 2, 4, 8, 16, 32, 64],
    "patch": [16, 24, 32, 48, 64],
    "volume": [64, 128, 256, 384, 512],
    "batch": [1, 2, 4, 8],
}


def make_task(step: Step) -> Task:
    """A task of that size; patches of 1 mm voxels turned with the anatomy."""
    content = {
        "name": "scaling",
        "landmarks": [f"p{n}" for n in range(step.landmarks)],
        "coarse": {"shape": [48] * 3, "field_of_view_mm": [EXTENT_MM] * 3, "width": 16},
        "fine": {"shape": [step.patch] * 3, "spacing_mm": [1.0] * 3, "frame": "anatomy", "width": 16, "levels": 3,
                 "heatmap_sigma_mm": 2.0},
        "sdr_radii_mm": [1.0],
    }  # fmt: skip
    return parse_task(content, "scaling")


def make_scan(size: int) -> Scan:
    """A cube of noise, :data:`EXTENT_MM` wide."""
    voxels = np.random.default_rng(0).integers(0, 255, (size,) * 3, dtype=np.uint8)
    spacing = EXTENT_MM / size
    return Scan("noise", None, voxels, Geometry((size,) * 3, (spacing,) * 3, (0.0, 0.0, 0.0), np.eye(3)))


def open_localizers(step: Step, engines: Sequence[str], threads: int, folder: Path) -> dict[str, Localizer]:
    """Engine name to localizer."""
    task = make_task(step)
    nets = {graph: folded(net) for graph, net in build_nets(task).items()}
    opened: dict[str, Engine] = {}
    if "onnxruntime" in engines:
        paths = {}
        for graph, net in nets.items():
            plain = folder / f"{graph}-{step.landmarks}-{step.patch}.onnx"
            if not plain.exists():
                export_graph(net, graph, input_shapes(task)[graph], plain)
                write_cpu_graph(net, graph, input_shapes(task)[graph], plain)
            for_cpu = plain.with_suffix(".cpu.onnx")
            paths[graph] = for_cpu if for_cpu.exists() else plain  # not every net has a form for the CPU
        opened["onnxruntime"] = OnnxRuntimeEngine(paths, threads=threads)
    if "torch" in engines:
        opened["torch"] = TorchEngine(nets)
    shape = np.random.default_rng(1).uniform(-20, 20, (step.landmarks, 3))
    return {name: Localizer(task, shape, engine) for name, engine in opened.items()}


def run_series(
    name: str, values: Sequence[int], engines: Sequence[str], rounds: int, threads: int, folder: Path
) -> list[dict[str, Any]]:
    """Rows of a series, one for each value and engine."""
    runs: list[tuple[int, str, Localizer, list[Scan]]] = []
    for value in values:
        step = replace(Step(), **{name: value})
        scan = make_scan(step.volume)
        for engine, localizer in open_localizers(step, engines, threads, folder).items():
            runs.append((value, engine, localizer, [scan] * step.batch))
            localizer.localize_batch(runs[-1][3])  # warm
            print(f"{name} {value}, {engine}: ready", flush=True)
    times: list[list[float]] = [[] for _ in runs]
    stages: list[list[dict[str, float]]] = [[] for _ in runs]
    for turn in range(rounds):
        for n in (*range(turn % len(runs), len(runs)), *range(turn % len(runs))):
            _, _, localizer, scans = runs[n]

            def once(n: int = n, localizer: Localizer = localizer, scans: list[Scan] = scans) -> None:
                stages[n].append(localizer.localize_batch(scans)[0].timing_ms)

            times[n].append(1000 * seconds(once) / len(scans))
    return [
        {
            name: value,
            "engine": engine,
            "ms_per_scan": spread(times[n]),
            "stages_ms": {stage: round(float(np.median([one[stage] for one in stages[n]])), 2) for stage in STAGES},
        }
        for n, (value, engine, _, _) in enumerate(runs)
    ]


def main() -> None:
    """Measure and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scaling"))
    parser.add_argument("--series", nargs="+", choices=list(SERIES), default=list(SERIES))
    parser.add_argument("--values", nargs="+", type=int, help="steps, for one series")
    parser.add_argument("--engines", nargs="+", choices=["onnxruntime", "torch"], default=["onnxruntime"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=this_machine()["cores"])
    options = parser.parse_args()
    if options.values and len(options.series) != 1:
        parser.error("--values go with one --series")
    if "torch" in options.engines:
        import torch

        torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"machine": this_machine(), "threads": options.threads, "rounds": options.rounds,
                              "series": {}}  # fmt: skip
    base = Step()
    lines = [
        f"{report['machine']['cores']} cores, {report['machine']['processor']}; {options.threads} threads, "
        f"{options.rounds} rounds; random weights. Where not varied: {base.landmarks} landmarks, patches of "
        f"{base.patch}³, a volume of {base.volume}³, batch {base.batch}. Medians, ms a scan (reading not included).",
        "",
    ]
    for name in options.series:
        with tempfile.TemporaryDirectory() as folder:
            rows = run_series(
                name, options.values or SERIES[name], options.engines, options.rounds, options.threads, Path(folder)
            )
        report["series"][name] = rows
        cells = [
            [row[name], row["engine"],
             f"{row['ms_per_scan']['median']:.1f} ({row['ms_per_scan']['min']:.1f} to {row['ms_per_scan']['max']:.1f})",
             *(f"{row['stages_ms'][stage]:.1f}" for stage in STAGES)]
            for row in rows
        ]  # fmt: skip
        lines += [*table([name, "engine", "a scan (range)", *STAGES], cells), ""]
    write_results(options.out, report, lines[:-1])


if __name__ == "__main__":
    main()
