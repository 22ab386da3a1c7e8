"""``python -m benchmarks.pytorch``: measure, and write JSON and Markdown."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import benchmarks.pytorch
from benchmarks.pytorch.script import Script, script_nets
from benchmarks.pytorch.variants import TunedTorchEngine, Variant, choose
from benchmarks.writing import table, this_machine, write_results
from trt_landmarks.bench.machine import seconds
from trt_landmarks.bench.statistics import ratio, spread
from trt_landmarks.bundles.bundle import open_bundle
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.export.parity import real_inputs
from trt_landmarks.export.weights import nets_from_bundle
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.nets.folding import folded
from trt_landmarks.scan import find_scans, read_scan
from trt_landmarks.system import cores

SCRIPT, TORCH, BEST, ONNX = "script", "torch", "torch, best", "onnxruntime"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=benchmarks.pytorch.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="files OUT.json and OUT.md are written")
    parser.add_argument("--model", help="bundle folder or shipped model")
    parser.add_argument("--count", type=int, default=5, help="scans")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true", help="do not try torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bundle = open_bundle(options.model)
    task, shape = bundle.task, bundle.mean_shape
    paths = [file.path for file in find_scans([options.scans])[: options.count]]
    nets = nets_from_bundle(bundle, [read_scan(paths[0])])
    fast = {graph: folded(net) for graph, net in nets.items()}
    onnx = Localizer(task, shape, OnnxRuntimeEngine(bundle.cpu_graphs, threads=options.threads))
    trials: list[dict[str, Any]] = []
    for graph, inputs in real_inputs(onnx, [read_scan(paths[0])]).items():
        trials += choose(task, graph, fast[graph], np.asarray(inputs), options.device, not options.no_compile)
    variants = {trial["graph"]: Variant(**trial["variant"]) for trial in trials if trial["taken"]}
    script = Script(task, shape, script_nets(task, nets), options.device)
    batched = Localizer(task, shape, TorchEngine(fast, options.device))
    best = Localizer(task, shape, TunedTorchEngine(fast, variants, options.device))
    with TemporaryDirectory() as folder:
        ways: dict[str, Callable[[Path], Floats]] = {
            SCRIPT: lambda path: script.localize(path, Path(folder, "points.json"))[0],
            TORCH: lambda path: batched.localize(read_scan(path)).points,
            BEST: lambda path: best.localize(read_scan(path)).points,
            ONNX: lambda path: onnx.localize(read_scan(path)).points,
        }
        points = {name: [way(path) for path in paths] for name, way in ways.items()}  # warms up as well
        times: dict[str, list[float]] = {name: [] for name in ways}
        names = list(ways)
        for turn in range(options.rounds * len(paths)):
            path, first = paths[turn % len(paths)], turn % len(names)
            for name in names[first:] + names[:first]:
                times[name].append(round(1000 * seconds(partial(ways[name], path)), 2))
    apart = {name: float(np.abs(np.stack(found) - np.stack(points[TORCH])).max()) for name, found in points.items()}
    report = {
        "command": f"python -m benchmarks.pytorch SCANS --rounds {options.rounds} --threads {options.threads}",
        "model": bundle.name, "device": options.device, "scans": len(paths), "machine": this_machine(),
        "milliseconds": {name: spread(values) for name, values in times.items()},
        "faster_than_script": {name: ratio(times[SCRIPT], values).to_dict() for name, values in times.items()},
        "largest_difference_mm": apart, "trials": trials, "times": times,
    }  # fmt: skip
    write_results(options.out, report, markdown(report))


def markdown(report: dict[str, Any]) -> list[str]:
    """The report as tables."""
    machine = report["machine"]
    about = f"{report['model']}, {report['scans']} scans, PyTorch on {report['device']}; "
    about += f"{machine['cores']} cores of {machine['processor']}."
    lines = [f"`{report['command']}`", "", about, ""]
    rows = []
    for name, taken in report["milliseconds"].items():
        faster = report["faster_than_script"][name]
        rows.append([name, f"{taken['median']:.0f} ({taken['min']:.0f} to {taken['max']:.0f})",
                     f"{faster['value']:.2f}", f"{report['largest_difference_mm'][name]:.1e}"])  # fmt: skip
    lines += table(["way", "ms a scan", "times as fast as the script", "largest difference from torch, mm"], rows)
    cells = [[trial["graph"], trial["name"], trial.get("ms", "-"), "yes" if trial["taken"] else "",
              trial.get("problem", "")] for trial in report["trials"]]  # fmt: skip
    return [*lines, "", *table(["net", "variant", "ms", "taken", "problem"], cells)]


if __name__ == "__main__":
    main()
