"""Plans really built: TensorRT for RTX needs no GPU for it.  TensorRT itself is a stand-in."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.engines.tensorrt.plans import COMMAND, SMALL, FakeTensorRT, build, profile, small_graph
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.engines.tensorrt import build as tensorrt_plan
from trt_landmarks.engines.tensorrt.build import build_target
from trt_landmarks.engines.tensorrt.flavours import RTX, TENSORRT
from trt_landmarks.engines.tensorrt.gpu import Gpu
from trt_landmarks.engines.tensorrt.record import PlanRecord
from trt_landmarks.engines.tensorrt.settings import PORTABLE, PlanSettings
from trt_landmarks.errors import EngineError
from trt_landmarks.files import CACHE_VARIABLE, file_sha256
from trt_landmarks.task.graphs import COARSE


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def test_every_graph_becomes_a_plan_with_its_record(rtx: ModuleType, tiny_bundle: Bundle, tmp_path: Path) -> None:
    settings = PlanSettings(1 << 28, 1)
    for graph, path in tiny_bundle.graphs.items():
        out = tmp_path / f"{graph}.plan"
        record = build(path, out, profile(tiny_bundle, graph), graph=graph, settings=settings)
        model = onnx.load(path)
        assert PlanRecord.read(out) == record
        assert [tensor.name for tensor in record.outputs] == [value.name for value in model.graph.output]
        assert [tensor.name for tensor in record.inputs] == [value.name for value in model.graph.input]
        assert (record.plan_sha256, record.source_sha256) == (file_sha256(out), file_sha256(path))
        assert (record.flavour, record.version) == (RTX, rtx.__version__)
        assert record.target == {"compute_capability": PORTABLE}
        assert record.settings == settings and record.profile == profile(tiny_bundle, graph)
        assert (record.graph, record.command, record.gate) == (graph, COMMAND, {})
        assert out.read_bytes()[:4] == b"vtrt"  # TensorRT's own bytes, with nothing before them
    assert len(names(tmp_path)) == 2 * len(tiny_bundle.graphs)


def test_targets(rtx: ModuleType, tmp_path: Path) -> None:
    path = small_graph(tmp_path / "net.onnx")
    record = build(path, tmp_path / "net.plan", settings=PlanSettings(compute_capabilities=("8.9", "7.5")))
    assert record.target == {"compute_capability": "7.5, 8.9"}
    with pytest.raises(EngineError, match=r"cannot build for compute capability 3\.5\. It knows .*8\.6"):
        build(path, tmp_path / "other.plan", settings=PlanSettings(compute_capabilities=("3.5",)))
    assert names(tmp_path) == {"net.onnx", "net.plan", "net.plan.json"}


def test_a_setting_that_the_flavour_does_not_have_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no version compatibility"):
        build(tmp_path / "none.onnx", tmp_path / "net.plan", settings=PlanSettings(version_compatible=True))


def test_too_little_workspace_says_so(rtx: ModuleType, tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"coarse\.onnx: .* cannot build .*more workspace than 0 MiB") as error:
        build(
            tiny_bundle.graphs[COARSE],
            tmp_path / "net.plan",
            profile(tiny_bundle, COARSE),
            settings=PlanSettings(workspace_bytes=1000),
        )
    assert error.value.code == "build_failed" and not names(tmp_path)


def test_a_graph_it_cannot_parse_is_named_with_node_and_operator(rtx: ModuleType, tmp_path: Path) -> None:
    node = helper.make_node("NoSuchOperator", ["volume"], ["points"], name="the-node")
    path = small_graph(tmp_path / "net.onnx", [node])
    with pytest.raises(EngineError, match=r"net\.onnx: .*cannot parse.*the-node \(NoSuchOperator\)") as error:
        build(path, tmp_path / "net.plan")
    assert error.value.code == "graph_refused"


@pytest.mark.parametrize("content", [slice(None, -40), slice(0, 0)])
def test_a_truncated_graph_is_refused(rtx: ModuleType, tmp_path: Path, content: slice) -> None:
    path = small_graph(tmp_path / "net.onnx")
    path.write_bytes(path.read_bytes()[content])
    with pytest.raises(EngineError, match=r"net\.onnx: .*cannot parse"):
        build(path, tmp_path / "net.plan")
    assert names(tmp_path) == {"net.onnx"}


def test_a_missing_graph_is_named(rtx: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"net\.onnx: cannot be read: No such file"):
        build(tmp_path / "net.onnx", tmp_path / "net.plan")


def test_types_are_taken_as_they_stand(rtx: ModuleType, tmp_path: Path) -> None:
    """FP16 and FP32 cannot be added in a strongly typed network."""
    path = small_graph(tmp_path / "net.onnx", kind=TensorProto.FLOAT16)
    with pytest.raises(EngineError, match=r"net\.onnx: .*cannot (parse|build)"):
        build(path, tmp_path / "net.plan")


def test_a_profile_of_other_inputs_is_refused(rtx: ModuleType, tmp_path: Path) -> None:
    path = small_graph(tmp_path / "net.onnx")
    with pytest.raises(EngineError, match="inputs are volume, not patches"):
        build(path, tmp_path / "net.plan", {"patches": SMALL["volume"]})
    with pytest.raises(EngineError, match="refuses the shapes"):
        build(path, tmp_path / "net.plan", {"volume": ((2, 3), (1, 3), (1, 3))})


# --- interruptions ------------------------------------------------------------------------------------------


def interrupted(bundle: Bundle, folder: Path, say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_plan, "PROGRESS_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        build(bundle.graphs[COARSE], folder / "a.plan", profile(bundle, COARSE), say=say)
    assert not names(folder)


def test_progress_is_told_and_an_interruption_leaves_nothing(
    rtx: ModuleType, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        raise KeyboardInterrupt

    interrupted(tiny_bundle, tmp_path, interrupt, monkeypatch)
    assert len(lines) == 1 and "coarse: " in lines[0]


def test_ctrl_c_ends_the_build_and_is_then_as_it_was(
    rtx: ModuleType, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    said: list[str] = []

    def press(line: str) -> None:
        said.append(line)
        signal.raise_signal(signal.SIGINT)

    interrupted(tiny_bundle, tmp_path, press, monkeypatch)
    assert len(said) == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_a_build_in_another_thread(rtx: ModuleType, tmp_path: Path) -> None:
    """Where signals cannot be handled, and never arrive."""
    path = small_graph(tmp_path / "net.onnx")
    thread = threading.Thread(target=build, args=(path, tmp_path / "net.plan"))
    thread.start()
    thread.join()
    assert PlanRecord.read(tmp_path / "net.plan").graph == COARSE


def fail_on(name: str, problem: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file of a name fail when it is put in place."""
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise problem
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("failing", ["net.plan", "net.plan.json"])
@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_failing_write_leaves_no_half(
    rtx: ModuleType, tmp_path: Path, failing: str, rebuilt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small_graph(tmp_path / "net.onnx")
    if rebuilt:
        build(path, tmp_path / "net.plan")
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    fail_on(failing, OSError(errno.ENOSPC, "No space left on device"), monkeypatch)
    with pytest.raises(EngineError, match=r"net\.plan.*: cannot be written: no space left on device"):
        build(path, tmp_path / "net.plan", gate={"mean_voxel": 1.0})
    # Either nothing was touched, or neither plan nor record is left: never a plan with another's record.
    after = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    assert after in (before, {"net.onnx": before["net.onnx"]})


def test_an_interrupted_write_leaves_neither(rtx: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_graph(tmp_path / "net.onnx")
    fail_on("net.plan", KeyboardInterrupt(), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        build(path, tmp_path / "net.plan")
    assert names(tmp_path) == {"net.onnx"}


def test_a_missing_folder_is_named(rtx: ModuleType, tmp_path: Path) -> None:
    path = small_graph(tmp_path / "net.onnx")
    with pytest.raises(EngineError, match=r"net\.plan\.json: cannot be written.*Create the folder"):
        build(path, tmp_path / "none" / "net.plan")


# --- TensorRT itself ----------------------------------------------------------------------------------------


@pytest.fixture
def tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """A stand-in for TensorRT, on a machine with a GPU."""
    module = FakeTensorRT()
    module.OnnxParser, module.Builder  # noqa: B018 - what load_flavour looks for
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(tensorrt_plan, "first_gpu", lambda: Gpu("NVIDIA H200", "9.0", "13.0"))
    monkeypatch.setattr(tensorrt_plan, "this_platform", lambda: "Linux x86_64")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return module


def test_tensorrts_plans_record_gpu_driver_and_platform(tensorrt: FakeTensorRT, tmp_path: Path) -> None:
    path = small_graph(tmp_path / "net.onnx")
    settings = PlanSettings(version_compatible=True, hardware_compatibility="same_compute_capability")
    record = build(path, tmp_path / "net.plan", flavour=TENSORRT, settings=settings)
    assert PlanRecord.read(tmp_path / "net.plan") == record
    assert record.target == {
        "compute_capability": "9.0",
        "gpu": "NVIDIA H200",
        "driver": "13.0",
        "platform": "Linux x86_64",
    }
    assert tensorrt.configs[0].flags == {"version_compatible"}


def test_tensorrt_needs_the_gpu_it_builds_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_plan, "first_gpu", lambda: None)
    monkeypatch.setattr(tensorrt_plan, "gpu_problem", lambda: "there is none")
    with pytest.raises(EngineError, match=r"on the GPU that will run them, and there is none.*take --engine tensorrt-"):
        build_target(TENSORRT, PlanSettings())
