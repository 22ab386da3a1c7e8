"""How far compact storage moves the points of a model, and how long the model takes to open.

    python -m benchmarks.compact BEFORE AFTER --scans FOLDER [--scans FILE ...] [--data FOLDER --split FILE]

Both bundles localize the scans through the product, on the CPU.  Movement is in voxels of the patch grid.  With
``--data`` the error against the annotations is told for both, and the cases that were not trained on apart.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.bundles.select import open_engine
from trt_landmarks.data.dataset import load_dataset, split_from_file
from trt_landmarks.files import CACHE_VARIABLE
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.scan import Scan, ScanFile, find_scans, read_scan


def points(bundle: Bundle, scans: Sequence[Scan], threads: int) -> Floats:
    """``[scans, N, 3]`` mm."""
    localizer = Localizer(bundle.task, bundle.mean_shape, open_engine(bundle, "onnxruntime", threads=threads)[0])
    return np.stack([localizer.localize(scan).points for scan in scans])


def opening_seconds(model: str, threads: int) -> list[float]:
    """CPU seconds of this process to open a model's sessions: the first time, with unpacking, and again."""
    seconds = []
    before = os.environ.get(CACHE_VARIABLE)
    with tempfile.TemporaryDirectory() as cache:
        os.environ[CACHE_VARIABLE] = cache
        for _ in range(3):
            start = time.process_time()
            open_engine(open_bundle(model), "onnxruntime", threads=threads)
            seconds.append(time.process_time() - start)
    if before is None:
        del os.environ[CACHE_VARIABLE]
    else:
        os.environ[CACHE_VARIABLE] = before
    return [seconds[0], min(seconds[1:])]


def row(name: str, voxels: Floats) -> str:
    """One row of the table."""
    return (
        f"| {name} | {voxels.size} | {voxels.mean():.5f} | {np.percentile(voxels, 99):.5f} | {voxels.max():.5f} | "
        f"{(voxels > 0.002).sum()} |"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--scans", type=Path, action="append", default=[])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    bundles = [open_bundle(options.before), open_bundle(options.after)]
    task = bundles[0].task
    cases = list(load_dataset(options.data, task)) if options.data else []
    files: list[str | Path | ScanFile] = [*find_scans(options.scans), *(case.image for case in cases)]
    scans = [read_scan(file) for file in files]
    found = [points(bundle, scans, options.threads) for bundle in bundles]
    voxels = np.linalg.norm((found[1] - found[0]) / np.asarray(task.fine.spacing_mm), axis=-1)
    print("| scans | points | mean | p99 | max | above 0.002 |\n|---|---|---|---|---|---|")
    print(row(f"all {len(scans)}", voxels))
    if options.split:
        left_out = set(split_from_file(options.split, [case.id for case in cases]).validation)
        rows = [len(scans) - len(cases) + n for n, case in enumerate(cases) if case.id in left_out]
        print(row(f"{len(rows)} not trained on", voxels[rows]))
    if cases:
        truth = np.stack([case.points for case in cases])
        errors = [np.linalg.norm(array[-len(cases) :] - truth, axis=-1).mean() for array in found]
        print(f"\nerror: {errors[0]:.6f} mm before, {errors[1]:.6f} mm after")
    for name, model in (("before", options.before), ("after", options.after)):
        first, again = opening_seconds(model, options.threads)
        size = sum(path.stat().st_size for path in open_bundle(model).root.rglob("*") if path.is_file())
        print(f"{name}: {size / 1e6:.2f} MB; opened in {first:.2f} s of CPU time the first time, {again:.2f} s later")


if __name__ == "__main__":
    main()
