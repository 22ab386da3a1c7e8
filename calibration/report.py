"""The report of a calibration, for people: Markdown beside the graphs; the same figures are in ``build.json``."""

from __future__ import annotations

from typing import Any

from trt_landmarks.bundles.builds import deviation_summary
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.calibration.recipe import AIM_VOXEL, LEAST_INT8, Recipe

#: Operators people ask about, because their accuracy or speed in INT8 is in doubt.
DOUBTFUL = (
    "ConvTranspose", "InstanceNormalization", "BatchNormalization", "GroupNormalization", "LayerNormalization"
)  # fmt: skip
#: Layers of a ranking that are shown.
SHOWN = 10


def report(bundle: Bundle, recipe: Recipe, facts: dict[str, Any]) -> str:
    """Markdown.

    Args:
        bundle: the model.
        recipe: how it was calibrated.
        facts: what :func:`~trt_landmarks.calibration.lower.lower` tells.
    """
    lines = [f"# {bundle.name} in {recipe.precision.upper()}", "", *_gate(facts["gate"]), "", "## Graphs", ""]
    lines += _int8(facts["lowering"]) if recipe.precision == "int8" else _fp16(facts["lowering"])
    if "sensitivity" in facts:
        lines += ["", "## Sensitivity", "", *_sensitivity(facts["sensitivity"])]
    if facts["gate"]:
        lines += ["", "## Deviation from FP32 per landmark", "", "| landmark | mean mm | p95 mm | max mm |"]
        lines += ["|---|---|---|---|"]
        for name, row in sorted(facts["gate"]["landmarks"].items(), key=lambda item: -item[1]["mean_mm"]):
            lines.append(f"| {name} | {row['mean_mm']:.4f} | {row['p95_mm']:.4f} | {row['max_mm']:.4f} |")
    return "\n".join(lines) + "\n"


def _gate(gate: dict[str, Any] | None) -> list[str]:
    if gate is None:
        return ["Accuracy in mm was not measured: no scans were given."]
    verdict = "passed" if gate["passed"] else "NOT passed, accepted as asked"
    limits = ", ".join(f"{name.replace('_', ' ')} <= {limit:g}" for name, limit in gate["limits"].items())
    lines = [
        f"Gate: **{verdict}** ({limits}).",
        "",
        f"Measured on {len(gate['on'])} scans that were not calibrated on ({', '.join(gate['on'])}), {gate['engine']}:",
        f"{deviation_summary(gate)}.",
    ]
    if "mre_mm" not in gate:
        lines.append("No annotations were at hand, so the change of the mean radial error was not measured.")
    return lines


def _fp16(lowering: dict[str, Any]) -> list[str]:
    lines = ["| graph | nodes FP16 | nodes FP32 | decoding, any type | convolutions in FP16 | too large for FP16 |"]
    lines += ["|---|---|---|---|---|---|"]
    for graph, row in lowering.items():
        nodes = row["nodes"]
        lines.append(
            f"| {graph} | {nodes.get('fp16', 0)} | {nodes.get('fp32', 0)} | {row['decoding_nodes']} "
            f"| {100 * row['conv_flops_fp16']:.2f} % of operations | {row['too_large']} |"
        )
    return lines


def _int8(lowering: dict[str, Any]) -> list[str]:
    lines = [
        "| graph | convolutions in INT8 | layers in INT8 | convolutions left | excluded |",
        "|---|---|---|---|---|",
    ]
    present: set[str] = set()
    for graph, row in lowering.items():
        layers = ", ".join(f"{count} {name}" for name, count in row["layers_int8"].items())
        left = ", ".join(f"{name} ({100 * share:.2g} %)" for name, share in row["convolutions_left"].items())
        excluded = ", ".join(row["excluded"])
        share = f"{100 * row['conv_flops_int8']:.2f} % of operations"
        lines.append(f"| {graph} | {share} | {layers} | {left or 'none'} | {excluded or 'none'} |")
        present |= {name for name in DOUBTFUL if row["operators"].get(name)}
    absent = [name for name in DOUBTFUL if name not in present]
    if present:
        lines += ["", f"In these graphs: {', '.join(sorted(present))}; the ranking shows what they cost in INT8."]
    if absent:
        lines += ["", f"Not in these graphs, so not a question here: {', '.join(absent)}."]
    return lines


def _sensitivity(graphs: dict[str, Any]) -> list[str]:
    scans = max(found["inputs"] for found in graphs.values())
    lines = [
        f"Mean deviation of a graph's points from FP32 on {scans} calibration scans: with one layer in",
        "INT8, and with all others. Layers are excluded, worst first, while the deviation with all is above",
        f"{AIM_VOXEL:g} voxel of the graph's grid and {100 * LEAST_INT8:g} % of the convolutions' work stays in INT8.",
    ]
    for graph, found in graphs.items():
        chosen = ", ".join(found["excluded"]) or "none"
        lines += ["", f"**{graph}**: {found['mean_mm']:.5f} mm with all layers; excluded: {chosen}"]
        if found["excluded"]:
            lines[-1] += f" ({found['mean_mm_excluded']:.5f} mm then)"
        lines += [
            "",
            "| layer | operator | alone, mm | all others, mm | convolutions' operations |",
            "|---|---|---|---|---|",
        ]
        for row in found["layers"][:SHOWN]:
            lines.append(
                f"| {row['node']} | {row['operator']} | {row['alone_mm']:.5f} | {row['without_mm']:.5f} "
                f"| {100 * row['conv_flops']:.2f} % |"
            )
    return lines
