"""From a folder and a bundle to a bundle whose results say how far to trust them: the command, and what follows."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from trt_landmarks.bundles.bundle import Bundle, attach_confidence, open_bundle, write_bundle
from trt_landmarks.cli import app
from trt_landmarks.confidence.command import fit, gather, shape_and_cases
from trt_landmarks.data.annotations import write_mrk_json
from trt_landmarks.errors import BundleError, DatasetError, TrtlmError
from trt_landmarks.geometry import Geometry
from trt_landmarks.results.predictions import read_predictions
from trt_landmarks.runs.workers import open_workers
from trt_landmarks.scan import Scan, write_scan

TRAIN, VALIDATION = [f"t{n}" for n in range(9)], ["v0", "v1", "v2"]


@pytest.fixture(scope="module")
def data(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotated scans for the small bundle, whose random nets find nothing in them; and a split."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    geometry = Geometry((14, 15, 16), (1.5, 1.4, 1.3), (-10.0, -9.0, 5.0), np.eye(3))
    usual = random.uniform(-6, 6, (len(tiny_bundle.task.landmarks), 3))
    for part in ("images", "landmarks"):
        (folder / part).mkdir()
    for case in (*TRAIN, *VALIDATION):
        voxels = random.integers(0, 255, geometry.size[::-1], dtype=np.uint8)
        write_scan(Scan(case, None, voxels, geometry), folder / "images" / f"{case}.nii.gz")
        points = geometry.centre + usual + 0.3 * random.normal(size=usual.shape)
        write_mrk_json(
            folder / "landmarks" / f"{case}.mrk.json", dict(zip(tiny_bundle.task.landmarks, points, strict=True))
        )
    (folder / "split.json").write_text(json.dumps({"train": TRAIN, "val": VALIDATION}))
    return folder


@pytest.fixture(scope="module")
def seen(tiny_bundle: Bundle, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the bundle finds in the perturbed validation scans."""
    path = tmp_path_factory.mktemp("seen") / "seen.npz"
    _, cases = shape_and_cases(tiny_bundle, data, data / "split.json")
    done: list[str] = []
    assert len(gather(tiny_bundle, cases, path, threads=1, progress=done.append)) % len(VALIDATION) == 0
    assert done == VALIDATION
    return path


def trtlm(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_from_a_folder_to_results_that_say_how_far_to_trust_them(
    bundle: Bundle, data: Path, seen: Path, tmp_path: Path
) -> None:
    assert bundle.confidence is None
    before = bundle.sha256
    arguments = ("confidence", bundle.root, "--data", data, "--split", data / "split.json", "--observations", seen)
    said = trtlm(*arguments, "--report", tmp_path / "report.json")
    assert "large errors flagged" in said and "confidence.json" in said
    figures = json.loads((tmp_path / "report.json").read_text())
    assert figures["cases"] == VALIDATION and figures["parts"]["clean"]["scans"] == 3
    assert (tmp_path / "report.md").read_text().startswith("# Confidence of tiny")
    fitted = open_bundle(bundle.root)  # all files are what the manifest says
    assert fitted.confidence is not None and fitted.sha256 != before
    assert fitted.confidence.measured["parts"] == figures["parts"]
    trtlm("infer", data / "images" / "v0.nii.gz", "--out", tmp_path / "r.json", "--model", bundle.root, "--quiet")
    (case,) = read_predictions(tmp_path / "r.json").cases
    wrong = [warning.code for warning in case.warnings] == ["not_this_anatomy"]
    assert all((mark.expected_error_mm is None) == wrong for mark in case.landmarks)
    assert all((mark.confidence == 0) == wrong for mark in case.landmarks)


def test_every_kind_of_worker_has_the_confidence(bundle: Bundle, data: Path, seen: Path) -> None:
    shape, cases = shape_and_cases(bundle, data, data / "split.json")
    attach_confidence(bundle, fit(bundle, shape, gather(bundle, cases, seen)).model)
    fitted = open_bundle(bundle.root)
    for one in open_workers(fitted, 4, threads=2).localizers:
        assert one.confidence is fitted.confidence is not None


def test_a_bundle_written_again_keeps_it(bundle: Bundle, data: Path, seen: Path) -> None:
    shape, cases = shape_and_cases(bundle, data, data / "split.json")
    attach_confidence(bundle, fit(bundle, shape, gather(bundle, cases, seen)).model)
    graphs, cpu_graphs = bundle.manifest["graphs"], bundle.manifest.get("cpu_graphs", {})
    task = (bundle.root / "task.yaml").read_text()
    write_bundle(bundle.root, "again", task, bundle.mean_shape, graphs, cpu_graphs, {})
    again = open_bundle(bundle.root)
    assert again.name == "again" and again.confidence is not None


def test_one_fitted_before_is_put_in_as_it_is(bundle: Bundle, data: Path, seen: Path, tmp_path: Path) -> None:
    shape, cases = shape_and_cases(bundle, data, data / "split.json")
    model = fit(bundle, shape, gather(bundle, cases, seen)).model
    model.write(tmp_path / "kept.json")
    trtlm("confidence", bundle.root, "--from", tmp_path / "kept.json")
    assert (bundle.root / "confidence.json").read_bytes() == (tmp_path / "kept.json").read_bytes()
    manifest = (bundle.root / "manifest.json").read_bytes()
    trtlm("confidence", bundle.root, "--from", tmp_path / "kept.json")  # again: nothing changes
    assert (bundle.root / "manifest.json").read_bytes() == manifest
    path = bundle.root / "confidence.json"
    good = path.read_text()
    path.write_text(good.replace("1", "2", 1))
    with pytest.raises(BundleError, match=r"confidence\.json: is not the file the manifest describes"):
        open_bundle(bundle.root)
    path.write_text(good)


def test_that_of_a_shipped_model_goes_to_the_cache(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTLM_CACHE", str(tmp_path))
    shipped = open_bundle("mouse-skull", verify=False)
    before = (shipped.root / "manifest.json").read_bytes()
    assert shipped.confidence is not None
    path = attach_confidence(shipped, replace(shipped.confidence, low_below=0.123))
    assert path.is_relative_to(tmp_path) and (shipped.root / "manifest.json").read_bytes() == before
    again = open_bundle("mouse-skull", verify=False)
    assert again.sha256 == shipped.sha256
    assert again.confidence is not None and again.confidence.low_below == 0.123


def test_what_does_not_fit_is_refused(bundle: Bundle, data: Path, seen: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not say which cases it was trained with"):
        shape_and_cases(bundle, data)
    _, cases = shape_and_cases(bundle, data, data / "split.json")
    with pytest.raises(DatasetError, match="is not of the validation cases"):
        gather(bundle, cases[:2], seen)
    few = tmp_path / "split.json"
    few.write_text(json.dumps({"train": TRAIN[:3], "val": VALIDATION}))
    with pytest.raises(DatasetError, match="3 completely annotated training cases are too few"):
        shape_and_cases(bundle, data, few)
    for wrong in ((), ("--data", data, "--from", seen)):
        with pytest.raises(TrtlmError, match="either --data or --from"):
            CliRunner().invoke(app, ["confidence", str(bundle.root), *map(str, wrong)], catch_exceptions=False)
    shutil.copy(data / "split.json", few)
    with pytest.raises(BundleError, match="is damaged"):
        CliRunner().invoke(app, ["confidence", str(bundle.root), "--from", str(few)], catch_exceptions=False)
