"""``trtlm build``: from FP32 graphs to calibrated graphs and plans; any change of any input makes a new build."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer

from trt_landmarks import build as builder
from trt_landmarks.build import Request, build, resolve
from trt_landmarks.bundles.builds import REPORT, Build, list_builds
from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.bundles.inspection import inspect_bundle
from trt_landmarks.calibration import lower, recipe
from trt_landmarks.calibration.recipe import Limits
from trt_landmarks.calibration.scans import CalibrationScans, choose_scans
from trt_landmarks.cli import app
from trt_landmarks.engines.tensorrt import build as tensorrt_plan
from trt_landmarks.engines.tensorrt.flavours import RTX, load_flavour
from trt_landmarks.engines.tensorrt.record import PlanRecord
from trt_landmarks.engines.tensorrt.settings import PlanSettings
from trt_landmarks.errors import EngineError, TrtlmError
from trt_landmarks.files import file_sha256
from trt_landmarks.geometry import Geometry
from trt_landmarks.scan import Scan, write_scan
from trt_landmarks.system import processor_bf16
from trt_landmarks.task.graphs import SCAN, scan_profile

rtx = pytest.mark.usefixtures("_rtx")


@pytest.fixture
def _rtx() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four scans and an annotation of each."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "landmarks").mkdir()
    for seed, name in enumerate("pqrs"):
        rng = np.random.default_rng(seed)
        voxels = rng.integers(0, 255, (24, 22, 20), dtype=np.uint8)
        geometry = Geometry((20, 22, 24), (1, 1, 1), (0, 0, 0), np.eye(3))
        write_scan(Scan(name, None, voxels, geometry), tmp_path / "data" / "images" / f"{name}.nii.gz")
        rows = "".join(f"{mark},{x},{x},{x}\n" for x, mark in enumerate("abcdef", start=5))
        (tmp_path / "data" / "landmarks" / f"{name}.csv").write_text(f"name,x_lps,y_lps,z_lps\n{rows}")
    return tmp_path / "data"


@pytest.fixture
def chosen(data: Path) -> CalibrationScans:
    return choose_scans(data, 2, 2)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calibration that does nothing but count; its graphs are copies."""
    made: list[str] = []

    def copy(bundle: Bundle, *arguments: Any, **options: Any) -> Any:
        made.append("made")
        folder = arguments[2]
        files = {graph: Path(shutil.copy(path, folder / f"{graph}.onnx")) for graph, path in bundle.graphs.items()}
        return files, {"lowering": {}, "comparison": {}, "gate": None}

    monkeypatch.setattr(lower, "lower", copy)
    monkeypatch.setattr("trt_landmarks.calibration.report.report", lambda *a: "report")
    return made


def test_fp32_on_onnxruntime_needs_no_build(bundle: Bundle) -> None:
    said: list[str] = []
    done = build(bundle, "onnxruntime", Request("fp32"), said.append)
    assert done.status == "nothing to build" and "nothing to build" in done.summary() + said[0]
    assert done.files == bundle.graphs and not bundle.builds_folder.exists()


def test_fp16_without_scans_says_what_it_does_not_know(built: Bundle) -> None:
    (found,) = list_builds(built, pytest.fail)
    record = found.record
    assert record["gate"] is None
    assert record["recipe"]["scans"] == "smooth random inputs"
    assert record["command"] == "trtlm build BUNDLE --engine onnxruntime --precision fp16"
    assert {"onnx", "onnxruntime", "nvidia-modelopt", "trt_landmarks"} <= set(record["recipe"]["versions"])
    assert "not measured" in (found.folder / REPORT).read_text()
    said: list[str] = []
    again = build(built, "onnxruntime", Request("fp16"), said.append)
    assert again.status == "cached" and again.record == record and "cached" in said[-1] + again.summary()


def test_calibrated_gated_and_recorded(bundle: Bundle, chosen: CalibrationScans) -> None:
    said: list[str] = []
    done = build(bundle, "onnxruntime", Request("int8", chosen, accept_deviation=True), said.append)
    gate = done.record["gate"]
    assert gate["on"] == [file.id for file in chosen.held_out]
    assert set(gate["landmarks"]) == set(bundle.task.landmarks) and gate["mre_mm"] > 0
    assert set(done.record["recipe"]["scans"]["calibration"]) == {file.id for file in chosen.calibration}
    assert done.record["lowering"]["independent"]["conv_flops_int8"] > 0.8
    assert done.record["command"].endswith("--precision int8 --calib SCANS --n 2 --seed 0 --accept-deviation")
    assert "Deviation from FP32 per landmark" in (done.folder / REPORT).read_text()
    assert any("to measure on" in line for line in said)
    # Without scans, the graphs that are there are taken; they passed, or what they deviate is accepted again.
    assert build(bundle, "onnxruntime", Request("int8", accept_deviation=True)).status == "cached"


def test_a_build_over_the_limits_is_refused_and_not_taken_from_the_cache(
    bundle: Bundle, chosen: CalibrationScans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipe.LIMITS, "fp16", Limits(mean_voxel=-1.0))
    said: list[str] = []
    with pytest.raises(EngineError, match=r"deviates too much from FP32: mean voxel ") as e:
        build(bundle, "onnxruntime", Request("fp16", chosen), said.append)
    assert e.value.code == "gate_failed"
    assert {line.split()[0] for line in said} > set(bundle.task.landmarks)  # the table
    assert not list(bundle.builds_folder.iterdir())
    done = build(bundle, "onnxruntime", Request("fp16", chosen, accept_deviation=True))
    assert done.record["gate"]["accepted"] and not done.record["gate"]["passed"]
    for request in (Request("fp16", chosen), Request("fp16")):
        with pytest.raises(EngineError, match=r"deviates too much|differs too much|is there already"):
            monkeypatch.setattr(lower, "RANDOM_CONFIDENCE", -1.0)
            build(bundle, "onnxruntime", request)


def test_bf16_for_openvino_is_a_record_of_its_accuracy(
    bundle: Bundle, chosen: CalibrationScans, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    if processor_bf16() is None:
        pytest.skip("this processor has no bfloat16")
    with pytest.raises(EngineError) as error:
        build(bundle, "openvino", Request("bf16"))
    assert error.value.code == "scans_missing"
    monkeypatch.setitem(recipe.LIMITS, "bf16", Limits(mean_voxel=-1.0))
    with pytest.raises(EngineError) as error:
        build(bundle, "auto", Request("bf16", chosen))
    assert error.value.code == "gate_failed" and not list(bundle.builds_folder.iterdir())
    done = build(bundle, "openvino", Request("bf16", chosen, accept_deviation=True))
    assert (done.engine, done.precision, done.record["files"]) == ("openvino", "bf16", {})
    assert done.record["gate"]["on"] == [file.id for file in chosen.held_out] and done.record["gate"]["mean_voxel"] > 0
    assert done.record["recipe"]["target"] == {"processor": processor_bf16()}
    assert (
        done.record["command"]
        == "trtlm build BUNDLE --engine openvino --precision bf16 --calib SCANS --accept-deviation"
    )
    with pytest.raises(EngineError) as error:
        build(bundle, "openvino", Request("bf16", chosen))
    assert error.value.code == "gate_failed"
    assert build(bundle, "openvino", Request("bf16", chosen, accept_deviation=True)).status == "cached"
    (found,) = inspect_bundle(bundle)["builds"]
    assert found["runs_here"] and found["gate"]["accepted"]
    assert build(bundle, "openvino", Request("fp32")).status == "nothing to build"


def test_any_change_of_an_input_makes_a_new_build(
    bundle: Bundle, data: Path, chosen: CalibrationScans, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Request("int8", chosen)

    def status(request: Request = first) -> str:
        return build(open_bundle(bundle.root), "onnxruntime", request).status

    def anew() -> None:
        """The build is made, and then it is there."""
        assert (status(), status()) == ("built", "cached")

    anew()
    for request in (
        replace(first, method="max"),
        replace(first, exclude=("coarse:x",)),
        replace(first, sensitivity=True),
        replace(first, scans=choose_scans(data, 1, 2)),
        replace(first, scans=choose_scans(data, 2, 1)),
        replace(first, scans=replace(chosen, calibration=chosen.held_out, held_out=chosen.calibration)),
        replace(first, scans=replace(chosen, annotations={})),
    ):
        assert (status(request), status(request)) == ("built", "cached"), request
    anew()
    scan = chosen.calibration[0].path
    scan.write_bytes(scan.read_bytes() + b"\0")  # its content, whatever it means
    anew()
    annotation = next(iter(chosen.annotations.values()))
    annotation.write_text(annotation.read_text().replace("5,5,5", "5,5,6"))
    anew()
    for name in ("DATA_MAX", "RANGE_INPUTS", "AIM_VOXEL", "LEAST_GAIN", "LEAST_INT8", "SENSITIVITY_SCANS"):
        monkeypatch.setattr(recipe, name, 1)
        anew()
    monkeypatch.setitem(recipe.LIMITS, "int8", Limits(mean_voxel=9.0))
    anew()
    monkeypatch.setattr(builder, "__version__", "9.9")
    anew()
    for package in ("numpy", "onnxruntime", "onnx", "nvidia-modelopt"):
        real = importlib.metadata.version
        changed = lambda name, p=package, r=real: "9.9" if name == p else r(name)  # noqa: E731
        monkeypatch.setattr(importlib.metadata, "version", changed)
        anew()
    graph = bundle.graphs["coarse"]  # another net under the same name
    model = onnx.load(graph)
    model.producer_name = "somebody else"
    onnx.save(model, graph)
    manifest = json.loads((bundle.root / "manifest.json").read_text())
    manifest["files"]["graphs/coarse.onnx"] = file_sha256(graph)
    (bundle.root / "manifest.json").write_text(json.dumps(manifest))
    anew()
    assert len(quick) > 15


def test_int8_needs_scans_once(bundle: Bundle, chosen: CalibrationScans, quick: list[str]) -> None:
    build(bundle, "onnxruntime", Request("int8", chosen))
    assert build(bundle, "onnxruntime", Request("int8")).status == "cached"
    assert quick == ["made"]
    build(bundle, "onnxruntime", Request("int8", method="max"))  # asks for something that is not there
    assert quick == ["made", "made"]


def test_int8_without_scans_says_what_to_do(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"none were given.*trtlm build --precision int8 --calib SCANS"):
        build(bundle, "onnxruntime", Request("int8"))
    assert not list(bundle.builds_folder.iterdir())


def test_a_broken_scan_is_named_and_nothing_changes(data: Path, built: Bundle) -> None:
    before = sorted(built.root.rglob("*"))
    path = data / "images" / "q.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(TrtlmError, match=r"q\.nii\.gz.*chosen for calibration; nothing was built"):
        build(built, "onnxruntime", Request("fp16", choose_scans(data, 3, 1)))
    assert sorted(built.root.rglob("*")) == before


def test_a_damaged_graph_is_found_out_first(bundle: Bundle) -> None:
    path = bundle.graphs["coarse"]
    whole = path.read_bytes()
    for damaged in (whole[:-10], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]):
        path.write_bytes(damaged)
        with pytest.raises(TrtlmError, match=r"coarse\.onnx: is not the file the manifest describes"):
            build(open_bundle(bundle.root, verify=False), "onnxruntime", Request("fp16"))
    path.write_bytes(whole)
    assert not bundle.builds_folder.exists()


@pytest.mark.parametrize(
    ("engine", "precision", "says"),
    [
        ("onnxruntime", "fp8", "Precisions: fp32, fp16, int8"),
        ("openvino", "fp16", "Precisions: fp32, bf16"),
        ("torch", "fp16", "Engines: auto, onnxruntime, openvino, tensorrt, tensorrt-rtx"),
    ],
)
def test_what_there_is_not(bundle: Bundle, engine: str, precision: str, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        build(bundle, engine, Request(precision))


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

        monkeypatch.setattr(builder, "load_flavour", load)
        said: list[str] = []
        assert resolve("auto", said.append) == expected
        assert said[0].startswith(f"engine: {expected}")


def plan_of(done: Build) -> PlanRecord:
    return PlanRecord.read(done.files[SCAN])


@rtx
def test_the_plan_comes_from_the_graphs_of_its_precision(built: Bundle) -> None:
    said: list[str] = []
    done = build(built, RTX, Request("fp16"), said.append)
    assert "taking the graphs that are there already" in "".join(said)
    graphs = next(b for b in list_builds(built, pytest.fail) if b.engine == "onnxruntime")
    assert done.record["recipe"]["sources"] == graphs.digests
    record = plan_of(done)
    assert (record.graph, record.precision, record.flavour) == (SCAN, "fp16", RTX)
    assert record.profile == scan_profile(built.task) and record.source_sha256 == done.record["source"]
    assert record.command == done.record["command"] and "--engine tensorrt-rtx" in record.command
    assert any("the plan itself was not run: " in line for line in said)
    assert not list(done.folder.rglob("*.onnx"))
    assert build(built, RTX, Request("fp16")).status == "cached"


@rtx
def test_any_change_of_a_plan_s_input_makes_new_plans(built: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def plan(source: Path, out: Path, *arguments: Any, **options: Any) -> Any:
        made.append(out.name)
        out.write_bytes(b"plan")
        return PlanRecord(
            options["graph"], "fp16", "0" * 64, "0" * 64, RTX, "1", {"compute_capability": "8.9"}, PlanSettings(), {},
            (), (), tensorrt_plan_facts, {}, "", 0.0,
        )  # fmt: skip

    tensorrt_plan_facts = plan_of(build(built, RTX, Request("fp32"))).network
    monkeypatch.setattr(tensorrt_plan, "build_plan", plan)
    first = Request("fp16")
    assert [build(built, RTX, first).status for _ in range(2)] == ["built", "cached"]
    for settings in (
        PlanSettings(workspace_bytes=1 << 20),
        PlanSettings(optimization_level=1),
        PlanSettings(compute_capabilities=("8.9",)),
    ):
        request = replace(first, plans=settings)
        assert [build(built, RTX, request).status for _ in range(2)] == ["built", "cached"], settings
    assert [build(built, RTX, first).status for _ in range(2)] == ["built", "cached"]
    real = load_flavour(RTX)
    newer = type("Newer", (), {"__version__": "99", "__getattr__": lambda self, name: getattr(real, name)})()
    monkeypatch.setattr(builder, "load_flavour", lambda name: newer)
    assert [build(built, RTX, first).status for _ in range(2)] == ["built", "cached"]
    (built.builds_folder / "onnxruntime-fp16" / "graphs" / "coarse.onnx").unlink()  # its graphs are made again, equal
    assert build(built, RTX, first).status == "cached"
    assert set(made) == {"scan.plan"}


@rtx
def test_a_plan_that_fails_spoils_nothing(built: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(built.root.rglob("*"))
    shapes = scan_profile(built.task)
    wrong = {**shapes, "voxels": shapes["voxels"][::-1]}
    monkeypatch.setattr(builder, "scan_profile", lambda task: wrong)
    with pytest.raises(EngineError, match="TensorRT refuses the shapes"):
        build(built, RTX, Request("fp32"))
    assert sorted(built.root.rglob("*")) == before


def test_tensorrt_proper_needs_the_gpu_it_builds_for(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    class Module:
        __version__ = "11.4"

    monkeypatch.setattr(builder, "load_flavour", lambda name: Module())
    monkeypatch.setattr(tensorrt_plan, "first_gpu", lambda: None)
    with pytest.raises(EngineError, match=r"builds plans on the GPU that will run them.*take --engine tensorrt-rtx"):
        build(bundle, "tensorrt", Request("fp32"))
    assert not bundle.builds_folder.exists()


def test_the_recorded_command_is_one_the_command_line_takes(bundle: Bundle, chosen: CalibrationScans) -> None:
    plans = PlanSettings(3 << 20, 2, True, "ampere_plus", ("8.9",))
    request = Request("int8", chosen, "max", ("coarse:a b",), True, True, plans)
    words = shlex.split(builder._command(bundle, RTX, request))
    assert words[:3] == ["trtlm", "build", "BUNDLE"]
    command = typer.main.get_command(app)
    context = command.make_context("trtlm", ["build"], resilient_parsing=True)
    sub = command.get_command(context, "build")  # type: ignore[attr-defined]
    values = sub.make_context("build", words[2:]).params
    assert values["workspace"] == 3 and values["optimization_level"] == 2 and values["version_compatible"]
    assert (values["hardware_compatibility"], values["target"], values["exclude"]) == (
        "ampere_plus", ["8.9"], ["coarse:a b"]
    )  # fmt: skip
    assert (values["precision"], values["method"], values["n"], values["seed"]) == ("int8", "max", 2, 0)
    assert values["sensitivity"] and values["accept_deviation"] and values["engine"] == RTX
