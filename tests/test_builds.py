"""Builds: whole or not there, made once, and refused if they are not what their record says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trt_landmarks import builds
from trt_landmarks.builds import RECORD, build, list_builds, resolve
from trt_landmarks.bundle import Bundle, file_sha256, open_bundle
from trt_landmarks.calibration import halve
from trt_landmarks.engines import tensorrt_plan
from trt_landmarks.engines.plan_settings import PORTABLE
from trt_landmarks.errors import EngineError
from trt_landmarks.geometry import Geometry
from trt_landmarks.scan import Scan

FP16 = "onnxruntime-fp16"


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Iterator[Bundle]:
    """A bundle without builds that a test may add to; whatever happens, its own files must not change."""
    shutil.copytree(tiny_bundle.root, tmp_path / "bundle")
    yield open_bundle(tmp_path / "bundle")
    open_bundle(tmp_path / "bundle", verify=True)


@pytest.fixture
def built(built_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle with an FP16 build for ONNX Runtime that a test may spoil."""
    shutil.copytree(built_bundle.root, tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


def scan(id: str, seed: int) -> Scan:
    voxels = np.random.default_rng(seed).integers(0, 255, (24, 22, 20), dtype=np.uint8)
    return Scan(id, None, voxels, Geometry((20, 22, 24), (1, 1, 1), (0, 0, 0), np.eye(3)))


def content(folder: Path) -> dict[str, str]:
    """Everything below a folder, by name."""
    return {str(p.relative_to(folder)): file_sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_fp32_on_onnxruntime_needs_no_build(bundle: Bundle) -> None:
    said: list[str] = []
    done = build(bundle, "onnxruntime", "fp32", (), said.append)
    assert done.status == "nothing to build" and "nothing to build" in done.summary() + said[0]
    assert done.files == bundle.graphs
    done.verify()
    assert not bundle.builds_folder.exists()


def test_a_build_is_recorded_found_and_made_once(built: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = list_builds(built, pytest.fail)
    assert (found.engine, found.precision, found.status) == ("onnxruntime", "fp16", "found")
    found.verify()
    record = found.record
    assert record["model"]["sha256"] == built.sha256
    assert record["comparison"]["on"] == "smooth random inputs"
    assert record["command"] == "trtlm build BUNDLE --engine onnxruntime --precision fp16"
    assert {"onnx", "onnxruntime", "nvidia-modelopt", "trt_landmarks"} <= set(record["versions"])
    assert set(record["files"]) | {RECORD} == set(content(found.folder))
    for figures in record["comparison"]["graphs"].values():
        assert figures["mean_voxel"] < 0.1 and figures["batches"] == [1, 2]
    assert str(built.root) not in json.dumps(record)
    monkeypatch.setattr(builds, "_make", lambda *a: pytest.fail("built again"))
    said: list[str] = []
    again = build(built, "onnxruntime", "fp16", (), said.append)
    assert again.status == "cached" and again.record == record
    assert "cached" in said[-1] and "cached" in again.summary()


def test_another_setting_another_input_or_a_damaged_file_is_built_again(
    built: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def make(*arguments: object) -> dict[str, object]:
        made.append("x")
        folder = arguments[4]
        assert isinstance(folder, Path)
        (folder / "made").write_text(str(len(made)))
        return {"graphs": {}}

    monkeypatch.setattr(builds, "_make", make)
    folder = built.builds_folder / FP16
    (folder / "graphs" / "coarse.onnx").write_bytes(b"spoiled")
    assert build(built, "onnxruntime", "fp16").status == "built"
    assert build(built, "onnxruntime", "fp16").status == "cached"
    one, other = scan("a", 1), scan("a", 2)
    assert build(built, "onnxruntime", "fp16", [one]).status == "built"
    assert build(built, "onnxruntime", "fp16", [one]).status == "cached"
    assert build(built, "onnxruntime", "fp16", [other]).status == "built"
    monkeypatch.setattr(builds, "_version", lambda package: "9.9")
    assert build(built, "onnxruntime", "fp16", [other]).status == "built"
    assert len(made) == 4 and (folder / "made").read_text() == "4"
    assert [path.name for path in built.builds_folder.iterdir()] == [FP16]


def test_real_scans_are_used_and_named(bundle: Bundle) -> None:
    said: list[str] = []
    done = build(bundle, "onnxruntime", "fp16", [scan("a", 1), scan("b", 2)], said.append)
    assert done.record["comparison"]["on"] == ["a", "b"] == done.record["inputs"]["scans"]
    assert done.record["fp16"]["coarse"]["calibration_inputs"] == 2
    assert done.record["command"].endswith("--scans SCANS")
    assert not any("random" in line for line in said)


def test_without_scans_it_is_said(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(halve, "CONFIDENCE", -1.0)
    with pytest.raises(EngineError):
        build(bundle, "onnxruntime", "fp16", (), said.append)
    assert any("no scans given" in line and "random inputs" in line for line in said)


def test_too_large_a_difference_refuses_the_build(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halve, "MEAN_VOXEL", -1.0)
    said: list[str] = []
    with pytest.raises(EngineError, match=r"differs too much from FP32: coarse mean voxel .* \(allowed -1 voxel\)"):
        build(bundle, "onnxruntime", "fp16", [scan("a", 1)], said.append)
    table = [line for line in said if line.split()[0] in ("graph", *bundle.graphs)]
    assert len(table) == 1 + len(bundle.graphs)
    assert not list(bundle.builds_folder.iterdir())


@pytest.mark.parametrize("failure", [KeyboardInterrupt, EngineError("broken graph"), OSError(28, "No space left")])
def test_a_failure_leaves_older_builds_and_no_half_ones(
    built: Bundle, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    before = content(built.root)

    def fail(*arguments: object) -> None:
        folder = arguments[4]
        assert isinstance(folder, Path)
        (folder / "graphs").mkdir()
        (folder / "graphs" / "half").write_text("half")
        raise failure

    monkeypatch.setattr(builds, "_make", fail)
    expected = EngineError if isinstance(failure, (EngineError, OSError)) else KeyboardInterrupt
    with pytest.raises(expected):
        build(built, "onnxruntime", "fp16", [scan("new", 3)])
    assert content(built.root) == before
    assert [path.name for path in built.builds_folder.iterdir()] == [FP16]


def test_a_folder_that_cannot_be_written(bundle: Bundle) -> None:
    bundle.builds_folder.write_text("in the way")
    with pytest.raises(EngineError, match=r"cannot be written: .*Copy the bundle to a folder that you may write to"):
        build(bundle, "onnxruntime", "fp16")


@pytest.mark.parametrize(
    ("engine", "precision", "says"),
    [
        ("onnxruntime", "int8", "INT8 is not part of this version"),
        ("onnxruntime", "fp8", "Take fp32 or fp16"),
        ("openvino", "fp16", "Engines: auto, onnxruntime, tensorrt, tensorrt-rtx"),
    ],
)
def test_what_there_is_not(bundle: Bundle, engine: str, precision: str, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        build(bundle, engine, precision)


def test_auto_takes_the_tensorrt_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        __version__ = "1.2"

    for installed, expected in (
        (("tensorrt", "tensorrt-rtx"), "tensorrt"),
        (("tensorrt-rtx",), "tensorrt-rtx"),
        ((), "onnxruntime"),
    ):

        def load(name: str, installed: tuple[str, ...] = installed) -> object:
            if name not in installed:
                raise EngineError("not installed")
            return Module()

        monkeypatch.setattr(builds, "load_flavour", load)
        said: list[str] = []
        assert resolve("auto", said.append) == expected
        assert said[0].startswith(f"engine: {expected}")


def test_damaged_and_foreign_builds_are_left_out_with_a_warning(built: Bundle) -> None:
    folder = built.builds_folder
    good = folder / FP16
    (folder / ".onnxruntime-fp16.1234").mkdir()  # what a killed build leaves
    (folder / "empty").mkdir()
    shutil.copytree(good, folder / "tensorrt-fp16")  # not what its name says
    warnings: list[str] = []
    assert [found.folder for found in list_builds(built, warnings.append)] == [good]
    assert len(warnings) == 2 and all("It is not used." in text for text in warnings)

    record = json.loads((good / RECORD).read_text())
    for changed, says in (
        ({"format": 99}, "format 99"),
        ({"model": {"sha256": "0"}}, "another model"),
        ({"graphs": {**record["graphs"], "coarse": "../../graphs/coarse.onnx"}}, "is damaged"),
        ({"graphs": {}}, "is damaged"),
        ({"files": {**record["files"], "gone": "0"}}, "gone is missing"),
        ({"files": []}, "is damaged"),
    ):
        (good / RECORD).write_text(json.dumps({**record, **changed}))
        warnings.clear()
        assert not list_builds(built, warnings.append)
        assert any(says in text for text in warnings), (changed, warnings)


def test_plans_are_built_for_real(bundle: Bundle) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    done = build(bundle, "tensorrt-rtx", "fp16")
    assert done.record["flavour"]["name"] == "tensorrt-rtx"
    assert done.record["target"] == {"compute_capability": PORTABLE}
    assert all(path.suffix == ".plan" and path.stat().st_size > 1000 for path in done.files.values())
    assert set(done.record["plans"]) == set(bundle.graphs)
    assert (done.folder / "graphs" / "coarse.onnx").is_file()  # what the plan was built from
    assert build(bundle, "tensorrt-rtx", "fp16").status == "cached"
    assert {found.folder.name for found in list_builds(bundle, pytest.fail)} == {"tensorrt-rtx-fp16"}


def test_a_graph_that_fails_spoils_nothing(built: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    before = content(built.root)
    monkeypatch.setattr(builds, "PROFILE", (3, 2, 1))  # smallest above largest
    with pytest.raises(EngineError, match="TensorRT refuses the shapes"):
        build(built, "tensorrt-rtx", "fp32")
    assert content(built.root) == before


def test_tensorrt_proper_needs_the_gpu_it_builds_for(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        __version__ = "11.4"

    monkeypatch.setattr(builds, "load_flavour", lambda name: Module())
    monkeypatch.setattr(tensorrt_plan, "first_gpu", lambda: None)
    with pytest.raises(EngineError, match=r"builds plans on the GPU that will run them.*take --engine tensorrt-rtx"):
        build(bundle, "tensorrt", "fp32")
    assert not bundle.builds_folder.exists()
