"""How well registering the template finds the fiducials of a scan: the usual way without a net, to compare with.

    pip install antspyx
    python -m tasks.brain_afids.registration tasks/brain-afids.yaml --data DIR [--scan NAME FILE LANDMARKS]... \
        --out FILE.json

ANTs' symmetric normalization (SyN, its own defaults) takes the template, which shows the brain alone, to each scan,
and with it the template's landmarks.  Scans should show the brain alone, too.  DIR is the folder of the fiducials.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.writing import this_machine
from tasks.brain_afids.scan import t1_path
from tasks.brain_afids.template import load_template
from tasks.brain_afids.validation import common_shift
from trt_landmarks.data.annotations import read_landmarks, select
from trt_landmarks.geometry import Floats
from trt_landmarks.results.metrics import evaluate_points
from trt_landmarks.system import installed_versions
from trt_landmarks.task.task import load_task


def registered(scan: Path, points: Floats) -> Floats:
    """The template's ``points`` ``[N, 3]`` (LPS mm) as SyN takes them to a scan."""
    import ants
    import pandas

    found = ants.registration(ants.image_read(str(scan)), ants.image_read(str(t1_path())), type_of_transform="SyN")
    table = pandas.DataFrame(points, columns=["x", "y", "z"])
    # Points go the other way than images do, through the inverse transforms; the affine one is inverted on the way.
    moved = ants.apply_transforms_to_points(3, table, found["invtransforms"], whichtoinvert=[True, False])
    return np.asarray(moved[["x", "y", "z"]], dtype=np.float64)


def main() -> None:
    """Register and measure every scan, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scan", nargs=3, action="append", default=[], metavar=("NAME", "FILE", "LANDMARKS"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    task = load_task(options.task)
    template = load_template(options.data, task)
    report: dict[str, Any] = {"machine": this_machine(), "versions": installed_versions(["antspyx"])}
    for name, image, landmarks in options.scan:
        truth = select(read_landmarks(landmarks), task.landmarks, landmarks)
        started = time.perf_counter()
        found = registered(Path(image), template.points)
        seconds = time.perf_counter() - started
        table = evaluate_points(found[None], truth[None], task.landmarks, task.sdr_radii_mm).to_dict()
        report[name] = {"seconds": round(seconds, 1), "registration": table, **common_shift(found, truth)}
        overall, rest = table["overall"]["mre_mm"], report[name]["without_it"]["mre_mm"]
        print(f"{name}: MRE {overall:.2f} mm, without the common shift {rest:.2f} mm, in {seconds:.0f} s")
    options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
