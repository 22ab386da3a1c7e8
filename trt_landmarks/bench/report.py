"""The report: rows of plain data, and the same for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_landmarks.bench.measure import Subject
from trt_landmarks.bench.statistics import ratio, summarize
from trt_landmarks.bench.ways import BASELINES, DEFAULT, NET_STAGES, STAGES, TORCH
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.errors import TrtlmError
from trt_landmarks.files import write_text
from trt_landmarks.geometry import Floats
from trt_landmarks.results.metrics import evaluate_points

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = "2"
SCHEMA_FILE = Path(__file__).with_name("bench.schema.json")
JSON_NAME, MARKDOWN_NAME = "bench.json", "bench.md"


def describe_way(subject: Subject) -> dict[str, Any]:
    """What was measured of a way."""
    nets = [taken for stage, taken in subject.stages.items() if stage in NET_STAGES]
    total = [value for values in subject.samples.values() for value in values]
    return {
        "way": subject.way.name,
        "what": subject.way.what,
        "note": subject.note,
        "precision": subject.way.precision,
        "warm_ms": summarize(total).to_dict(),
        "cpu_ms": summarize(subject.cpu).to_dict(),
        "cold_ms": summarize(subject.cold).to_dict(),
        "nets_ms": summarize(np.sum(nets, axis=0)).to_dict() if nets else None,
        "stages_ms": {stage: summarize(subject.stages[stage]).to_dict() for stage in _in_order(subject.stages)},
        "samples_ms": {scan: [round(value, 3) for value in values] for scan, values in subject.samples.items()},
        "cold_samples_ms": [round(value, 1) for value in subject.cold],
        "host_peak_mib": subject.host_peak_mib,
        "device_mib": subject.device_mib,
        "warm_up": subject.warm_up,
    }


def ratios(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """How many times as fast as each baseline every other way is."""
    samples = {one.way.name: [value for values in one.samples.values() for value in values] for one in subjects}
    return [
        {"way": name, "baseline": baseline, **ratio(samples[baseline], values).to_dict()}
        for baseline in BASELINES
        if baseline in samples
        for name, values in samples.items()
        if name != baseline
    ]


def accuracy(bundle: Bundle, subjects: Sequence[Subject], truth: Mapping[str, Floats]) -> list[dict[str, Any]]:
    """How far the points of every way are from FP32's, and from the annotations ``truth`` where there are any.

    FP32 is PyTorch's, or ONNX Runtime's where PyTorch did not run.
    """
    by_name = {one.way.name: one.points for one in subjects}
    reference = next((name for name in (TORCH, DEFAULT) if name in by_name), None)
    rows = []
    for name, points in by_name.items():
        row: dict[str, Any] = {"way": name, "reference": reference, "deviation_mm": None, "mre_mm": None,
                               "annotated_points": 0}  # fmt: skip
        if reference is not None:
            apart = np.concatenate([np.linalg.norm(points[scan] - by_name[reference][scan], axis=1) for scan in points])
            row["deviation_mm"] = {"mean": round(float(apart.mean()), 6), "max": round(float(apart.max()), 6),
                                   "p99": round(float(np.percentile(apart, 99)), 6)}  # fmt: skip
        scans = [scan for scan in points if scan in truth]
        if scans:
            found, expected = np.stack([points[s] for s in scans]), np.stack([truth[s] for s in scans])
            overall = evaluate_points(found, expected, bundle.task.landmarks, bundle.task.sdr_radii_mm).overall
            row |= {"mre_mm": round(overall.mre_mm, 5), "annotated_points": overall.n}
        rows.append(row)
    return rows


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write ``bench.json`` and ``bench.md``.

    Raises:
        TrtlmError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrtlmError(f"{folder}: cannot be made: {error.strerror}.", "Name another with --out.") from None
    write_text(folder / JSON_NAME, json.dumps(report, indent=1, ensure_ascii=False) + "\n", TrtlmError)
    write_text(folder / MARKDOWN_NAME, markdown(report), TrtlmError)


def main_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the main table."""
    present = [baseline for baseline in BASELINES if any(way["way"] == baseline for way in report["ways"])]
    header = ["way", "warm p50", "p90", "p99", "mean", "n", "CPU p50", "nets p50", "cold p50",
              *(f"x {name}" for name in present),
              "host MiB", "GPU MiB", "deviation mm: mean", "p99", "max", "MRE mm"]  # fmt: skip
    faster = {(one["way"], one["baseline"]): one for one in report["ratios"]}
    exact = {one["way"]: one for one in report["accuracy"]}
    rows = []
    for way in report["ways"]:
        warm, found = way["warm_ms"], exact[way["way"]]
        apart = found["deviation_mm"] or {}
        rows.append([
            way["way"], *(f"{warm[key]:.0f}" for key in ("p50", "p90", "p99", "mean")), str(warm["n"]),
            f"{way['cpu_ms']['p50']:.0f}", f"{way['nets_ms']['p50']:.0f}" if way["nets_ms"] else "-",
            f"{way['cold_ms']['p50']:.0f}",
            *(_times(faster.get((way["way"], name))) for name in present),
            *("-" if way[key] is None else f"{way[key]:.0f}" for key in ("host_peak_mib", "device_mib")),
            *(f"{apart[key]:.1e}" if key in apart else "-" for key in ("mean", "p99", "max")),
            "-" if found["mre_mm"] is None else f"{found['mre_mm']:.4f}",
        ])  # fmt: skip
    return header, rows


def stage_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table of stages: medians."""
    stages = _in_order({stage for way in report["ways"] for stage in way["stages_ms"]})
    rows = [
        [way["way"], *(f"{way['stages_ms'][s]['p50']:.1f}" if s in way["stages_ms"] else "-" for s in stages)]
        for way in report["ways"]
    ]
    return ["way", *stages], rows


def markdown(report: Mapping[str, Any]) -> str:
    """The report for people."""
    lines = ["# trtlm bench", "", *about(report), "", "## A scan, end to end (ms)", "", *_table(*main_rows(report)), ""]
    lines += [*(f"- `{way['way']}`: {way['what']} ({way['note']})." for way in report["ways"]), ""]
    lines += ["## Stages (medians, ms)", "", *_table(*stage_rows(report)), ""]
    if report["throughput"]:
        lines += ["## A folder", "", *throughput_lines(report["throughput"]), ""]
    if report["preprocessing"]:
        lines += ["## The coarse volume (ms)", "", *_table(*preprocessing_rows(report)), ""]
    if report["not_run"]:
        lines += ["## What did not run here", "", *not_run_lines(report), ""]
    return "\n".join(lines)


def about(report: Mapping[str, Any]) -> list[str]:
    """What was measured, on what."""
    machine, method, share = report["machine"], report["method"], report["share_of_others"]
    gpu = ", ".join(machine["gpus"]) or machine["no_gpu"]
    scans = report["scans"]
    lines = [
        f"Model {report['model']['name']}, {report['model']['landmarks']} landmarks; {len(scans['ids'])} scans "
        f"({len(scans['unseen_in_training'])} of them unseen in training), {method['rounds']} rounds.",
        f"{machine['processor']}, {machine['cores']} cores, {method['threads']} threads for every way; governor "
        f"{machine['governor'] or 'unknown'}; GPU: {gpu}.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in report["versions"].items())
        + (f"; commit {report['commit'][:12]}" if report["commit"] else "") + ".",
        f"Order: {method['order']}. Warm-up: {method['warm_up']}. Outliers: {method['outliers']}.",
        "Cold is a fresh process up to its first results (files in the system's cache); CPU is processor time of all "
        "threads, beside the wall time; nets is what the nets take within the scan; x is how many times as fast as a "
        "baseline (median of neighbouring runs, 95 % interval); deviation is from the reference's points.",
    ]  # fmt: skip
    if share is not None:
        lines.append(f"Other processes had {100 * share['median']:.0f} % of the cores (median of the rounds; "
                     f"{100 * share['min']:.0f} to {100 * share['max']:.0f} %).")  # fmt: skip
    unstable = [way["way"] for way in report["ways"] if not way["warm_up"]["stable"]]
    if unstable:
        lines.append(f"Not stable after the warm-up: {', '.join(unstable)}.")
    return lines


def throughput_lines(found: Mapping[str, Any]) -> list[str]:
    """The folder's throughput."""
    one, many = found["one_by_one_per_second"], found["pipelined_per_second"]
    return [f"{found['scans']} scans, {found['rounds']} rounds: {one['median']:.2f} scans/s one by one, "
            f"{many['median']:.2f} pipelined: {_times(found['times_as_fast'])} times ({found['note']})."]  # fmt: skip


def preprocessing_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the preprocessing's table."""
    header = ["way", "p50", "p90", "p99", "n", "x reference", "largest difference (of 0..1)", "note"]
    return header, [
        [row["way"], *(f"{row['ms'][key]:.2f}" for key in ("p50", "p90", "p99")), str(row["ms"]["n"]),
         _times(row["times_as_fast_as_reference"]), f"{row['largest_difference']:.1e}", row["note"]]
        for row in report["preprocessing"]
    ]  # fmt: skip


def not_run_lines(report: Mapping[str, Any]) -> list[str]:
    """What did not run: one line for each reason."""
    reasons: dict[str, list[str]] = {}
    for entry in report["not_run"]:
        reasons.setdefault(entry["reason"], []).append(entry["way"])
    return [f"- {', '.join(ways)}: {reason}." for reason, ways in reasons.items()]


def render(report: Mapping[str, Any], console: Console) -> None:
    """Print the report on a rich console."""
    from rich.table import Table

    for line in about(report):
        console.print(line, markup=False, highlight=False)
    tables = [("A scan, end to end (ms)", main_rows(report)), ("Stages (medians, ms)", stage_rows(report))]
    if report["preprocessing"]:
        tables.append(("The coarse volume (ms)", preprocessing_rows(report)))
    for title, (header, rows) in tables:
        table = Table(title=title, title_justify="left")
        for number, name in enumerate(header):
            table.add_column(name, justify="right" if number else "left", no_wrap=not number)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in throughput_lines(report["throughput"]) if report["throughput"] else []:
        console.print(line, markup=False, highlight=False)
    if report["not_run"]:
        console.print("Did not run here:", *not_run_lines(report), sep="\n", markup=False, highlight=False)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in line) + " |" for line in lines]


def _in_order(stages: Any) -> list[str]:
    """Stages in the order of a scan; others, of graphs over a whole scan, before the last."""
    known = [stage for stage in STAGES if stage in stages]
    return [*known[:-1], *sorted(stage for stage in stages if stage not in STAGES), *known[-1:]]


def _times(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    return f"{found['value']:.2f}" + ("" if found["low"] is None else f" ({found['low']:.2f} to {found['high']:.2f})")
