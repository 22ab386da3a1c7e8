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
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.tensorrt.engine import TensorRTEngine
from trt_landmarks.engines.tensorrt.flavours import RTX
from trt_landmarks.engines.tensorrt.gpu import gpu_problem
from trt_landmarks.engines.tensorrt.record import PlanRecord
from trt_landmarks.geometry import Geometry
from trt_landmarks.scan import Scan, write_scan


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
    """The small model with real plans of TensorRT for RTX: the nets and both layouts over a whole scan."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    folder = tmp_path_factory.mktemp("gpu_check") / "bundle"
    shutil.copytree(tiny_bundle.root, folder)
    bundle = open_bundle(folder)
    for layout in ("nets", "one", "pair"):
        build(bundle, "onnxruntime", Request("fp32", layout=layout))
        build(bundle, RTX, Request("fp32", layout=layout, plans=sections.UNLIMITED))
    return bundle


@pytest.fixture
def device(built: Bundle, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A GPU on which the built plans compute what their graphs do."""
    found = Device()
    install(found, monkeypatch)
    loaded = found.tensorrt()
    monkeypatch.setattr(sections, "gpu_problem", lambda: None)
    for plan in built.builds_folder.rglob("*.plan"):
        record = PlanRecord.read(plan)
        layout = plan.parents[1].name.removeprefix(f"{RTX}-fp32").removeprefix("-")
        folder = built.builds_folder / f"onnxruntime-fp32-{layout}" / "graphs" if layout else built.root / "graphs"
        engine = OnnxRuntimeEngine({record.graph: folder / f"{record.graph}.onnx"}, threads=1)
        outputs = tuple(tensor.name for tensor in record.outputs)
        found.nets[plan.read_bytes()] = Net(record.profile, outputs, _computed(engine, record.graph), scratch=64)
        loaded.__version__ = record.version
    monkeypatch.setattr("trt_landmarks.engines.tensorrt.engine.load_flavour", lambda name: loaded)
    monkeypatch.setattr(others, "BALLAST", 1024)
    monkeypatch.setattr(others, "DELAY", 0.0)
    return found


def _computed(engine: OnnxRuntimeEngine, graph: str) -> Callable[..., Any]:
    return lambda *arrays: engine.run(graph, *arrays)


@pytest.fixture
def setting(built: Bundle, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setting:
    monkeypatch.setattr(sections, "latency", lambda call, *counts: latency(call, 2, 1))
    monkeypatch.setattr(sections, "STEADY_RUNS", 3)
    return Setting(scans, str(built.root), 2, tmp_path)


def rows_of(name: str, setting: Setting) -> dict[str, Any]:
    return {entry["what"]: entry for entry in SECTIONS[name].run(setting)}


@pytest.mark.parametrize("layout", ["nets", "one", "pair"])
def test_plans_that_agree_are_ok(device: Device, setting: Setting, layout: str) -> None:
    assert rows_of("reference", setting)["onnxruntime fp32 on the CPU"]["scans"] == 2
    found = rows_of(f"running fp32 {layout}", setting)
    against = found[f"{RTX} against onnxruntime fp32"]
    assert against["result"] == OK, against
    assert against["mean_mm"] < 1e-3
    replay = found[f"{RTX} CUDA graphs against the plain run"]
    assert replay["result"] == OK and replay["graphs"] >= len(device.nets) // 3 - 1, replay
    steady = found[f"{RTX} allocates nothing once warm"]
    assert (steady["result"], steady["allocations"], steady["gpu_memory_bytes"]) == (OK, 0, 0)
    assert found[f"{RTX} latency with CUDA graphs"]["latency"]["median_ms"] > 0
    assert device.pushed == 0 and not device.memory


def test_plans_that_differ_fail(device: Device, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_of("reference", setting)
    for net in device.nets.values():
        net.compute = _moved(net.compute)
    against = rows_of("running fp32 one", setting)[f"{RTX} against onnxruntime fp32"]
    assert against["result"] == FAILED and "allowed" in against["reason"]


def _moved(compute: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arrays: tuple(array + np.float32(0.1) for array in compute(*arrays))


def test_allocating_while_warm_fails(device: Device, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_of("reference", setting)
    monkeypatch.setattr(TensorRTEngine, "allocations", property(lambda self: len(device.batches)))
    assert rows_of("running fp32 one", setting)[f"{RTX} allocates nothing once warm"]["result"] == FAILED


def test_replays_that_differ_fail(device: Device, setting: Setting) -> None:
    rows_of("reference", setting)
    device.broken.add("replay")
    found = rows_of("running fp32 one", setting)[f"{RTX} CUDA graphs against the plain run"]
    assert found["result"] == FAILED and "differs" in found["reason"]
    device.broken = {"capturable"}
    assert rows_of("running fp32 one", setting)[f"{RTX} CUDA graphs against the plain run"]["result"] == NOT_RUN


def test_refusals_are_not_failures_but_broken_runs_are(device: Device, setting: Setting) -> None:
    rows_of("reference", setting)
    device.broken.add("plan")
    refused = rows_of("running fp32 one", setting)[f"{RTX} runs"]
    assert refused["result"] == NOT_RUN and "incompatible version" in refused["reason"]
    device.broken = {"execute"}
    assert rows_of("running fp32 one", setting)[f"{RTX} runs"]["result"] == FAILED
    assert "no build of TensorRT at int8" in rows_of("running int8 one", setting)["plans"]["reason"]


def test_builds_that_are_there_are_taken_and_others_say_what_they_lack(
    device: Device, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sections, "COMBINATIONS", (("fp32", "pair"), ("int8", "nets")))
    found = rows_of("building", setting)
    assert found[f"{RTX} fp32 pair"]["reason"] == "built before this run"
    lacking = found[f"{RTX} int8 nets"]
    assert lacking["result"] == NOT_RUN and "--calib SCANS" in lacking["reason"]


def test_targets_are_built_and_loaded_one_by_one(
    built: Bundle, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tensorrt_rtx

    class Refusing:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, plan: Any) -> None:
            self.log.log(1, "no such architecture")

    monkeypatch.setattr(sections, "gpu_problem", lambda: None)
    monkeypatch.setattr(tensorrt_rtx, "Runtime", Refusing)
    found = rows_of("loading", setting)
    assert found[f"{RTX} loads"]["version"] == tensorrt_rtx.__version__
    targets = {name.removeprefix("target "): entry for name, entry in found.items() if name.startswith("target ")}
    assert {"none named", "SM80", "SM120"} <= set(targets) and "NONE" not in targets
    assert targets["none named"]["builds"] and targets["SM120"]["builds"]
    assert all(entry["result"] == MEASURED and not entry["loads"] for entry in targets.values())
    assert targets["SM120"]["reason"] == "no such architecture"


def test_the_race_shows_itself_without_the_wait_only(device: Device, setting: Setting) -> None:
    found = rows_of("race", setting)
    assert found["hand-over with the wait"] == {
        "what": "hand-over with the wait", "result": OK, "wrong": 0, "turns": others.TURNS, "writer_copies": 1,
    }  # fmt: skip
    assert found["hand-over without the wait"]["result"] == OK and found["hand-over without the wait"]["wrong"] > 0
    assert device.pushed == 0 and not device.memory


def test_an_engine_that_does_not_wait_fails_the_race(
    device: Device, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorRTEngine, "_wait_for", lambda self, stream: None)
    assert rows_of("race", setting)["hand-over with the wait"]["result"] == FAILED


def test_providers_that_are_not_there_are_rows(setting: Setting) -> None:
    import onnxruntime
    import torch

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert rows_of("onnxruntime-cuda", setting)["CUDA provider"]["result"] == NOT_RUN
    if not torch.cuda.is_available():
        assert rows_of("torch", setting)["PyTorch"]["result"] == NOT_RUN
