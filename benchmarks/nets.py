"""The nets alone on the CPU: PyTorch, the plain graphs in ONNX Runtime, and their form for the CPU.

    python -m benchmarks.nets SCANS --out benchmarks/results/nets

Inputs are those of real scans.  Every round runs each net in each way, in turn; then each graph once more with ONNX
Runtime's profiler, which tells what its operators take.  All with the same number of threads.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from benchmarks.writing import table, this_machine, write_results
from trt_landmarks.bench.machine import seconds
from trt_landmarks.bench.statistics import ratio, spread
from trt_landmarks.bundles.bundle import open_bundle
from trt_landmarks.engines.base import Engine
from trt_landmarks.engines.onnxruntime import CPU, OnnxRuntimeEngine
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.export.parity import real_inputs
from trt_landmarks.export.weights import nets_from_bundle
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.nets.folding import folded
from trt_landmarks.scan import find_scans, read_scan
from trt_landmarks.system import cores

PYTORCH, PLAIN, FORM = "PyTorch", "ONNX Runtime, plain", "ONNX Runtime, CPU form"
#: Operators of a profile that are shown.
OPERATORS = 6


def operators(graph: Path, array: NDArray[np.float32], threads: int) -> list[tuple[str, float]]:
    """Share of each kind of operator in a graph's time, largest first."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        session = onnxruntime.InferenceSession(str(graph), options, providers=[CPU])
        (given,) = session.get_inputs()
        for _ in range(3):
            session.run(None, {given.name: array})
        events = json.loads(Path(session.end_profiling()).read_text())
    taken: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken[event["args"]["op_name"]] += event["dur"]
    whole = sum(taken.values())
    return [(name, round(one / whole, 3)) for name, one in sorted(taken.items(), key=lambda entry: -entry[1])]


def measure(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of every way in every round; the order turns."""
    names = list(ways)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for way in ways.values():
        way()
        way()
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            taken[name].append(round(1000 * seconds(ways[name]), 2))
    return taken


def main() -> None:
    """Measure and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="files OUT.json and OUT.md are written")
    parser.add_argument("--model", help="bundle folder or shipped model")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=cores())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bundle = open_bundle(options.model)
    scan = read_scan(find_scans([options.scans])[0].path)
    engines: dict[str, Engine] = {
        PYTORCH: TorchEngine({graph: folded(net) for graph, net in nets_from_bundle(bundle, [scan]).items()}),
        PLAIN: OnnxRuntimeEngine(bundle.graphs, threads=options.threads),
        FORM: OnnxRuntimeEngine(bundle.cpu_graphs, threads=options.threads),
    }
    inputs = real_inputs(Localizer(bundle.task, bundle.mean_shape, engines[PLAIN]), [scan])
    nets: dict[str, Any] = {}
    for graph, array in inputs.items():
        ways = {name: lambda engine=engine, graph=graph, array=array: engine.run(graph, array)
                for name, engine in engines.items()}  # fmt: skip
        taken = measure(ways, options.rounds)
        points = {name: engine.run(graph, array)[0] for name, engine in engines.items()}
        nets[graph] = {
            "milliseconds": {name: spread(times) for name, times in taken.items()},
            "faster_than_pytorch": {name: ratio(taken[PYTORCH], taken[name]).to_dict() for name in (PLAIN, FORM)},
            "faster_than_plain": ratio(taken[PLAIN], taken[FORM]).to_dict(),
            "largest_difference_mm": {name: float(np.abs(points[name] - points[PYTORCH]).max()) for name in points},
            "operators": {
                name: dict(operators(files[graph], array, options.threads)[:OPERATORS])
                for name, files in ((PLAIN, bundle.graphs), (FORM, bundle.cpu_graphs))
            },
            "times": taken,
        }
        print(graph, {name: one["median"] for name, one in nets[graph]["milliseconds"].items()}, flush=True)
    command = f"python -m benchmarks.nets SCANS --rounds {options.rounds} --threads {options.threads}"
    report = {"command": command, "model": bundle.name, "threads": options.threads, "machine": this_machine(),
              "nets": nets}  # fmt: skip
    write_results(options.out, report, markdown(report))


def markdown(report: dict[str, Any]) -> list[str]:
    """The report as tables."""
    machine, nets = report["machine"], report["nets"]
    lines = [f"`{report['command']}`", "", f"{report['model']}; {report['threads']} threads of {machine['processor']}; "
             "one scan; medians (range).", ""]  # fmt: skip
    rows = []
    for graph, one in nets.items():
        for name, times in one["milliseconds"].items():
            faster = one["faster_than_pytorch"].get(name)
            ratio_text = f"{faster['value']:.2f} ({faster['low']:.2f} to {faster['high']:.2f})" if faster else ""
            rows.append([graph, name, f"{times['median']:.0f} ({times['min']:.0f} to {times['max']:.0f})", ratio_text])
    lines += table(["net", "way", "ms", "times as fast as PyTorch (95 %)"], rows)
    lines += ["", "Where the time goes:", ""]
    rows = [[graph, name, ", ".join(f"{operator} {share:.0%}" for operator, share in shares.items())]
            for graph, one in nets.items() for name, shares in one["operators"].items()]  # fmt: skip
    return lines + table(["net", "way", "operators"], rows)


if __name__ == "__main__":
    main()
