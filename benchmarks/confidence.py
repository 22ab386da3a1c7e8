"""How far a model's confidence can be trusted: on cases left out, on other scans, and feature by feature.

    python -m benchmarks.confidence MODEL --data DIR --observations FILE.npz --out benchmarks/results/NAME
        [--others DIR] [--kept OTHERS.npz]

DIR holds ``images/`` and ``landmarks/``.  FILE is what ``trtlm confidence --observations`` keeps; it is made if it is
not there.  ``--others`` names an annotated folder of the same anatomy in any orientation; those scans, those of the
validation cases turned back, the validation scans turned half round, a brain (from nilearn's package, as it is and
shrunk to the field of view), noise, a ball and a single bright voxel are localized too: OTHERS.npz keeps the results.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.confidence.command import fit, gather, shape_and_cases
from trt_landmarks.confidence.fitting import FALSE_ALARMS, LARGE, PARTS, Sample, fit_score, sample
from trt_landmarks.confidence.measuring import area_under_curve, judge_others
from trt_landmarks.confidence.observation import Observation, load_observations, observe, save_observations
from trt_landmarks.confidence.perturbation import WRONG, Perturbed
from trt_landmarks.confidence.report import report as render
from trt_landmarks.data.dataset import Case, load_dataset
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.geometry import Floats, Geometry, rigid_rotation
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.localization.shape_model import ShapeModel
from trt_landmarks.scan import Scan, read_scan

#: What the reports name as their command.
COMMAND = "python -m benchmarks.confidence {} --data DIR --observations FILE --others DIR"
#: Factors by which the human brain is shrunk towards a small field of view.
SHRUNK = (0.05, 0.1, 0.15, 0.2)


def others(bundle: Bundle, cases: tuple[Case, ...], folder: Path | None) -> Iterator[Perturbed]:
    """Scans of something else, or that lie otherwise; ``strength`` is the angle from the usual pose, degrees."""
    nothing = np.full((len(bundle.task.landmarks), 3), np.nan)
    if folder is not None:
        for case in load_dataset(folder, bundle.task):
            turn = rigid_rotation(bundle.mean_shape, case.points)
            angle = float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))
            scan = read_scan(case.image)
            yield Perturbed(scan, case.points, "any orientation", WRONG, angle)
            if case.id in {one.id for one in cases}:
                yield Perturbed(*turned(scan, case.points, turn.T), "turned back", WRONG, 0.0)
    for case in cases:
        scan = read_scan(case.image)
        for axis in range(3):
            half = -np.eye(3)
            half[axis, axis] = 1
            yield Perturbed(*turned(scan, case.points, half), f"half turn about {'xyz'[axis]}", WRONG, 180.0)
    try:
        import nilearn
    except ModuleNotFoundError:
        pass
    else:
        data = Path(nilearn.__file__).parent / "datasets" / "data"
        brain = read_scan(data / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
        yield Perturbed(replace(brain, id="brain"), nothing, "brain", WRONG, 0.0)
        for factor in SHRUNK:
            g = brain.geometry
            (a, b, c), (x, y, z) = (factor * edge for edge in g.spacing), (factor * p for p in g.origin)
            small = Scan(f"brain x {factor:g}", None, brain.voxels, Geometry(g.size, (a, b, c), (x, y, z), g.direction))
            yield Perturbed(small, nothing, "brain", WRONG, 0.0)
    frame = read_scan(cases[0].image)
    random = np.random.default_rng(0)
    place = frame.geometry.voxel_to_world(np.stack([*np.indices(frame.geometry.size)], axis=-1)).transpose(2, 1, 0, 3)
    ball = np.linalg.norm(place - frame.geometry.centre, axis=-1) < np.ptp(cases[0].points, axis=0).max() / 3
    point = np.zeros(frame.voxels.shape, np.uint8)
    point[0, 0, 0] = 1
    made = {
        "uniform noise": random.integers(0, 256, frame.voxels.shape, dtype=np.uint8),
        "normal noise": random.normal(size=frame.voxels.shape).astype(np.float32),
        "ball": ball.astype(np.uint8),
        "one bright voxel": point,
    }
    for name, voxels in made.items():
        yield Perturbed(
            Scan(name, None, np.ascontiguousarray(voxels), frame.geometry), nothing, "no anatomy", WRONG, 0.0
        )


def turned(scan: Scan, points: Floats, turn: Floats) -> tuple[Scan, Floats]:
    """A scan and its landmarks turned about the scan's middle."""
    g = scan.geometry
    x, y, z = g.centre + turn @ (np.asarray(g.origin) - g.centre)
    moved = Geometry(g.size, g.spacing, (x, y, z), turn @ g.direction)
    return replace(scan, geometry=moved), g.centre + (points - g.centre) @ turn.T


def candidates(bundle: Bundle, shape: ShapeModel, observations: list[Observation]) -> dict[str, Floats]:
    """Features that could be used beside those that are: name -> ``[S, N]``."""
    voxel = float(np.mean(bundle.task.fine.spacing_mm))
    half = np.asarray(bundle.task.fine.extent_mm) / 2
    moved, border, off, size = [], [], [], []
    for one in observations:
        found = one.found
        moved.append(np.log(np.linalg.norm(found.points - found.coarse_points, axis=1) / voxel + 0.5))
        axes = rigid_rotation(bundle.mean_shape, found.coarse_points)
        border.append(np.abs((found.points - found.coarse_points) @ axes / half).max(axis=1))
        from_slice = np.zeros(len(found.points))
        for plane in found.slices:
            members = list(bundle.task.members(plane.group))
            distance = np.abs((found.points[members] - plane.point) @ plane.normal)
            from_slice[members] = np.log(distance / voxel + 0.5)
        off.append(from_slice)
        scale = shape.residuals(found.points, np.clip(found.confidence, 0.01, 1)).scale
        size.append(np.full(len(found.points), abs(np.log(scale))))
    return {
        "moved from coarse": np.stack(moved),
        "near the patch's border": np.stack(border),
        "off its key slice": np.stack(off),
        "size": np.stack(size),
    }


def ablation(data: Sample, more: dict[str, Floats]) -> list[dict[str, Any]]:
    """Area under the curve, and large errors found at the same rate of false alarms, with several sets of features."""
    peak, unexpected = data.features[..., 0], data.features[..., 1]
    means = {f"mean {name}": np.broadcast_to(values.mean(axis=1)[:, None], values.shape)
             for name, values in (("peak", peak), ("shape", unexpected))}  # fmt: skip
    sets = {"peak": [peak], "shape": [unexpected], "peak, shape": [peak, unexpected]}
    sets |= {f"peak, shape, {name}": [peak, unexpected, values] for name, values in (more | means).items()}
    sets["all"] = [peak, unexpected, *more.values(), *means.values()]
    large_mm = LARGE * float(np.nanmedian(data.errors[data.part == "clean"]))
    rows = [{"features": "height of the heatmap, nothing fitted", **ranking(data, -data.peaks, large_mm)}]
    for name, columns in sets.items():
        chosen = replace(data, features=np.stack(columns, axis=-1))
        scores = np.zeros(data.errors.shape)
        for case in data.cases:
            here = data.case == case
            scores[here] = fit_score(chosen.where(~here), large_mm)(chosen.features[here])
        rows.append({"features": name, **ranking(data, scores, large_mm)})
    return rows


def ranking(data: Sample, scores: Floats, large_mm: float) -> dict[str, Any]:
    """How well scores tell large errors apart, by part."""
    figures: dict[str, Any] = {}
    for part in (*PARTS, "all"):
        rows = np.isin(data.part, PARTS) if part == "all" else data.part == part
        known = data.known & rows[:, None]
        score, large = scores[known], data.errors[known] > large_mm
        limit = np.quantile(score[~large], 1 - FALSE_ALARMS)
        figures[part] = {
            "area_under_curve": area_under_curve(score, large),
            "detected": round(float((score[large] > limit).mean()), 4),
        }
    return figures


def main() -> None:
    """Measure and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", type=Path)
    parser.add_argument("--observations", type=Path, required=True)
    parser.add_argument("--others", type=Path)
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="files OUT.json and OUT.md are written")
    options = parser.parse_args()
    bundle = open_bundle(options.model)
    shape, cases = shape_and_cases(bundle, options.data, options.split)
    seen = gather(bundle, cases, options.observations)
    done = fit(bundle, shape, seen)
    if options.kept is not None and options.kept.is_file():
        strange = load_observations(options.kept, bundle.task)
    else:
        localizer = Localizer(bundle.task, bundle.mean_shape, OnnxRuntimeEngine(bundle.cpu_graphs))
        strange = [observe(localizer, made) for made in others(bundle, cases, options.others)]
        if options.kept is not None:
            save_observations(options.kept, strange)
    rows = judge_others(done.model, strange)
    features = ablation(sample(shape, seen), candidates(bundle, shape, seen))
    report = {**done.report, "features": features, "others": rows}
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
    text = render(done.report) + tables(features, rows) + f"\nMade with: `{COMMAND.format(bundle.name)}`\n"
    options.out.with_suffix(".md").write_text(text)
    print(text)


def tables(features: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Markdown of the features and of the other scans."""
    parts = (*PARTS, "all")
    lines = [
        "",
        "## Which features",
        "",
        f"Area under the curve / large errors flagged when {100 * FALSE_ALARMS:g} % of the part's other landmarks are.",
        "",
        f"| features | {' | '.join(parts)} |",
        f"|---|{'---|' * len(parts)}",
    ]
    for row in features:
        cells = (f"{row[part]['area_under_curve']:.3f} / {100 * row[part]['detected']:.0f} %" for part in parts)
        lines.append(f"| {row['features']} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Scans of something else, or lying otherwise",
        "",
        "| scan | what | turned, degrees | median error, mm | flagged `not_this_anatomy` |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["kind"], row["strength"])):
        error = "-" if row["median_error_mm"] is None else f"{row['median_error_mm']:.2f}"
        lines.append(
            f"| {row['scan']} | {row['kind']} | {row['strength']:.0f} | {error} | {'yes' if row['flagged'] else 'no'} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
