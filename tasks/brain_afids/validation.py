"""How well a model finds the fiducials, in made cases of people it was not trained on and in other scans.

    python -m tasks.brain_afids.validation MODEL --cases DIR [--scan NAME FILE LANDMARKS]... --out FILE.json

DIR is a folder made by tasks.brain_afids.cases; its validation people are localized.  (The figures in
benchmarks/results are of cases made with --train 1 --validation 24 --seed 1.)  Every --scan is one further
scan with its own landmark file; there the shift that all landmarks share is told apart.  Both stages are measured,
and the mean shape in the scan's middle as the guess to beat; made cases also apart, by contrast and with and without
a head around the brain.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.bundles.select import open_engine
from trt_landmarks.data.annotations import read_landmarks, select
from trt_landmarks.data.dataset import Case, load_dataset, split_from_file
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.results.metrics import evaluate_points
from trt_landmarks.scan import read_scan

#: Kinds of made cases that are measured apart.
KINDS = {
    "made, T1": {"t1": True},
    "made, T1, whole head": {"t1": True, "head": True},
    "made, T1, brain only": {"t1": True, "head": False},
    "made, other contrast": {"t1": False},
}


def localize(bundle: Bundle, cases: list[Case]) -> dict[str, Floats]:
    """Points ``[C, N, 3]`` of all cases by what gives them: guess, coarse, fine."""
    localizer = Localizer(bundle.task, bundle.mean_shape, open_engine(bundle, "onnxruntime")[0])
    points: dict[str, list[Floats]] = {"guess": [], "coarse": [], "fine": []}
    for case in cases:
        scan = read_scan(case.image)
        found = localizer.localize(scan)
        points["guess"].append(bundle.mean_shape + scan.geometry.centre)
        points["coarse"].append(found.coarse_points)
        points["fine"].append(found.points)
    return {stage: np.stack(rows) for stage, rows in points.items()}


def tables(
    bundle: Bundle, cases: list[Case], found: dict[str, Floats], chosen: list[int], full: bool
) -> dict[str, Any]:
    """Figures of the ``chosen`` cases, for each stage; ``full``: per landmark for both stages together."""
    task, truth = bundle.task, np.stack([cases[n].points for n in chosen])
    groups = {group.name: list(group.landmarks) for group in task.groups}
    stages = {}
    for stage, points in found.items():
        table = evaluate_points(points[chosen], truth, task.landmarks, task.sdr_radii_mm, groups=groups).to_dict()
        stages[stage] = table if full and stage == "fine" else {"overall": table["overall"]}
    return {"cases": [cases[n].id for n in chosen], **stages}


def common_shift(found: Floats, truth: Floats) -> dict[str, Any]:
    """What all landmarks of one scan ``[N, 3]`` are off by alike: the frames of file and annotation may differ."""
    shift = np.nanmedian(found - truth, axis=0)
    rest = np.linalg.norm(found - truth - shift, axis=1)
    return {
        "median_shift_lps_mm": [round(float(value), 3) for value in shift],
        "without_it": {"mre_mm": round(float(np.nanmean(rest)), 3), "median_mm": round(float(np.nanmedian(rest)), 3)},
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--scan", nargs=3, action="append", default=[], metavar=("NAME", "FILE", "LANDMARKS"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    bundle = open_bundle(options.model)
    marks = bundle.task.landmarks
    dataset = load_dataset(options.cases, bundle.task)
    cases = list(dataset.subset(split_from_file(options.cases / "split.json", dataset.ids).validation))
    kind_of = json.loads((options.cases / "kinds.json").read_text())
    kinds = {"made": list(range(len(cases)))}
    for name, wanted in KINDS.items():
        kinds[name] = [n for n in kinds["made"] if wanted.items() <= kind_of[cases[n].id].items()]
    for name, image, landmarks in options.scan:
        kinds[name] = [len(cases)]
        cases.append(Case(name, Path(image), select(read_landmarks(landmarks), marks, landmarks)))
    found = localize(bundle, cases)
    scans = [name for name, _, _ in options.scan]
    report = {
        kind: tables(bundle, cases, found, chosen, full=kind in ("made, T1", *scans))
        for kind, chosen in kinds.items()
        if chosen
    }
    for name in scans:
        (n,) = kinds[name]
        report[name] |= common_shift(found["fine"][n], cases[n].points)
    command = f"python -m tasks.brain_afids.validation {bundle.name} --cases DIR"
    command += "".join(f" --scan '{name}' FILE LANDMARKS" for name in scans)
    options.out.write_text(json.dumps({"command": command, **report}, indent=1) + "\n")
    for kind, table in report.items():
        for stage in found:
            row = table[stage]["overall"]
            sdr = ", ".join(f"{one['percent']:.1f} % within {one['radius_mm']:g} mm" for one in row["sdr"])
            print(f"{kind} ({len(table['cases'])}), {stage}: MRE {row['mre_mm']:.2f} mm, {sdr}")


if __name__ == "__main__":
    main()
