"""The choice of an engine: auto falls back and says why, an explicit wish holds or fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.calibration.folders import write_scans
from trt_landmarks import system
from trt_landmarks.build import Request, build
from trt_landmarks.bundles.builds import RECORD, list_builds
from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.bundles.select import open_engine
from trt_landmarks.calibration import recipe
from trt_landmarks.calibration.scans import choose_scans
from trt_landmarks.engines.tensorrt.gpu import gpu_problem
from trt_landmarks.engines.tensorrt.record import PlanRecord, record_path
from trt_landmarks.errors import EngineError
from trt_landmarks.files import file_sha256
from trt_landmarks.system import processor_bf16

OTHER = {"processor": "another"}
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")
without_gpu = pytest.mark.skipif(gpu_problem() is None, reason="there is a GPU here")


@pytest.fixture
def spoilable(built_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle with builds that a test may change."""
    shutil.copytree(built_bundle.root, tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


@needs_openvino
def test_without_builds_it_is_openvino_in_fp32(tiny_bundle: Bundle) -> None:
    engine, note = open_engine(tiny_bundle, threads=1)
    assert (engine.name, engine.precision) == ("openvino", "fp32")
    assert "no TensorRT build" in note and "bfloat16" in note


def test_without_builds_and_openvino_it_is_onnxruntime_in_fp32(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    engine, note = open_engine(tiny_bundle, threads=1)
    assert (engine.name, engine.precision) == ("onnxruntime", "fp32")
    assert "no TensorRT build" in note and "OpenVINO cannot be loaded" in note
    for precision in (None, "fp32", "bf16"):
        with pytest.raises(EngineError) as error:
            open_engine(tiny_bundle, "openvino", precision)
        assert error.value.code == "package_missing"


@pytest.fixture
def measured(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle whose accuracy in bfloat16 was measured here, and found good enough."""
    if processor_bf16() is None:
        pytest.skip("this processor has no bfloat16")
    write_scans(tmp_path / "images", ["one", "two"])
    monkeypatch.setitem(recipe.LIMITS, "bf16", recipe.Limits(max_voxel=1e6))
    build(bundle, "openvino", Request("bf16", choose_scans(tmp_path / "images", 0, 2)))
    return bundle


@needs_openvino
def test_bf16_where_its_accuracy_was_measured(
    measured: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for engine, precision in (("auto", None), ("auto", "bf16"), ("openvino", None), ("openvino", "bf16")):
        opened, note = open_engine(measured, engine, precision)
        assert (opened.name, opened.precision) == ("openvino", "bf16")
        assert f"passed its accuracy gate on a processor with {processor_bf16()}" in note
    assert open_engine(measured, "auto", "fp32")[0].precision == "fp32"

    record = measured.builds_folder / "openvino-bf16" / RECORD
    content = json.loads(record.read_text())
    for change in ({"gate": {**content["gate"], "passed": False}}, {"recipe": {**content["recipe"], "target": OTHER}}):
        record.write_text(json.dumps({**content, **change}))
        assert open_engine(measured)[0].precision == "fp32"
        assert open_engine(measured, "openvino", "bf16")[0].precision == "bf16"
    record.write_text(json.dumps({**content, "gate": None}))
    opened, note = open_engine(measured)
    assert opened.precision == "fp32" and "is damaged" in note

    record.write_text(json.dumps(content))
    (tmp_path / "cpuinfo").write_text("model name : Old\nflags : fpu avx2\n")
    monkeypatch.setattr(system, "CPU_INFO", tmp_path / "cpuinfo")
    assert open_engine(measured)[0].precision == "fp32"
    with pytest.raises(EngineError) as error:
        open_engine(measured, "openvino", "bf16")
    assert error.value.code == "precision_missing"


def test_fp16_is_not_emulated_for_results(built_bundle: Bundle) -> None:
    assert open_engine(built_bundle)[0].precision == "fp32"
    assert open_engine(built_bundle, "onnxruntime")[0].precision == "fp32"
    for engine in ("auto", "onnxruntime"):
        with pytest.raises(EngineError) as error:
            open_engine(built_bundle, engine, "fp16")
        assert error.value.code == "precision_emulated"
    assert open_engine(built_bundle, "auto", "fp32")[0].precision == "fp32"


@pytest.mark.parametrize(
    ("engine", "precision", "says"),
    [
        ("tensorrt", None, "trtlm build --precision fp16 --engine tensorrt."),
        ("tensorrt-rtx", "fp32", "trtlm build --precision fp32 --engine tensorrt-rtx."),
        ("onnxruntime", "fp16", "trtlm build --precision fp16 --engine tensorrt."),
        ("auto", "fp16", "trtlm build --precision fp16 --engine tensorrt."),
        ("openvino", "bf16", "trtlm build --precision bf16 --engine openvino --calib SCANS."),
        ("onnxruntime", "bf16", "Precisions: fp32, fp16, int8."),
        ("openvino", "int8", "Precisions: fp32, bf16."),
        ("torch", None, "Engines: auto, onnxruntime, openvino, tensorrt, tensorrt-rtx."),
        ("auto", "int8", "trtlm build --precision int8 --engine tensorrt --calib SCANS."),
        ("auto", "fp8", "Precisions: fp32, fp16, int8, bf16."),
    ],
)
def test_what_cannot_be_had_says_what_to_do(tiny_bundle: Bundle, engine: str, precision: str | None, says: str) -> None:
    if (engine, precision) == ("openvino", "bf16"):
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
        if processor_bf16() is None:
            pytest.skip("this processor has no bfloat16")
    with pytest.raises(EngineError) as error:
        open_engine(tiny_bundle, engine, precision)
    assert says in error.value.remedy


def test_a_changed_build_is_not_whole(spoilable: Bundle) -> None:
    path = spoilable.builds_folder / "onnxruntime-fp16" / "graphs" / "coarse.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    (found,) = list_builds(spoilable)
    with pytest.raises(EngineError, match=r"coarse\.onnx: is not the file"):
        found.verify()
    assert open_engine(spoilable)[0].precision == "fp32"


def test_a_damaged_record_is_mentioned(spoilable: Bundle) -> None:
    (spoilable.builds_folder / "onnxruntime-fp16" / "build.json").write_text("{")
    _, note = open_engine(spoilable)
    assert "build.json: is damaged" in note
    with pytest.raises(EngineError, match="is damaged"):
        open_engine(spoilable, precision="fp16")


@without_gpu
def test_a_plan_without_a_gpu(spoilable: Bundle) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    build(spoilable, "tensorrt-rtx", Request("fp32"))
    engine, note = open_engine(spoilable)
    assert engine.provider != "GPU" and "tensorrt-rtx cannot run here" in note
    with pytest.raises(EngineError, match=r"tensorrt-rtx cannot run here: .* Take --engine onnxruntime"):
        open_engine(spoilable, "tensorrt-rtx")
    with pytest.raises(EngineError, match="no tensorrt-rtx build at fp16"):
        open_engine(spoilable, "tensorrt-rtx", "fp16")
    plan = spoilable.builds_folder / "tensorrt-rtx-fp32" / "engines" / "scan.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(EngineError, match="SHA-256 differs"):
        open_engine(spoilable, "tensorrt-rtx")
    _, note = open_engine(spoilable)
    assert "SHA-256 differs" in note


@without_gpu
def test_a_plan_of_another_graph_is_not_opened(spoilable: Bundle) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    done = build(spoilable, "tensorrt-rtx", Request("fp32"))
    plan = done.files["scan"]
    record = PlanRecord.read(plan)
    content = record_path(plan).read_bytes()
    record_path(plan).write_bytes(content.replace(b'"graph": "scan"', b'"graph": "scam"'))
    with pytest.raises(EngineError, match=r"scan\.plan\.json: is not the file .* trtlm build BUNDLE") as error:
        open_engine(spoilable, "tensorrt-rtx")
    assert error.value.remedy == f"Build it again: {record.command}."

    replace(record, source_sha256="ab" * 32).write(plan)  # with all SHA-256 put right
    path = done.folder / RECORD
    files = {**done.record["files"], "engines/scan.plan.json": file_sha256(record_path(plan))}
    path.write_text(json.dumps({**done.record, "files": files}))
    with pytest.raises(EngineError, match=r"SHA-256 of the ONNX graph recorded abababababab, expected") as error:
        open_engine(spoilable, "tensorrt-rtx")
    assert error.value.remedy == f"Build it again: {record.command}."
    assert "SHA-256 of the ONNX graph" in open_engine(spoilable)[1]

    path.write_text(json.dumps({**done.record, "source": None}))
    assert "is damaged" in open_engine(spoilable)[1]


def test_choosing_imports_no_heavy_package(tiny_bundle: Bundle) -> None:
    code = (
        "import sys; from trt_landmarks.bundles.bundle import open_bundle;"
        "from trt_landmarks.bundles.select import open_engine;"
        f"open_engine(open_bundle({str(tiny_bundle.root)!r}));"
        "print(*{'torch', 'onnx', 'modelopt', 'tensorrt', 'tensorrt_rtx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()
