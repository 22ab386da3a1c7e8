"""A whole bundle in lower precision: on small scans, gated, refused and accepted."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.calibration.folders import annotate, write_scans
from tests.calibration.graphs import LEFT_OUT, Lowered
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.calibration.int8 import quantized_layers
from trt_landmarks.calibration.lower import CPU_ENGINE, lower
from trt_landmarks.calibration.recipe import LIMITS, Limits, Recipe
from trt_landmarks.calibration.scans import CalibrationScans, choose_scans
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.errors import EngineError, LandmarkFileError, ScanError
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.scan import read_scan
from trt_landmarks.task.graphs import COARSE, INDEPENDENT

IDS = ["head0", "head1", "head2"]


class Lowering:
    """Calls :func:`lower` for the small task, and keeps what it says."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.bundle, self.folder = bundle, folder
        self.said: list[str] = []
        self.findings = folder / "findings.jsonl"
        (folder / "graphs").mkdir()

    def __call__(
        self, recipe: Recipe, scans: CalibrationScans | None = None, accept: bool = False
    ) -> tuple[dict[str, Path], dict[str, Any]]:
        self.said.clear()
        return lower(
            self.bundle, recipe, scans, self.folder / "graphs", self.said.append,
            findings=self.findings, accept_deviation=accept,
        )  # fmt: skip

    def refused(self, recipe: Recipe, scans: CalibrationScans | None, accept: bool = False) -> EngineError:
        with pytest.raises(EngineError) as caught:
            self(recipe, scans, accept)
        assert "\n" not in str(caught.value)
        return caught.value


def interrupt(*arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def lowering(tiny_bundle: Bundle, tmp_path: Path) -> Lowering:
    return Lowering(tiny_bundle, tmp_path)


def localized(bundle: Bundle, files: dict[str, Path], precision: str, scans: CalibrationScans) -> Floats:
    """``[held-out scans, N, 3]`` LPS mm."""
    localizer = Localizer(bundle.task, bundle.mean_shape, OnnxRuntimeEngine(files, precision, threads=1))
    return np.stack([localizer.localize(read_scan(file.path)).points for file in scans.held_out])


def test_int8_needs_scans(lowering: Lowering) -> None:
    error = lowering.refused(Recipe("int8"), None)
    assert error.code == "calibration_missing" and "--calib SCANS" in error.remedy
    assert not lowering.said and not list((lowering.folder / "graphs").iterdir())


def test_fp16_without_scans_measures_no_millimetres_and_says_so(lowering: Lowering) -> None:
    files, facts = lowering(Recipe("fp16"))
    assert "no scans given" in lowering.said[0] and "accuracy in mm is not measured" in lowering.said[0]
    assert facts["gate"] is None and "sensitivity" not in facts
    assert set(files) == set(facts["lowering"]) == set(facts["comparison"]) == set(lowering.bundle.graphs)
    assert all(path == lowering.folder / "graphs" / f"{graph}.onnx" for graph, path in files.items())
    for row in facts["comparison"].values():
        assert 0 < row["mean_voxel"] < 0.1 and row["inputs"] == 4 and row["batches"] == [1, 2]
    assert not lowering.findings.exists()


def test_fp16_that_is_far_off_on_random_inputs_is_refused(lowering: Lowering, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANDOM_COARSE_VOXEL", "RANDOM_CONFIDENCE"):
        monkeypatch.setattr(importlib.import_module("trt_landmarks.calibration.lower"), name, 0.0)
    error = lowering.refused(Recipe("fp16"), None)
    assert error.code == "gate_failed" and error.message.count("(allowed 0)") == 3
    for figure in ("coarse mean voxel", "independent max confidence", "group-mid max confidence"):
        assert f"{figure} " in error.message


def test_fp16_is_measured_on_the_scans_held_out(lowering: Lowering, scans: CalibrationScans) -> None:
    files, facts = lowering(Recipe("fp16"), scans)
    gate = facts["gate"]
    assert gate["passed"] and gate["engine"] == CPU_ENGINE and gate["on"] == [file.id for file in scans.held_out]
    assert "accepted" not in gate
    expected = localized(lowering.bundle, lowering.bundle.graphs, "fp32", scans)
    found = localized(lowering.bundle, files, "fp16", scans)
    distances = np.linalg.norm(found - expected, axis=-1)
    assert gate["mean_mm"] == pytest.approx(distances.mean(), abs=1e-6) and gate["mean_mm"] > 0
    assert gate["max_voxel"] == pytest.approx(2 * distances.max(), abs=2e-6)
    truth = scans.truth(lowering.bundle.task.landmarks)
    assert truth is not None
    errors = np.nanmean(np.linalg.norm(expected - truth, axis=-1))
    assert gate["mre_fp32_mm"] == pytest.approx(errors, abs=1e-5)
    table = [line for line in lowering.said if line.split()[0] in lowering.bundle.task.landmarks]
    assert len(table) == 6 and "MRE" in lowering.said[-1]
    assert all(row["calibration_inputs"] == 2 for row in facts["lowering"].values())


def test_a_gate_that_is_not_passed_refuses_the_build(
    lowering: Lowering, scans: CalibrationScans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "fp16", Limits(mean_voxel=1e-7, max_voxel=1e-7))
    error = lowering.refused(Recipe("fp16"), scans)
    assert error.code == "gate_failed"
    message = error.message
    assert message.startswith("FP16 deviates too much from FP32: mean voxel ")
    assert message.count("(allowed 1e-07)") == 2 and "; max voxel " in message
    assert "--accept-deviation" in error.remedy and "--exclude" not in error.remedy  # which is of INT8
    assert any(line.split()[0] == "landmark" for line in lowering.said)  # the table was shown before


def test_a_refusal_names_the_most_sensitive_layers() -> None:
    module = importlib.import_module("trt_landmarks.calibration.lower")
    layers = {graph: {"layers": [{"node": f"conv{n}", "alone_mm": scale / n} for n in (1, 2)]}
              for graph, scale in ((COARSE, 0.2), (INDEPENDENT, 0.5))}  # fmt: skip
    facts = {"gate": {"failures": ["mean voxel 3 (allowed 1)"], "accepted": False}, "sensitivity": layers}
    with pytest.raises(EngineError) as error:
        module._refuse(facts, "int8", pytest.fail)
    assert error.value.code == "gate_failed" and "--sensitivity" in error.value.remedy
    assert "independent:conv1 (0.5 mm alone), independent:conv2 (0.25 mm alone), coarse:conv1" in error.value.message


def test_a_deviation_can_be_accepted_and_is_recorded(accepted: Lowered) -> None:
    files, facts = accepted.files, accepted.facts
    gate = facts["gate"]
    assert not gate["passed"] and gate["accepted"] and gate["failures"]
    assert "INT8 deviates too much from FP32: mean voxel " in accepted.said[-1]
    assert "accepted with --accept-deviation" in accepted.said[-1]
    # The layer to leave out is out, in the file as well, and no other.
    assert {graph: row["excluded"] for graph, row in facts["lowering"].items()} == {
        COARSE: [], INDEPENDENT: [LEFT_OUT], "group-mid": []
    }  # fmt: skip
    names = {node.name for node in quantized_layers(onnx.load(files[INDEPENDENT]))}
    assert LEFT_OUT not in names and len(names) == 8
    assert LEFT_OUT in facts["lowering"][INDEPENDENT]["convolutions_left"]
    assert all(row["method"] == "max" for row in facts["lowering"].values())


def test_sensitivity_chooses_what_is_left_out_and_is_kept(
    lowering: Lowering, scans: CalibrationScans, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("trt_landmarks.calibration.lower")
    monkeypatch.setitem(LIMITS, "int8", Limits(mean_voxel=1e3, mre_percent=1e3))
    monkeypatch.setattr(module, "SENSITIVITY_SCANS", 1)
    monkeypatch.setattr(importlib.import_module("trt_landmarks.calibration.sensitivity"), "AIM_VOXEL", 1e-3)
    recipe = Recipe("int8", "max", (f"{INDEPENDENT}:node_Conv_275.8",), sensitivity=True)
    with monkeypatch.context() as interrupted, pytest.raises(KeyboardInterrupt):
        int8 = importlib.import_module("trt_landmarks.calibration.int8")
        interrupted.setattr(int8, "half", interrupt)  # when the first graph's layers are ranked
        lowering(recipe, scans)
    ranked = lowering.findings.read_bytes()
    files, facts = lowering(recipe, scans)
    assert facts["gate"]["passed"]
    assert set(facts["sensitivity"]) == set(files)
    for graph, ranking in facts["sensitivity"].items():
        asked = {"node_Conv_275.8"} if graph == INDEPENDENT else set()
        assert set(facts["lowering"][graph]["excluded"]) == set(ranking["excluded"]) | asked
        assert ranking["mean_mm_excluded"] <= ranking["mean_mm"] and ranking["inputs"] == 1
        assert {row["node"] for row in ranking["layers"]} >= set(ranking["excluded"])
    assert facts["sensitivity"][INDEPENDENT]["excluded"]
    assert any(line.startswith("group-mid: layer 21 of 21") for line in lowering.said)
    # What was ranked before the interruption was not measured again.
    kept = lowering.findings.read_bytes()
    assert kept.startswith(ranked) and kept.count(b'"coarse:') == ranked.count(b'"coarse:') == 1 + 2 * 29


@pytest.mark.parametrize("name", ["independent", "nowhere:node", ":node", "independent:", "INDEPENDENT:node", ""])
def test_an_exclusion_that_is_no_layer_is_refused(lowering: Lowering, scans: CalibrationScans, name: str) -> None:
    error = lowering.refused(Recipe("int8", exclude=(name,)), scans)
    assert error.message == f"{name}: no such layer to exclude.".strip()
    assert error.remedy == "Write <graph>:<node>; graphs: coarse, independent, group-mid."
    assert not lowering.said


def test_a_layer_that_is_not_there_is_refused(lowering: Lowering, scans: CalibrationScans) -> None:
    error = lowering.refused(Recipe("int8", "max", (f"{COARSE}:node:with:colons",)), scans)
    assert error.message == "coarse.onnx: node:with:colons is not a quantized layer of this graph."


@pytest.mark.parametrize("recipe", [Recipe("fp16", exclude=("coarse:x",)), Recipe("fp16", sensitivity=True)])
def test_what_is_about_int8_is_not_ignored_for_fp16(lowering: Lowering, recipe: Recipe) -> None:
    assert "--precision int8" in lowering.refused(recipe, None).remedy


def test_a_broken_scan_or_annotation_stops_it_before_any_work(
    lowering: Lowering, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    root = tmp_path / "mine"
    write_scans(root, IDS)
    annotate(root / "landmarks", IDS, tiny_bundle.task.landmarks)
    good = choose_scans(root, 1, 1)
    annotation = good.annotations[good.held_out[0].id]
    annotation.write_text(annotation.read_text()[:100])
    with pytest.raises(LandmarkFileError, match=rf"{annotation.name}: .*not valid JSON"):
        lowering(Recipe("int8"), good)
    annotation.unlink()
    for file in (good.held_out[0], good.calibration[0]):
        whole = file.path.read_bytes()
        file.path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ScanError, match=rf"{file.path.name}: .*nothing was built"):
            lowering(Recipe("int8"), choose_scans(root, 1, 1))
        file.path.write_bytes(whole)
    assert not list((lowering.folder / "graphs").iterdir())
