"""The report says what was measured, for real builds of the small task."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.calibration.graphs import LEFT_OUT, Lowered
from trt_landmarks.bundles.builds import list_builds
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.calibration.recipe import Recipe
from trt_landmarks.calibration.report import report
from trt_landmarks.calibration.scans import CalibrationScans

INT8 = Recipe("int8", "max", (f"independent:{LEFT_OUT}",))


@pytest.fixture(scope="module")
def fp16(built_bundle: Bundle) -> dict[str, Any]:
    """What is recorded of a build, and so what the report was made of."""
    (build,) = list_builds(built_bundle)
    return build.record


@pytest.fixture(scope="module")
def int8(accepted: Lowered) -> dict[str, Any]:
    return accepted.facts


def rows(text: str, first: str) -> list[list[str]]:
    """The rows of the table whose header begins with a word."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {first} |"))
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    assert {len(row) for row in table} == {len(table[0])} and set("".join(table[1])) == {"-"}
    return table[2:]


def test_fp16_without_scans(tiny_bundle: Bundle, fp16: dict[str, Any]) -> None:
    text = report(tiny_bundle, Recipe("fp16"), fp16)
    assert text.startswith("# tiny in FP16\n") and text.endswith("|\n")
    assert "Accuracy in mm was not measured: no scans were given." in text
    assert "Gate" not in text and "per landmark" not in text and "Sensitivity" not in text
    table = rows(text, "graph")
    assert [row[0] for row in table] == list(tiny_bundle.graphs)
    for row, lowering in zip(table, fp16["lowering"].values(), strict=True):
        assert row[1:4] == [str(n) for n in (*lowering["nodes"].values(), lowering["decoding_nodes"])]
        assert row[4:] == [f"{100 * lowering['conv_flops_fp16']:.2f} % of operations", "0"]


def test_int8_that_was_accepted(tiny_bundle: Bundle, scans: CalibrationScans, int8: dict[str, Any]) -> None:
    text = report(tiny_bundle, INT8, int8)
    gate = int8["gate"]
    assert not gate["passed"] and "Gate: **NOT passed, accepted as asked**" in text
    assert "mean voxel <= 0.1" in text
    names = ", ".join(file.id for file in scans.held_out)
    assert f"Measured on 2 scans that were not calibrated on ({names}), ONNX Runtime on the CPU" in text
    assert f"mean {gate['mean_voxel']:.4f}" in text and f"MRE {gate['mre_fp32_mm']:.4f} mm -> " in text
    assert "No annotations" not in text
    table = {row[0]: row[1:] for row in rows(text, "graph")}
    assert list(table) == list(tiny_bundle.graphs)
    for graph, (share, layers_text, left, excluded) in table.items():
        lowering = int8["lowering"][graph]
        assert share == f"{100 * lowering['conv_flops_int8']:.2f} % of operations"
        assert f"{lowering['layers_int8']['Conv']} Conv" in layers_text
        assert all(name in left for name in lowering["convolutions_left"])
        assert excluded == (LEFT_OUT if graph == "independent" else "none")
    landmarks = rows(text, "landmark")
    assert {row[0] for row in landmarks} == set(tiny_bundle.task.landmarks)
    means = [float(row[1]) for row in landmarks]
    assert means == sorted(means, reverse=True)
    assert means[0] == pytest.approx(max(row["mean_mm"] for row in gate["landmarks"].values()), abs=1e-4)


def test_a_gate_that_was_passed_without_annotations(tiny_bundle: Bundle, int8: dict[str, Any]) -> None:
    facts = copy.deepcopy(int8)
    facts["gate"] = {
        name: value for name, value in facts["gate"].items() if name != "accepted" and "mre" not in name
    } | {"passed": True, "failures": []}
    text = report(tiny_bundle, INT8, facts)
    assert "Gate: **passed**" in text and "MRE" not in text
    assert "No annotations were at hand, so the change of the mean radial error was not measured." in text


def test_layers_people_ask_about_are_named_or_said_to_be_absent(tiny_bundle: Bundle, int8: dict[str, Any]) -> None:
    text = report(tiny_bundle, INT8, int8)
    assert "Not in these graphs, so not a question here: ConvTranspose, InstanceNormalization," in text
    assert "In these graphs:" not in text
    facts = copy.deepcopy(int8)
    facts["lowering"]["coarse"]["operators"]["InstanceNormalization"] = 3
    text = report(tiny_bundle, INT8, facts)
    assert "In these graphs: InstanceNormalization; the ranking shows" in text
    assert "Not in these graphs, so not a question here: ConvTranspose, BatchNormalization," in text


def test_the_ranking(tiny_bundle: Bundle, int8: dict[str, Any]) -> None:
    layers = [
        {"node": f"conv{n}", "operator": "Conv", "alone_mm": 0.5 - n / 100, "without_mm": 0.25, "conv_flops": 0.04}
        for n in range(12)
    ]
    ranking = {"mean_mm": 0.75, "layers": layers, "excluded": ["conv0", "conv2"], "mean_mm_excluded": 0.125}
    quiet = {**ranking, "excluded": [], "mean_mm_excluded": 0.75, "inputs": 1}
    facts = {**int8, "sensitivity": {"coarse": {**ranking, "inputs": 3}, "independent": quiet}}
    text = report(tiny_bundle, Recipe("int8", sensitivity=True), facts)
    assert "## Sensitivity" in text and "on 3 calibration scans" in text
    assert "**coarse**: 0.75000 mm with all layers; excluded: conv0, conv2 (0.12500 mm then)\n" in text
    assert "**independent**: 0.75000 mm with all layers; excluded: none\n" in text
    table = rows(text, "layer")
    assert [row[0] for row in table] == [f"conv{n}" for n in range(10)]  # the worst ten
    assert table[1] == ["conv1", "Conv", "0.49000", "0.25000", "4.00 %"]


def test_the_report_is_beside_the_graphs(built_bundle: Bundle, fp16: dict[str, Any]) -> None:
    path: Path = built_bundle.builds_folder / "onnxruntime-fp16" / "report.md"
    assert path.read_text() == report(built_bundle, Recipe("fp16"), fp16)
