"""What inspection tells of whole and of damaged bundles."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.calibration.folders import annotate, write_scans
from trt_landmarks.build import Request, build
from trt_landmarks.bundles.builds import deviation_summary as summary
from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.bundles.inspection import inspect_bundle, render
from trt_landmarks.calibration.scans import choose_scans


@pytest.fixture(scope="module")
def calibrated_root(built_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with an FP16 build and an INT8 build, whose deviation was accepted."""
    root = tmp_path_factory.mktemp("calibrated")
    shutil.copytree(built_bundle.root, root / "bundle")
    write_scans(root / "images", ["one", "two", "three"])
    annotate(root / "landmarks", ["one", "two", "three"], built_bundle.task.landmarks)
    scans = choose_scans(root / "images", 1, 2)
    build(open_bundle(root / "bundle"), "onnxruntime", Request("int8", scans, "max", accept_deviation=True))
    return root / "bundle"


@pytest.fixture
def bundle(calibrated_root: Path, tmp_path: Path) -> Bundle:
    """A copy of it that a test may spoil."""
    shutil.copytree(calibrated_root, tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


def inspected(bundle: Bundle) -> dict[str, Any]:
    """As the command does it, and what both forms of it have to be."""
    found = inspect_bundle(open_bundle(bundle.root, verify=False))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    text = render(found)
    for problem in found["problems"]:
        assert f"problem: {problem}" in text
    assert found["whole"] == (not found["problems"])
    return found


def test_all_of_a_whole_bundle(bundle: Bundle) -> None:
    found = inspected(bundle)
    assert found["whole"] and found["name"] == "tiny" and found["sha256"] == bundle.sha256
    assert found["path"] == str(bundle.root) and not found["shipped"]
    assert found["task"] == {
        "name": "tiny", "landmarks": 6, "groups": {"mid": 3},
        "coarse_grid": "16 x 16 x 16 of 1.5 x 1.5 x 1.5 mm", "patch_grid": "16 x 16 x 16 of 0.5 x 0.5 x 0.5 mm",
    }  # fmt: skip
    assert list(found["graphs"]) == list(bundle.graphs)
    for graph, row in found["graphs"].items():
        assert row["size_mb"] == round(bundle.graphs[graph].stat().st_size / 1e6, 1)
        assert row["parity_max_voxel"] == bundle.manifest["parity"][graph]["max_voxel"]
    assert found["parity_on"] == "smooth random inputs"
    assert {"onnx", "torch", "trt_landmarks"} <= set(found["versions"])


def test_its_builds(bundle: Bundle) -> None:
    half, low = inspected(bundle)["builds"]
    assert (half["engine"], half["precision"], low["precision"]) == ("onnxruntime", "fp16", "int8")
    for one in (half, low):
        files = [path for path in Path(one["folder"]).rglob("*") if path.is_file() and path.name != "build.json"]
        assert one["size_mb"] == pytest.approx(sum(path.stat().st_size for path in files) / 1e6, abs=0.051)
        assert not one["runs_here"] and "only by emulation" in one["why_not"]
        assert one["command"].startswith("trtlm build BUNDLE --engine onnxruntime --precision ")
        assert "nvidia-modelopt" in one["versions"]
    assert half["gate"] is None and half["int8_share"] == {}
    assert low["int8_share"]["independent"] > 0.99 and set(low["int8_share"]) == set(bundle.graphs)
    assert low["gate"]["accepted"] and not low["gate"]["passed"] and len(low["gate"]["on"]) == 2
    assert "landmarks" not in low["gate"]


def test_the_text_names_builds_and_figures(bundle: Bundle) -> None:
    found = inspected(bundle)
    text = render(found)
    assert text.startswith(f"tiny: {bundle.root} (")
    assert "task tiny: 6 landmarks; correlated: mid (3)" in text
    for graph, row in found["graphs"].items():
        assert [graph, str(row["size_mb"]), f"{row['parity_max_voxel']:.1e}"] in [x.split() for x in text.splitlines()]
    for one in found["builds"]:
        assert f"{one['engine']} {one['precision']}: {one['size_mb']} MB, {one['folder']}" in text
        assert f"made with: {one['command']}" in text
    low = found["builds"][1]
    for graph, share in low["int8_share"].items():
        assert f"{graph}: {100 * share:.1f} % of the convolutions' operations in INT8" in text
    assert f"accuracy: gate NOT passed, accepted; {summary(low['gate'])}" in text and "MRE" in text
    assert "measured on 2 scans, ONNX Runtime on the CPU" in text
    assert "accuracy: not measured on scans" in text  # the FP16 build
    assert text.count("runs here: no: ONNX Runtime computes") == 2 and "problem" not in text


def test_a_bundle_without_builds(tiny_bundle: Bundle) -> None:
    found = inspected(tiny_bundle)
    assert found["whole"] and found["builds"] == []
    assert "no builds; make one with trtlm build" in render(found)


def harmed(path: Path, harm: str) -> None:
    if harm == "missing":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "harm"),
    [("task.yaml", "truncated"), *((f"graphs/{graph}.onnx", harm) for graph in ("coarse", "group-mid")
                                   for harm in ("truncated", "flipped", "missing"))],
)  # fmt: skip
def test_a_damaged_file_of_the_bundle_is_reported(bundle: Bundle, file: str, harm: str) -> None:
    path = bundle.root / file
    harmed(path, harm)
    found = inspected(bundle)
    assert not found["whole"]
    (problem,) = found["problems"]
    assert problem.startswith(str(path))
    assert "is missing" in problem if harm == "missing" else "SHA-256 differs" in problem
    assert len(found["builds"]) == 2


@pytest.mark.parametrize("file", ["graphs/coarse.onnx", "graphs/independent.onnx", "report.md"])
@pytest.mark.parametrize("harm", ["truncated", "flipped", "missing"])
def test_a_damaged_file_of_a_build_is_reported_and_does_not_run(bundle: Bundle, file: str, harm: str) -> None:
    path = bundle.builds_folder / "onnxruntime-int8" / file
    harmed(path, harm)
    found = inspected(bundle)
    assert not found["whole"]
    (problem,) = found["problems"]
    if harm == "missing":  # the record names a file that is not there: no build at all
        assert f"{file} is missing" in problem and [one["precision"] for one in found["builds"]] == ["fp16"]
        return
    assert problem.startswith(str(path)) and "SHA-256 differs" in problem
    half, low = found["builds"]
    assert "SHA-256 differs" not in half["why_not"] and "SHA-256 differs" in low["why_not"]
    assert f"runs here: no: {low['why_not']}" in render(found)


def test_builds_of_another_model_and_leftovers(bundle: Bundle) -> None:
    folder = bundle.builds_folder / "onnxruntime-int8"
    (bundle.builds_folder / ".onnxruntime-int8.1234").mkdir()  # what a killed build leaves
    record = json.loads((folder / "build.json").read_text())
    record["model"]["sha256"] = "0" * 64
    (folder / "build.json").write_text(json.dumps(record))
    found = inspected(bundle)
    assert [one["precision"] for one in found["builds"]] == ["fp16"]
    (problem,) = found["problems"]
    assert "was built from another model" in problem and "It is not used." in problem


def test_a_damaged_record_never_ends_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a record is cut off or changed: it is reported, or what was changed says nothing else."""
    monkeypatch.setattr("trt_landmarks.bundles.select.open_engine", lambda *a, **k: None)
    monkeypatch.setattr("trt_landmarks.bundles.builds.Build.verify", lambda self: None)  # for speed
    path = bundle.builds_folder / "onnxruntime-int8" / "build.json"
    shutil.rmtree(bundle.builds_folder / "onnxruntime-fp16")
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 3, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:length])
        found = inspected(bundle)
        assert found["builds"] == [] and str(path.parent) in found["problems"][0]
    for place in range(0, len(whole), 41):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        inspected(bundle)
