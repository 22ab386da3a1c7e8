"""Correlated against independent: the same landmarks, refined together and each by itself.

    python -m benchmarks.correlated RUN RUN_INDEPENDENT --data DIR --split FILE --out benchmarks/results/NAME

RUN is a finished training; RUN_INDEPENDENT one of the same task file with ``groups: []``, same seed and settings.
Both see the same coarse points.  For every group: mean absolute error along its axis, MRE, and the same with
each way of placing landmarks along the axis (own heatmap, key slice, mean of the two).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.writing import write_results
from trt_landmarks.data.dataset import Case, load_dataset, split_from_file
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.nets.model import build_nets
from trt_landmarks.scan import read_scan
from trt_landmarks.task.graphs import COARSE
from trt_landmarks.task.task import Task
from trt_landmarks.training.checkpoint import Checkpoint, load_checkpoint


def errors(checkpoint: Checkpoint, coarse: Checkpoint, cases: list[Case]) -> Floats:
    """Errors ``[C, N, 3]`` (mm, LPS) of a checkpoint's fine nets about the points of ``coarse``."""
    nets = {**checkpoint.nets, COARSE: coarse.nets[COARSE]}
    localizer = Localizer(checkpoint.task, coarse.mean_shape, TorchEngine(nets))
    found = [localizer.localize(read_scan(case.image)) for case in cases]
    offsets: Floats = np.stack([one.points - case.points for one, case in zip(found, cases, strict=True)])
    return offsets


def with_axis_position(checkpoint: Checkpoint, position: str) -> Checkpoint:
    """The same nets, placing landmarks along the axis another way."""
    correlated = checkpoint.task.correlated.model_copy(update={"axis_position": position})
    task: Task = checkpoint.task.model_copy(update={"correlated": correlated})
    nets = build_nets(task)
    for graph, net in nets.items():
        net.load_state_dict(checkpoint.nets[graph].state_dict())
    return Checkpoint(task, nets, checkpoint.record)


def row(name: str, offsets: Floats, axis: int) -> dict[str, Any]:
    """Figures of one group, ``[C, L, 3]`` errors."""
    distance = np.linalg.norm(offsets, axis=2)
    return {
        "nets": name,
        "along_axis_mm": round(float(np.nanmean(np.abs(offsets[:, :, axis]))), 4),
        "mre_mm": round(float(np.nanmean(distance)), 4),
        "p95_mm": round(float(np.nanpercentile(distance, 95)), 4),
    }


def main() -> None:
    """Compare and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("run_independent", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="files OUT.json and OUT.md are written")
    options = parser.parse_args()
    together, alone = load_checkpoint(options.run), load_checkpoint(options.run_independent)
    dataset = load_dataset(options.data, together.task)
    cases = list(dataset.subset(split_from_file(options.split, dataset.ids).validation))
    variants = {"independent": errors(alone, together, cases)}
    for position in ("heatmap", "mean", "slice") if together.task.correlated.slice_branch else ("heatmap",):
        variant = with_axis_position(together, position)
        variants[f"correlated, axis from {position}"] = errors(variant, together, cases)
    report: dict[str, Any] = {"cases": [case.id for case in cases], "groups": {}}
    lines = ["| group | nets | mean absolute error along the axis, mm | MRE, mm | p95, mm |", "|---|---|---|---|---|"]
    for group in together.task.groups:
        members = list(together.task.members(group))
        rows = [row(name, offsets[:, members], group.axis_index) for name, offsets in variants.items()]
        report["groups"][group.name] = {"axis": group.axis, "rows": rows}
        lines += [
            f"| {group.name} | {one['nets']} | {one['along_axis_mm']:.3f} | {one['mre_mm']:.3f} | {one['p95_mm']:.3f} |"
            for one in rows
        ]
    write_results(options.out, report, lines)


if __name__ == "__main__":
    main()
