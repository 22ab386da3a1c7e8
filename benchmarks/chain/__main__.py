"""The command; see the package."""

from __future__ import annotations

import argparse
import copy
import os
import shutil
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from typer.testing import CliRunner

from benchmarks.chain.faults import FAULTS
from benchmarks.chain.tasks import draw, write_data
from benchmarks.writing import table, this_machine, write_results
from trt_landmarks.cli import app
from trt_landmarks.data.annotations import write_mrk_json
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.errors import TrtlmError
from trt_landmarks.geometry import Floats, Geometry
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.nets.decoding import HeatmapDecoder, SliceDecoder
from trt_landmarks.results.predictions import read_predictions
from trt_landmarks.scan import Scan, find_scans, read_scan, write_scan
from trt_landmarks.task.task import load_task, parse_task
from trt_landmarks.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

#: What infer and the checkpoint may differ by, mm.
TOLERANCE_MM = 0.01
#: A relative change of voxels that must not move a landmark for it to count.
JITTER = 1e-6
#: A change of heatmaps, whose peaks have a height of about 1, that must not either; FP32's rounding is about as large.
HEATMAP_JITTER = 1e-6
DECODERS = (HeatmapDecoder, SliceDecoder)
STEPS = [f"--steps={kind}=1" for kind in ("coarse", "shared", "independent", "correlated")]
#: Words of which one is in what is said of a fault that is not refused.
TOLD = ("warning", "left out", "not used")


@dataclass
class Outcome:
    """What became of one task or fault."""

    name: str
    problems: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def run_command(*words: str | Path) -> tuple[int, str]:
    """A ``trtlm`` command in this process: exit code (-1: an exception of no kind for people) and what it said."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(done.exception, TrtlmError):
        return 2, str(done.exception)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        place = traceback.extract_tb(done.exception.__traceback__)[-1]
        return -1, f"{type(done.exception).__name__} at {Path(place.filename).name}:{place.lineno}: {done.exception}"
    return done.exit_code, done.output


def try_task(seed: int, number: int, folder: Path) -> Outcome:
    """One random task through the chain."""
    rng = np.random.default_rng([seed, number])
    drawn = draw(rng)
    outcome = Outcome(f"task {number}: {', '.join(drawn.features)}")
    (folder / "task.yaml").parent.mkdir(parents=True, exist_ok=True)
    (folder / "task.yaml").write_text(drawn.task.to_yaml())
    if load_task(folder / "task.yaml") != drawn.task:
        outcome.problems.append("the task file is read as another task")
    write_data(drawn, folder, rng)
    run, bundle, results = folder / "run", folder / "bundle", folder / "results.json"
    commands: list[tuple[str | Path, ...]] = [
        ("init", "--from", folder / "landmarks", "--scans", folder / "images", "--out", folder / "my täsk 1.yaml"),
        ("train", folder / "task.yaml", "--data", folder, "--out", run, "--folds", "3", "--device", "cpu", *STEPS),
        ("export", run, "--out", bundle, "--scans", folder / "images", "--count", "2"),
        ("infer", folder / "images", "--model", bundle, "--engine", "onnxruntime", "--precision", "fp32",
         "--out", results, "--quiet"),
    ]  # fmt: skip
    for words in commands:
        code, said = run_command(*words)
        if code != 0:
            outcome.problems.append(f"{words[0]}: exit code {code}: {said.strip().splitlines()[-1]}")
            return outcome
        if words[0] == "init":
            load_task(folder / "my täsk 1.yaml")
        if words[0] == "train":
            _give_peaks(run, number)
    _compare(load_checkpoint(run), folder / "images", results, outcome)
    return outcome


@torch.no_grad()
def _give_peaks(run: Path, seed: int) -> None:
    """Random weights for the heads of a checkpoint: one step of training leaves heatmaps without peaks."""
    checkpoint = load_checkpoint(run)
    random = torch.Generator().manual_seed(seed)
    for name, net in checkpoint.nets.items():
        for parameter, value in net.named_parameters():
            if parameter.endswith("head.weight"):
                spread = 1e-3 if name == "coarse" else 0.2
                value.copy_(spread * torch.randn(value.shape, generator=random))
    save_checkpoint(checkpoint, run)


def _compare(checkpoint: Checkpoint, images: Path, results: Path, outcome: Outcome) -> None:
    """Hold what infer gave against the checkpoint's nets in PyTorch."""
    localizer = Localizer(checkpoint.task, checkpoint.mean_shape, TorchEngine(checkpoint.nets))
    cases = {case.id: case for case in read_predictions(results).cases}
    worst, counted, total = 0.0, 0, 0
    for file in find_scans([images]):
        scan = read_scan(file.path)
        expected = localizer.localize(scan).points
        given = {mark.name: mark.position_lps_mm for mark in cases[file.id].landmarks}
        found = np.array([given[name] for name in checkpoint.task.landmarks], dtype=np.float64)
        apart = np.linalg.norm(found - expected, axis=1)
        steady = _steady(localizer, scan, expected)
        worst = max(worst, float(apart[steady].max(initial=0)))
        counted, total = counted + int(steady.sum()), total + len(steady)
    outcome.figures = {"worst_mm": round(worst, 6), "positions": total, "judged": counted}
    if not worst <= TOLERANCE_MM:
        outcome.problems.append(f"infer differs from the checkpoint by {worst:.3g} mm")


def _steady(localizer: Localizer, scan: Scan, points: Floats) -> Any:
    """Landmarks ``[N]`` that small changes of the voxels and of the heatmaps, as rounding makes them, do not move."""
    assert isinstance(localizer.engine, TorchEngine)
    random = torch.Generator().manual_seed(0)

    def jittered(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (inputs[0] + HEATMAP_JITTER * torch.randn(inputs[0].shape, generator=random),)

    decoders = [d for net in localizer.engine.nets.values() for d in net.modules() if isinstance(d, DECODERS)]
    hooks = [decoder.register_forward_pre_hook(jittered) for decoder in decoders]
    rng = np.random.default_rng(0)
    steady = np.ones(len(points), dtype=bool)
    for _ in range(2):
        size = JITTER * float(np.ptp(scan.voxels))
        voxels = (scan.voxels + size * rng.standard_normal(scan.voxels.shape)).astype(np.float32)
        moved = localizer.localize(replace(scan, voxels=voxels)).points
        steady &= np.linalg.norm(moved - points, axis=1) < TOLERANCE_MM / 2
    for hook in hooks:
        hook.remove()
    return steady


def base_data(folder: Path) -> None:
    """Sound data of six cases for the faults: six landmarks, three of them a group."""
    names = ["nose", "chin", "top", "left ear", "right ear", "neck"]
    shape = np.array([[0, -14, 2], [0, -12, -8], [0, 1, 15], [12, 2, 3], [-12, 2, 3], [0, 13, -9.0]])
    task = parse_task({
        "name": "sound", "landmarks": names,
        "groups": [{"name": "mid", "axis": "left-right", "landmarks": ["nose", "chin", "top"]}],
        "coarse": {"shape": [8, 8, 8], "field_of_view_mm": [60, 60, 60], "width": 2},
        "fine": {"shape": [8, 8, 8], "spacing_mm": [2, 2, 2], "width": 2, "levels": 2, "heatmap_sigma_mm": 4},
        "sdr_radii_mm": [2],
    }, "sound")  # fmt: skip
    for name in ("images", "landmarks"):
        (folder / name).mkdir(parents=True)
    (folder / "task.yaml").write_text(task.to_yaml())
    rng = np.random.default_rng(0)
    for case in range(6):
        geometry = Geometry((30, 30, 30), (2, 2, 2), (-30 + case, -29, -28), np.eye(3))
        points = shape + geometry.centre + rng.normal(size=shape.shape)
        voxels = rng.normal(size=(30, 30, 30)).astype(np.float32)
        write_scan(Scan(f"c{case}", None, voxels, geometry), folder / "images" / f"c{case}.nii.gz")
        write_mrk_json(folder / "landmarks" / f"c{case}.mrk.json", dict(zip(names, points, strict=True)))


def _train(folder: Path) -> tuple[int, str]:
    return run_command(
        "train", folder / "task.yaml", "--data", folder, "--out", folder / "run", "--folds", "3", "--device", "cpu",
        *STEPS,
    )  # fmt: skip


def told(said: str) -> set[str]:
    """The lines of a training that warn of something or say what was left out."""
    return {line for line in said.splitlines() if any(word in line for word in TOLD)}


def try_fault(seed: int, number: int, folder: Path, sound: Path, usual: set[str]) -> Outcome:
    """One fault: refused with exit code 2, or told by a line that is not among the ``usual`` ones of sound data."""
    rng = np.random.default_rng([seed, 1, number])
    fault = FAULTS[number % len(FAULTS)]
    shutil.copytree(sound, folder)
    fault(folder, rng)
    code, said = _train(folder)
    heard = sorted(told(said) - usual) if code == 0 else [said.strip()]
    outcome = Outcome(f"fault {number}: {fault.__doc__}", figures={"code": code, "said": heard})
    if code not in (0, 2):
        outcome.problems.append(said)
    elif code == 0 and not told(said) - usual:
        outcome.problems.append("silent")
    return outcome


def main() -> int:
    """Run, write the results, and give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=30)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first task")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=20, help="CPU minutes after which no other task is begun")
    parser.add_argument("--out", type=Path, default=None, help="write .json and .md here")
    given = parser.parse_args()
    os.environ.setdefault("NO_COLOR", "1")
    outcomes: dict[str, list[Outcome]] = {"tasks": [], "faults": []}
    with tempfile.TemporaryDirectory(prefix="chain-") as name:
        root = Path(name)
        base_data(root / "sound")
        code, said = _train(root / "sound")
        assert code == 0, said
        usual = told(said)
        shutil.rmtree(root / "sound" / "run")
        for number in range(given.faults):
            outcomes["faults"].append(_report(try_fault(given.seed, number, root / "fault", root / "sound", usual)))
            shutil.rmtree(root / "fault")
        for number in range(given.first, given.first + given.tasks):
            if time.process_time() > 60 * given.minutes:
                break
            outcomes["tasks"].append(_report(try_task(given.seed, number, root / "task")))
            shutil.rmtree(root / "task")
    lines = _summary(outcomes, given)
    if given.out is not None:
        report = {
            "command": f"python -m benchmarks.chain --tasks {given.tasks} --faults {given.faults} --seed {given.seed}",
            "machine": this_machine(), **{kind: [vars(one) for one in rows] for kind, rows in outcomes.items()},
        }  # fmt: skip
        write_results(given.out, copy.deepcopy(report), lines)
    else:
        print("\n".join(lines))
    return int(any(one.problems for rows in outcomes.values() for one in rows))


def _report(outcome: Outcome) -> Outcome:
    print(f"{outcome.name}: {'; '.join(outcome.problems) or 'ok'} {outcome.figures}", flush=True)
    return outcome


def _summary(outcomes: dict[str, list[Outcome]], given: argparse.Namespace) -> list[str]:
    tasks, faults = outcomes["tasks"], outcomes["faults"]
    worst = max((one.figures.get("worst_mm", 0.0) for one in tasks), default=0.0)
    codes = Counter("refused" if one.figures["code"] == 2 else "told" for one in faults if not one.problems)
    judged, positions = (sum(one.figures.get(key, 0) for one in tasks) for key in ("judged", "positions"))
    rows = [
        ["random tasks, seed " + str(given.seed), len(tasks), sum(not one.problems for one in tasks),
         f"infer and checkpoint at most {worst:.2g} mm apart on {judged} of {positions} positions (the others have no "
         "peak)"],
        ["random faults", len(faults), sum(not one.problems for one in faults),
         ", ".join(f"{count} {what}" for what, count in sorted(codes.items()))],
    ]  # fmt: skip
    lines = ["# The chain: task file, init, train, export, infer", ""]
    lines += table(["what", "tried", "as they should be", ""], rows)
    bad = [one for rows in outcomes.values() for one in rows if one.problems]
    return [*lines, "", *(f"- {one.name}: {'; '.join(one.problems)}" for one in bad)]


if __name__ == "__main__":
    raise SystemExit(main())
