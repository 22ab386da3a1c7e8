"""The whole benchmark, small, with real processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from tests.cli.test_cli import make_scan
from trt_landmarks.bench.report import SCHEMA_FILE
from trt_landmarks.bench.run import Settings, bench
from trt_landmarks.bench.ways import DEFAULT, FOLDER
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.cli import app
from trt_landmarks.data.annotations import write_mrk_json
from trt_landmarks.errors import EngineError, ScanError, TrtlmError


def test_bench_from_scans_to_a_report(tiny_bundle: Bundle, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for n in range(4):
        make_scan(scans / f"s{n}.nii.gz", n)
    (tmp_path / "landmarks").mkdir()
    write_mrk_json(tmp_path / "landmarks" / "s0.mrk.json", {name: np.zeros(3) for name in tiny_bundle.task.landmarks})
    words = [
        "bench", "--model", tiny_bundle.root, "--scans", scans, "--out", tmp_path / "report", "--rounds", 2, "--count",
        2, "--cold", 1, "--folder", 4, "--folder-rounds", 1, "--threads", 1, "--engines",
        "onnxruntime,torch,torch-bf16,tensorrt-rtx,dali", "--precisions", "fp32",
    ]  # fmt: skip
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert "starting torch" in done.output and "tensorrt-rtx-fp32: " in done.output
    text = (tmp_path / "report" / "bench.json").read_text()
    report = json.loads(text)
    Draft202012Validator(json.loads(SCHEMA_FILE.read_text())).validate(report)
    assert str(tmp_path) not in text and str(tiny_bundle.root) not in text
    ways = {way["way"]: way for way in report["ways"]}
    assert list(ways) == ["torch", "torch-bf16", DEFAULT]
    for way in ways.values():
        assert way["warm_ms"]["n"] == 4 and set(way["samples_ms"]) == {"s0", "s1"}
        assert way["cpu_ms"]["n"] == 4 and way["cpu_ms"]["p50"] > 0
        assert way["cold_ms"]["p50"] > way["warm_ms"]["p50"] > way["nets_ms"]["p50"] > 0
    exact = {one["way"]: one for one in report["accuracy"]}
    assert exact[DEFAULT]["deviation_mm"]["max"] < 1e-3 and exact["torch"]["deviation_mm"]["max"] == 0
    assert 0 < exact["torch-bf16"]["deviation_mm"]["mean"] < 1
    assert all(one["annotated_points"] == 6 and one["mre_mm"] > 1 for one in exact.values())
    assert report["throughput"]["scans"] == 4 and set(report["throughput"]["seconds"]) == {DEFAULT, FOLDER}
    assert [row["largest_difference"] < 1e-3 for row in report["preprocessing"]] == [True, True]
    assert [entry["way"] for entry in report["not_run"]] == ["tensorrt-rtx-fp32"]
    assert {"bench.md", "stages.svg", "latency.png"} <= {path.name for path in (tmp_path / "report").iterdir()}


def test_what_cannot_be_measured_is_an_error(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRTLM_DATA", raising=False)
    model = str(tiny_bundle.root)
    with pytest.raises(ScanError, match="--scans"):
        bench(Settings(model))
    scan = make_scan(tmp_path / "a.nii.gz")
    with pytest.raises(EngineError, match=r"None of the ways runs here.*emulated"):
        bench(Settings(model, scan, engines=("onnxruntime",), precisions=("int8",)))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EngineError, match="the package torch is not installed"):
        bench(Settings(model, scan, engines=("torch", "torch-bf16")))
    scan.write_bytes(scan.read_bytes()[:1000])
    with pytest.raises(TrtlmError, match=r"a\.nii\.gz"):
        bench(Settings(model, scan, engines=("onnxruntime",)))
