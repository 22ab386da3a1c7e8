"""The runtime: plans are checked before anything sees them, and run on a stand-in for TensorRT and the GPU."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.engines.tensorrt.fake_gpu import Context, Device, Engine, Net, Stream, install, write_plan
from tests.engines.tensorrt.plans import COMMAND, change
from trt_landmarks.engines.base import DeviceArray
from trt_landmarks.engines.tensorrt import engine as tensorrt
from trt_landmarks.engines.tensorrt.check import Plan
from trt_landmarks.engines.tensorrt.engine import TensorRTEngine
from trt_landmarks.engines.tensorrt.flavours import RTX
from trt_landmarks.engines.tensorrt.gpu import NoGpu, gpu_problem
from trt_landmarks.engines.tensorrt.record import PlanRecord, record_path
from trt_landmarks.engines.tensorrt.settings import PlanSettings
from trt_landmarks.errors import EngineError
from trt_landmarks.task.graphs import COARSE


def asked(plan: Path, **entries: Any) -> dict[str, Plan]:
    """What is asked of the plan under test, with other entries in its record."""
    change(plan, **entries)
    return {COARSE: Plan(plan, PlanRecord.read(plan).source_sha256)}


# --- before TensorRT ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing", "record flipped", "record missing"])
def test_a_changed_plan_never_reaches_tensorrt(plan: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    wanted = asked(plan)
    file = record_path(plan) if damage.startswith("record") else plan
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        del content[-1]
    content[content.index(b"1") if file != plan else 1000] ^= 1
    file.write_bytes(content)
    if damage.endswith("missing"):
        file.unlink()
    monkeypatch.setattr(tensorrt, "load_flavour", lambda name: pytest.fail("TensorRT was asked"))
    with pytest.raises(EngineError, match=rf"{file.name}: .*trtlm build") as error:
        TensorRTEngine(wanted, RTX, "fp32")
    if file != plan:
        assert error.value.remedy == "Build the plan again: trtlm build --engine tensorrt-rtx --precision fp32."


def test_a_plan_of_another_version_never_reaches_tensorrt(
    rtx: ModuleType, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = asked(plan, version="1.6.0.1")
    monkeypatch.setattr(rtx, "Runtime", lambda log: pytest.fail("TensorRT was asked"))
    with pytest.raises(EngineError, match=rf"coarse\.plan: .*1\.6\.0\.1, and {rtx.__version__} is .* {COMMAND}\.$"):
        TensorRTEngine(wanted, RTX, "fp32")


@pytest.mark.skipif(gpu_problem() is None, reason="there is a GPU here")
def test_without_a_gpu_a_real_plan_is_one_error(rtx: ModuleType, plan: Path) -> None:
    with pytest.raises(EngineError, match=r"tensorrt-rtx cannot run here: .*driver.* Take --engine onnxruntime"):
        TensorRTEngine(asked(plan), RTX, "fp32")


def test_what_the_driver_advises_is_passed_on(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        tensorrt, "load_flavour", lambda name: SimpleNamespace(__version__=PlanRecord.read(plan).version)
    )
    monkeypatch.setattr(tensorrt, "find_gpus", lambda: NoGpu("no GPU is visible", "Check with nvidia-smi."))
    with pytest.raises(EngineError, match=r"no GPU is visible\. Check with nvidia-smi\. Take --engine onnxruntime"):
        TensorRTEngine(asked(plan), RTX, "fp32")


# --- with a stand-in for TensorRT, PyCUDA, cuda.bindings and the GPU ----------------------------------------

#: Doubles its input, and gives its first column.
NET = Net(
    {"volume": ((1, 3), (1, 3), (4, 3))}, ("points", "confidence"), lambda v: (2 * v, v[:, 0]), scratch=10,
)  # fmt: skip
ROWS = ((1, 3), (1, 3), (4, 3))
#: Another one, which shares its scratch memory.
SUM = Net({"a": ROWS, "b": ROWS}, ("sum",), lambda a, b: (a + b,), scratch=40)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """A GPU of compute capability 9.0."""
    found = Device()
    install(found, monkeypatch)
    return found


def opened(device: Device, folder: Path, cuda_graphs: int = 4, **nets: Net) -> TensorRTEngine:
    plans = {graph: write_plan(device, folder, graph, net) for graph, net in (nets or {COARSE: NET}).items()}
    return TensorRTEngine(plans, RTX, "fp32", cuda_graphs=cuda_graphs)


def ramp(rows: int, start: float = 0) -> Any:
    return start + np.arange(3 * rows, dtype=np.float32).reshape(rows, 3)


@pytest.mark.parametrize("cuda_graphs", [0, 4])
def test_outputs_keep_the_graphs_order(device: Device, tmp_path: Path, cuda_graphs: int) -> None:
    engine = opened(device, tmp_path, cuda_graphs)
    assert (engine.name, engine.precision, engine.provider) == (RTX, "fp32", "GPU")
    for count in (1, 4, 2, 3, 3, 3):
        device.synchronized = 0
        points, confidence = engine.run(COARSE, ramp(count))
        assert np.array_equal(points, 2 * ramp(count)) and np.array_equal(confidence, ramp(count)[:, 0])
    assert device.synchronized == 1 and device.pushed == 0 and not engine.notes


def test_results_stay_what_they_were_when_the_next_run_comes(device: Device, tmp_path: Path) -> None:
    engine = opened(device, tmp_path)
    first, _ = engine.run(COARSE, ramp(2))
    engine.run(COARSE, ramp(2, 100))
    assert np.array_equal(first, 2 * ramp(2))


@pytest.mark.parametrize("cuda_graphs", [0, 4])
def test_after_warming_up_nothing_is_allocated(device: Device, tmp_path: Path, cuda_graphs: int) -> None:
    engine = opened(device, tmp_path, cuda_graphs, sum=SUM)
    for rows in (4, 1, 2, 3) * 3:
        engine.run("sum", ramp(rows), ramp(rows, 5))
    before, captures = len(device.allocations), device.captures
    assert engine.allocations == before
    for rows in (3, 1, 4, 2) * 5:  # a folder of mixed sizes
        engine.run("sum", ramp(rows), ramp(rows, 5))
    assert device.captures == captures == cuda_graphs
    assert len(device.allocations) == before
    assert {"device", "pinned"} == set(device.allocations)


def test_buffers_grow_with_the_shapes_and_never_shrink(device: Device, tmp_path: Path) -> None:
    engine = opened(device, tmp_path)
    counts = []
    for rows in (1, 2, 1, 4, 3):
        assert np.array_equal(engine.run(COARSE, ramp(rows))[0], 2 * ramp(rows))
        counts.append(engine.allocations)
    assert counts[0] < counts[1] == counts[2] < counts[3] == counts[4]
    assert len(device.memory) == counts[0]  # what was replaced is free


def test_the_stand_in_has_the_real_names(rtx: ModuleType) -> None:
    device = Device()
    for real, stand_in in ((rtx.IExecutionContext, Context), (rtx.ICudaEngine, Engine)):
        assert {name for name in vars(stand_in) if not name.startswith("_")} <= set(dir(real))
    assert set(vars(device.tensorrt())) - {"__version__"} <= set(dir(rtx))
    assert {"USER_MANAGED"} <= set(dir(rtx.ExecutionContextAllocationStrategy))
    config = set(dir(rtx.IRuntimeConfig))
    assert {"set_execution_context_allocation_strategy", "dynamic_shapes_kernel_specialization_strategy"} <= config
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    assert set(vars(device.driver())) <= set(dir(driver))


def test_inputs_may_differ_in_shape(device: Device, tmp_path: Path) -> None:
    net = Net({"a": ROWS, "scale": ((1, 1),) * 3}, ("scaled",), lambda a, scale: (a * scale,))
    engine = opened(device, tmp_path, net=net)
    (scaled,) = engine.run("net", ramp(1), np.full((1, 1), 3, np.float32))
    assert np.array_equal(scaled, 3 * ramp(1))


def on_device(device: Device, array: Any, stream: int | None = None) -> DeviceArray:
    """Memory that a stream is about to fill, and has not yet: a stream of its own, or the one that is named."""
    device.pushed += 1
    cuda = device.pycuda()
    writer = Stream(device) if stream is None else device.streams[stream]
    memory = cuda.mem_alloc(array.nbytes)
    cuda.memcpy_htod_async(int(memory), array, writer)
    device.pushed -= 1
    return DeviceArray(int(memory), array.shape, memory)


@pytest.mark.parametrize("cuda_graphs", [0, 4])
def test_arrays_on_the_gpu_are_read_in_place_in_the_order_of_the_engines_stream(
    device: Device, tmp_path: Path, cuda_graphs: int
) -> None:
    engine = opened(device, tmp_path, cuda_graphs)
    held = [on_device(device, ramp(4, turn), engine.stream) for turn in range(3)]
    counts = []
    for _ in range(3):
        for turn, given in enumerate(held):
            assert np.array_equal(engine.run(COARSE, given)[0], 2 * ramp(4, turn))
        counts.append(engine.allocations)
    assert counts[1] == counts[2] and device.captures == (3 if cuda_graphs else 0)
    early = on_device(device, ramp(2))
    assert not np.array_equal(engine.run(COARSE, early)[0], 2 * ramp(2))  # a stream that nobody waits for
    device.pushed += 1
    for stream in device.streams.values():
        stream.synchronize()
    device.pushed -= 1


# --- CUDA graphs --------------------------------------------------------------------------------------------


def test_a_run_that_comes_again_is_captured_and_replayed(device: Device, tmp_path: Path) -> None:
    engine = opened(device, tmp_path)
    counts = []
    for start in range(4):
        assert np.array_equal(engine.run(COARSE, ramp(4, start))[0], 2 * ramp(4, start))
        counts.append((device.captures, device.launches))
    assert counts == [(0, 0), (1, 2), (1, 3), (1, 4)]  # two launches at first: one to compare
    engine.run(COARSE, ramp(2))
    assert (engine.captured, device.captures) == (1, 1)
    engine.run(COARSE, ramp(2))
    assert (engine.captured, device.captures, engine.notes) == (2, 2, [])
    assert device.settled == 2


def test_as_many_graphs_are_kept_as_were_asked_for(device: Device, tmp_path: Path) -> None:
    engine = opened(device, tmp_path, cuda_graphs=2)
    for rows in (4, 4, 3, 3, 2, 2):
        engine.run(COARSE, ramp(rows))
    assert (engine.captured, device.captures, device.freed.count("graph")) == (2, 3, 1)
    engine.run(COARSE, ramp(3))
    assert device.captures == 3
    for _ in range(2):
        assert np.array_equal(engine.run(COARSE, ramp(4))[0], 2 * ramp(4))
    assert device.captures == 4  # the first was the one to go


@pytest.mark.parametrize("rows", [2, 4])  # with 4 the scratch memory alone grows
def test_a_graph_is_not_replayed_into_buffers_that_were_replaced(device: Device, tmp_path: Path, rows: int) -> None:
    engine = opened(device, tmp_path, net=NET, sum=SUM)
    for _ in range(3):
        engine.run("net", ramp(rows))
    assert engine.captured == 1
    engine.run("sum", ramp(4), ramp(4))
    for start in range(3):
        assert np.array_equal(engine.run("net", ramp(rows, start))[0], 2 * ramp(rows, start))
    assert device.captures == 2


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("capture", "CUDA: cuStreamEndCapture gave CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"),
        ("replay", "a replay differs from the plain run by 1.3e+36"),
        ("capturable", "TensorRT says that it cannot be captured"),
    ],
)
def test_what_cannot_be_replayed_is_run_plainly_with_a_note(
    device: Device, tmp_path: Path, broken: str, why: str
) -> None:
    engine = opened(device, tmp_path)
    device.broken.add(broken)
    for start in range(4):
        assert np.array_equal(engine.run(COARSE, ramp(4, start))[0], 2 * ramp(4, start))
    assert engine.notes == [f"coarse: runs without a CUDA graph: {why}."]
    assert engine.captured == 0 and device.pushed == 0


def test_without_cuda_bindings_plans_run_plainly_with_a_note(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    engine = opened(device, tmp_path)
    for _ in range(3):
        assert np.array_equal(engine.run(COARSE, ramp(1))[0], 2 * ramp(1))
    assert len(engine.notes) == 1 and "pip install cuda-bindings" in engine.notes[0] and device.captures == 0


# --- refusals, and the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "says"),
    [("address", "does not take the memory"), ("execute", "could not run"), ("memory", "out of memory")],
)
def test_every_refusal_while_running_is_an_error(device: Device, tmp_path: Path, broken: str, says: str) -> None:
    engine = opened(device, tmp_path)
    device.broken.add(broken)
    with pytest.raises(EngineError, match=says):
        engine.run(COARSE, np.zeros((1, 3), dtype=np.float32))
    device.broken.clear()
    with pytest.raises(EngineError, match=r"refuses an input volume of shape \(1, 5\); the plan takes \(1, 3\) to"):
        engine.run(COARSE, np.zeros((1, 5), dtype=np.float32))
    assert device.pushed == 0
    for _ in range(3):
        assert engine.run(COARSE, np.ones((1, 3), dtype=np.float32))[0].sum() == 6


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        ("plan", "incompatible version"),
        ("type", "must be FP32"),
        ("names", "expected others"),
        ("context", "gives no execution context"),
    ],
)
def test_every_refusal_while_loading_is_an_error(device: Device, tmp_path: Path, broken: str, says: str) -> None:
    device.broken.add(broken)
    with pytest.raises(EngineError, match=says):
        opened(device, tmp_path)
    gc.collect()
    assert device.pushed == 0 and not device.memory


@pytest.mark.parametrize("how", ["close", "garbage", "another thread"])
def test_everything_is_given_back_in_order(device: Device, tmp_path: Path, how: str) -> None:
    engines = [opened(device, tmp_path)]
    for _ in range(3):
        engines[0].run(COARSE, ramp(4))
    engines[0].run(COARSE, on_device(device, ramp(1), engines[0].stream))
    device.freed.clear()
    if how == "close":
        engines[0].close()
        engines[0].close()
        with pytest.raises(EngineError, match="the engine is closed"):
            engines[0].run(COARSE, ramp(1))
    elif how == "garbage":
        engines.clear()
        gc.collect()
    else:
        thread = threading.Thread(target=engines[0].close)
        thread.start()
        thread.join()
    kinds = [kind for n, kind in enumerate(device.freed) if n == 0 or kind != device.freed[n - 1]]
    assert kinds == ["graph", "context", "engine", "memory"], device.freed
    assert device.freed.count("context") == 2 and device.pushed == 0
    assert len(device.memory) == 1  # the caller's


def test_missing_pycuda_is_explained(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(EngineError, match="needs PyCUDA"):
        opened(device, tmp_path)


def test_a_gpu_that_is_not_there_is_explained(device: Device, tmp_path: Path) -> None:
    plan = write_plan(device, tmp_path, COARSE, NET)
    with pytest.raises(EngineError, match=r"there is no GPU 1 here\. GPUs here: 0 to 0"):
        TensorRTEngine({COARSE: plan}, RTX, "fp32", device=1)


def test_a_plan_for_another_gpu_never_reaches_tensorrt(device: Device, tmp_path: Path) -> None:
    settings = PlanSettings(compute_capabilities=("8.6",))
    plan = write_plan(device, tmp_path, COARSE, NET, settings=settings, target={"compute_capability": "8.6"})
    device.broken.add("plan")
    with pytest.raises(EngineError, match=r"8\.6, and this GPU \(NVIDIA H200\) has 9\.0\. .*trtlm build"):
        TensorRTEngine({COARSE: plan}, RTX, "fp32")
    assert not device.streams


@pytest.mark.parametrize("compatible", [False, True])
def test_the_runtime_within_a_plan_is_allowed_for_version_compatible_plans_only(
    device: Device, tmp_path: Path, compatible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "this_platform", lambda: "Linux x86_64")
    target = {"compute_capability": "9.0", "gpu": "NVIDIA H200", "driver": "13.0", "platform": "Linux x86_64"}
    settings = PlanSettings(version_compatible=compatible)
    plan = write_plan(device, tmp_path, COARSE, NET, flavour="tensorrt", target=target, settings=settings)
    engine = TensorRTEngine({COARSE: plan}, "tensorrt", "fp32")
    assert device.runtime.engine_host_code_allowed is compatible
    engine.close()
