"""The GPU check: without a GPU as it is, and its sections on a stand-in that computes with ONNX Runtime."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check import others, sections
from benchmarks.gpu_check.rows import FAILED, MEASURED, NOT_RUN, OK, latency, markdown, row, verdict
from benchmarks.gpu_check.sections import SECTIONS, Section, Setting
from tests.engines.tensorrt.fake_gpu import Device, Net, install
from tests.synthetic import rotation
from trt_landmarks.bench.machine import scrubbed
from trt_landmarks.build import Request, build
from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.engines.base import DeviceArray, Input
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.tensorrt.flavours import RTX
from trt_landmarks.engines.tensorrt.gpu import gpu_problem
from trt_landmarks.engines.tensorrt.record import PlanRecord
from trt_landmarks.export import fine_forms
from trt_landmarks.export.whole_scan import write_whole_scan
from trt_landmarks.geometry import Geometry, Grid
from trt_landmarks.preprocessing.reference import Range, ReferencePreprocessor
from trt_landmarks.scan import Scan, write_scan
from trt_landmarks.task.graphs import SCAN


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans of smooth noise, of different size and direction."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(1)
    for name, size, degrees in (("a", (20, 22, 24), (0, 0, 0)), ("b", (31, 25, 40), (10, -20, 35))):
        noise = rng.normal(size=size[::-1])
        for axis in range(3):
            noise = np.sum([np.roll(noise, shift, axis) for shift in range(-2, 3)], axis=0)
        voxels = ((noise - noise.min()) / np.ptp(noise) * 250).astype(np.uint8)
        geometry = Geometry(size, (1.0, 0.9, 1.1), (0.0, 0.0, 0.0), rotation(*degrees))
        write_scan(Scan(name, None, voxels, geometry), folder / f"{name}.nii.gz")
    return folder


# --- the command --------------------------------------------------------------------------------------------


@pytest.mark.skipif(gpu_problem() is None, reason="there is a GPU here")
def test_without_a_gpu_every_section_says_why(bundle: Bundle, scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    assert command.main(["--scans", str(scans), "--out", str(out), "--model", str(bundle.root)]) == 2
    report = json.loads((out / "gpu_check.json").read_text())
    assert [section["name"] for section in report["sections"]] == list(SECTIONS)
    for section in report["sections"]:
        assert section["rows"]
        if SECTIONS[section["name"]].needs_gpu:
            assert {entry["result"] for entry in section["rows"]} == {NOT_RUN}
            assert all(gpu_problem() == entry["reason"] for entry in section["rows"])
    assert report["counts"][FAILED] == 0 and report["counts"][MEASURED] > 3
    for name in ("gpu_check.json", "gpu_check.md"):
        text = (out / name).read_text()
        assert "There is no GPU here" in text
        assert str(tmp_path) not in text and str(Path(sys.prefix)) not in text
        assert len(platform.node()) <= 2 or platform.node() not in text


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--scans", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not list(tmp_path.iterdir())


CHILD = """
import os, sys, time
from benchmarks.gpu_check import __main__ as command
from benchmarks.gpu_check.rows import row
from benchmarks.gpu_check.sections import SECTIONS, Section
from trt_landmarks.errors import EngineError

def crash(setting):
    yield row("first", "ok")
    os.abort()

def hang(setting):
    yield row("first", "ok")
    time.sleep(60)

def refuse(setting):
    yield row("first", "ok")
    raise EngineError("no such thing.", "Do without.")

SECTIONS.clear()
SECTIONS.update(crash=Section(crash, 30, ("x",)), hang=Section(hang, 6, ("x",)), refuse=Section(refuse, 30, ("x",)),
                fine=Section(lambda setting: iter([row("all", "ok")]), 30, ("x",)))
raise SystemExit(command.main())
"""


def test_a_crash_or_a_hang_costs_its_section_only(
    bundle: Bundle, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "child.py"
    program.write_text(CHILD)
    monkeypatch.setattr(command, "SECTIONS", {name: Section(lambda setting: iter(()), 6, ("x",)) for name in
                                              ("crash", "hang", "refuse", "fine")})  # fmt: skip
    monkeypatch.setattr(command, "gpu_problem", lambda: None)
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda c, **more: run([c[0], str(program), *c[3:]], **more))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    out = tmp_path / "report"
    assert command.main(["--scans", str(scans), "--out", str(out), "--model", str(bundle.root)]) == 1
    found = {s["name"]: s["rows"] for s in json.loads((out / "gpu_check.json").read_text())["sections"]}
    assert all(rows[0]["result"] == OK for rows in found.values())
    assert found["crash"][1]["result"] == FAILED and "ended with -6" in found["crash"][1]["reason"]
    assert (found["hang"][1]["result"], found["hang"][1]["reason"]) == (FAILED, "it was not done in 6 s")
    assert found["refuse"][1]["result"] == NOT_RUN and "no such thing. Do without." in found["refuse"][1]["reason"]
    assert len(found["fine"]) == 1


def test_when_time_is_up_sections_are_named(
    bundle: Bundle, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "gpu_problem", lambda: None)
    monkeypatch.setattr(command, "LIMIT", 0.0)
    assert command.main(["--scans", str(scans), "--out", str(tmp_path), "--model", str(bundle.root)]) == 0
    for section in json.loads((tmp_path / "gpu_check.json").read_text())["sections"]:
        assert {(e["result"], e["reason"]) for e in section["rows"]} == {(NOT_RUN, "no time was left of 0 s")}


# --- rows ---------------------------------------------------------------------------------------------------


def test_reports_name_no_folder_and_no_machine() -> None:
    told = {"a": ["/home/me/x/coarse.plan: is damaged", f"on {platform.node()}: ~/cache/b.json (in /etc)"], "n": 1.5}
    here = "on this machine: b.json (in etc)" if len(platform.node()) > 2 else f"on {platform.node()}: b.json (in etc)"
    assert scrubbed(told) == {"a": ["coarse.plan: is damaged", here], "n": 1.5}
    assert scrubbed("1/2 and a/b, CUDA 13.0") == "1/2 and a/b, CUDA 13.0"


def test_rows_and_their_table() -> None:
    assert verdict("x", True, "no", mm=1) == {"what": "x", "result": OK, "mm": 1}
    assert verdict("x", False, "no") == {"what": "x", "result": FAILED, "reason": "no"}
    calls: list[int] = []
    found = latency(lambda: calls.append(1), 30, 5)
    assert len(calls) == 35 and found["runs"] == 30 and found["p90_ms"] >= found["median_ms"] >= 0
    text = markdown(
        {"verdict": "v", "sections": [{"name": "s", "seconds": 1, "rows": [row("a|b", OK, latency=found)]}]}
    )
    assert "| a/b | ok | latency median_ms" in text


# --- the sections, on a stand-in ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small model with a real plan of TensorRT for RTX, and the graph that it was built from."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    folder = tmp_path_factory.mktemp("gpu_check") / "bundle"
    shutil.copytree(tiny_bundle.root, folder)
    bundle = open_bundle(folder)
    build(bundle, RTX, Request("fp32"))
    write_whole_scan(bundle.task, bundle.mean_shape, bundle.graphs, folder / "scan.onnx")
    return bundle


@pytest.fixture
def device(built: Bundle, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A GPU on which the built plan computes what its graph does."""
    found = Device()
    install(found, monkeypatch)
    loaded = found.tensorrt()
    (plan,) = built.builds_folder.rglob("*.plan")
    record = PlanRecord.read(plan)
    engine = OnnxRuntimeEngine({SCAN: built.root / "scan.onnx"}, threads=1)
    outputs = tuple(tensor.name for tensor in record.outputs)
    found.nets[plan.read_bytes()] = Net(record.profile, outputs, lambda *arrays: engine.run(SCAN, *arrays), scratch=64)
    loaded.__version__ = record.version
    monkeypatch.setattr("trt_landmarks.engines.tensorrt.engine.load_flavour", lambda name: loaded)
    monkeypatch.setattr(sections, "FLAVOURS", (RTX,))
    monkeypatch.setattr(sections, "DEFAULT", "fp32")
    monkeypatch.setattr(sections, "PRECISIONS", ("int8", "fp32"))
    monkeypatch.setattr(sections, "open_preprocessor", lambda *choice: (OnGpu(found), "dali"))
    monkeypatch.setattr(others, "DaliPreprocessor", lambda *choice: OnGpu(found) if choice else ReferencePreprocessor())
    monkeypatch.setattr(others, "TURNS", 6)
    return found


class OnGpu(ReferencePreprocessor):
    """As DALI on a GPU: writes there on a stream of its own, which the one that is named waits for."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def scan_volumes(self, scan: Scan, grid: Grid, intensities: Range, stream: int | None) -> tuple[Input, Input]:
        self.device.pushed += 1
        arrays = [np.ascontiguousarray(a) for a in super().scan_volumes(scan, grid, intensities, None)]
        cuda, given = self.device.pycuda(), []
        for array in arrays:
            memory = cuda.mem_alloc(array.nbytes)
            cuda.memcpy_htod_async(int(memory), array, self.device.streams[stream or 0])
            given.append(DeviceArray(int(memory), array.shape, memory))
        self.device.pushed -= 1
        return given[0], given[1]


@pytest.fixture
def setting(built: Bundle, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr(sections, "latency", lambda call, *counts: latency(call, 2, 1))
    monkeypatch.setattr(sections, "STEADY_RUNS", 3)
    return Setting(scans, str(built.root), 2, tmp_path)


def rows_of(name: str, setting: Setting) -> dict[str, Any]:
    return {entry["what"]: entry for entry in SECTIONS[name].run(setting)}


OPENS, DEFAULT_PATH = "opens and agrees", "latency of the default path"


def test_a_plan_that_agrees_is_ok(device: Device, setting: Setting) -> None:
    found = rows_of(OPENS, setting)
    assert found["onnxruntime fp32 on the CPU"]["scans"] == 2
    assert found[f"{RTX} fp32 opens"]["result"] == OK
    against = found[f"{RTX} fp32 against onnxruntime fp32"]
    assert against["result"] == OK and against["mean_mm"] < 1e-3, against
    assert device.pushed == 0 and not device.memory


def test_the_default_path_replays_and_agrees(device: Device, setting: Setting) -> None:
    rows_of(OPENS, setting)
    found = rows_of(DEFAULT_PATH, setting)
    assert found["replays against onnxruntime fp32"]["result"] == OK
    timed = [entry for name, entry in found.items() if "with CUDA graphs" in name or "without CUDA graphs" in name]
    assert len(timed) == 4 and all(entry["stages_ms"]["scan"] > 0 for entry in timed)
    assert device.pushed == 0


def test_a_plan_that_differs_fails(device: Device, setting: Setting) -> None:
    for net in device.nets.values():
        net.compute = _moved(net.compute)
    against = rows_of(OPENS, setting)[f"{RTX} fp32 against onnxruntime fp32"]
    assert against["result"] == FAILED and "allowed" in against["reason"]


def _moved(compute: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arrays: tuple(array + np.float32(0.1) for array in compute(*arrays))


def test_a_plan_that_does_not_open_where_it_should_fails(
    device: Device, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.broken.add("plan")
    for there, result in (({"pycuda": "2026.1"}, FAILED), ({}, NOT_RUN)):
        monkeypatch.setattr(sections, "installed_versions", lambda names, there=there: there)
        refused = rows_of(OPENS, setting)[f"{RTX} fp32 opens"]
        assert refused["result"] == result and "incompatible version" in refused["reason"]


def test_runs_that_break_fail(device: Device, setting: Setting) -> None:
    device.broken.add("execute")
    assert rows_of(OPENS, setting)[f"{RTX} fp32 against onnxruntime fp32"]["result"] == FAILED


def test_precisions_that_are_not_there_say_what_they_lack(device: Device, setting: Setting) -> None:
    rows_of(OPENS, setting)
    found = rows_of("precisions", setting)
    assert found[f"{RTX} int8"]["result"] == NOT_RUN and "--calib SCANS" in found[f"{RTX} int8"]["reason"]
    assert found[f"{RTX} fp32 latency"]["latency"]["median_ms"] > 0


def test_the_race_shows_itself_without_the_wait_only(device: Device, setting: Setting) -> None:
    found = rows_of("DALI and race", setting)
    assert found["GPU against the reference"]["result"] == OK
    assert found["hand-over to TensorRT"] == {
        "what": "hand-over to TensorRT", "result": OK, "wrong": 0, "turns": others.TURNS
    }  # fmt: skip
    assert found["without the wait"]["wrong"] > 0
    assert device.pushed == 0


def test_forms_of_the_nets_are_built_and_say_why_they_do_not_run(
    built: Bundle, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_forms, "FORMS", {"dense4": 4})  # all of them: tests/export/test_fine_forms.py
    found = rows_of("variants", setting)
    assert {name.split()[-1] for name in found if name.startswith(RTX)} == {"dense4"}
    if gpu_problem() is not None:
        assert all("cannot run here" in entry["reason"] for name, entry in found.items() if name.startswith(RTX))


def test_baselines_that_are_not_there_are_rows(setting: Setting) -> None:
    import onnxruntime
    import torch

    found = rows_of("bench rows", setting)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert found["ONNX Runtime's CUDA provider"]["result"] == NOT_RUN
    if not torch.cuda.is_available():
        assert found["PyTorch"]["result"] == NOT_RUN
