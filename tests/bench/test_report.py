"""The report: its figures, its schema, and what people read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from rich.console import Console

from tests.bench.reports import MEDIANS, make_report
from trt_landmarks.bench.report import SCHEMA_FILE, markdown, render, write_report
from trt_landmarks.bench.ways import DEFAULT
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.errors import TrtlmError


def validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))


def test_figures_are_those_of_the_runs(tiny_bundle: Bundle) -> None:
    report = make_report(tiny_bundle, noise=0)
    validator().validate(report)
    ways = {way["way"]: way for way in report["ways"]}
    for name, (median, _) in MEDIANS.items():
        assert ways[name]["warm_ms"]["p50"] == pytest.approx(median) and ways[name]["warm_ms"]["n"] == 12
        assert ways[name]["nets_ms"]["p50"] == pytest.approx(0.85 * median)
        assert ways[name]["cpu_ms"]["p50"] == pytest.approx(2 * median)
        assert ways[name]["cold_ms"]["p50"] == pytest.approx(5 * median)
    found = {(one["way"], one["baseline"]): one for one in report["ratios"]}
    assert found[DEFAULT, "torch-bf16"]["value"] == pytest.approx(1.5)
    assert found[DEFAULT, "torch"]["value"] == pytest.approx(3)
    assert found["torch", "torch-bf16"]["value"] == pytest.approx(0.5)
    assert ("torch", "torch") not in found
    exact = {one["way"]: one for one in report["accuracy"]}
    assert exact["torch-bf16"]["deviation_mm"] == {"mean": 0.03, "p99": 0.03, "max": 0.03}
    assert exact["torch-bf16"]["mre_mm"] == pytest.approx(0.03) and exact["torch-bf16"]["annotated_points"] == 6
    assert {one["reference"] for one in exact.values()} == {"torch"}


def test_the_schema_is_strict(tiny_bundle: Bundle) -> None:
    report = make_report(tiny_bundle)
    changes: tuple[dict[str, Any], ...] = ({"extra": 1}, {"ways": [{}]}, {"schema_version": "0"}, {"commit": ""})
    for change in changes:
        with pytest.raises(ValidationError):
            validator().validate(report | change)


def test_people_read_all_of_it(tiny_bundle: Bundle, tmp_path: Path) -> None:
    report = make_report(tiny_bundle)
    write_report(report, tmp_path / "new" / "folder")
    written = json.loads((tmp_path / "new" / "folder" / "bench.json").read_text())
    assert written == report
    text = (tmp_path / "new" / "folder" / "bench.md").read_text()
    assert text == markdown(report)
    printed = io.StringIO()
    render(report, Console(file=printed, width=240))
    for shown in (text, printed.getvalue()):
        for word in (*MEDIANS, "fine_independent", "tensorrt-fp16: there is no GPU", "10 scans, 3 rounds", "9.50"):
            assert word in shown, word
        assert "\n\n\n" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables[: 2 + len(MEDIANS)]} == {tables[0].count("|")}


def test_a_folder_that_cannot_be_made(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrtlmError, match="file/report"):
        write_report(make_report(tiny_bundle), tmp_path / "file" / "report")
