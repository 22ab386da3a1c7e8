"""The runtime: plans are checked before anything sees them, and run with a stand-in for TensorRT and the GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.engines.plans import COMMAND, change
from trt_landmarks.engines import tensorrt
from trt_landmarks.engines.base import COARSE
from trt_landmarks.engines.flavours import RTX
from trt_landmarks.engines.gpu import Gpu, NoGpu, gpu_problem
from trt_landmarks.engines.plan_check import Plan
from trt_landmarks.engines.plan_record import PlanRecord, record_path
from trt_landmarks.engines.tensorrt import TensorRTEngine
from trt_landmarks.errors import EngineError


def asked(plan: Path, **entries: Any) -> dict[str, Plan]:
    """What is asked of the plan under test, with other entries in its record."""
    change(plan, **entries)
    record = PlanRecord.read(plan)
    return {COARSE: Plan(plan, record.source_sha256, record.profile["volume"][0])}


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


# --- with a stand-in for TensorRT, PyCUDA and the GPU -------------------------------------------------------


class Context:
    """Execution context of the stand-in: the first output doubles the input, the second is its first column."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return shape[1] == 3 and shape[0] <= 4

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape if name == "points" else self.shape[:1]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return "address" not in self.device.broken

    def execute_async_v3(self, stream: int) -> bool:
        values = self.device.memory[self.addresses["volume"]].reshape(self.shape)
        self.device.batches.append(len(values))
        self.device.memory[self.addresses["points"]] = 2 * values
        self.device.memory[self.addresses["confidence"]] = values[:, 0]
        return "execute" not in self.device.broken


class Device:
    """Stand-in for TensorRT, PyCUDA and the GPU: just enough to see what the engine does with them."""

    float32 = "float32"
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")

    class Error(Exception):
        pass

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, WARNING=2)

    def __init__(self, version: str) -> None:
        self.__version__ = version
        self.broken: set[str] = set()
        self.memory: dict[int, Any] = {}
        self.batches: list[int] = []
        self.pushed = 0
        self.context = SimpleNamespace(push=lambda: self._push(1), pop=lambda: self._push(-1))
        self.autoprimaryctx = SimpleNamespace(context=self.context)
        self.names = ["volume", "confidence", "points"]

    def _push(self, step: int) -> None:
        self.pushed += step

    def Runtime(self, log: Any) -> Any:  # noqa: N802
        def deserialize(blob: bytes) -> Any:
            if "plan" in self.broken:
                log.log(1, "incompatible\nversion")
                return None
            return self._engine()

        self.runtime = SimpleNamespace(deserialize_cuda_engine=deserialize, engine_host_code_allowed=False)
        return self.runtime

    def _engine(self) -> Any:
        return SimpleNamespace(
            num_io_tensors=len(self.names),
            get_tensor_name=self.names.__getitem__,
            get_tensor_mode=lambda name: "in" if name == "volume" else "out",
            get_tensor_dtype=lambda name: "float16" if "type" in self.broken else "float32",
            get_tensor_profile_shape=lambda name, n: [(1, 3), (1, 3), (4, 3)],
            create_execution_context=lambda: Context(self),
        )

    def Stream(self) -> Any:  # noqa: N802
        return SimpleNamespace(handle=0, synchronize=lambda: None)

    def mem_alloc(self, size: int) -> int:
        if "memory" in self.broken:
            raise self.Error("out of memory")
        self.memory[len(self.memory) + 1] = np.zeros(0)
        return len(self.memory)

    def memcpy_htod_async(self, address: int, array: Any, stream: Any) -> None:
        self.memory[address] = array.copy()

    def memcpy_dtoh_async(self, array: Any, address: int, stream: Any) -> None:
        array[...] = self.memory[address].reshape(array.shape)


@pytest.fixture
def device(plan: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A GPU of compute capability 9.0; the plan's record is of a graph with two outputs."""
    output = {"dtype": "float32", "shape": [-1, 3]}
    outputs = [{"name": name, **output} for name in ("points", "confidence")]
    change(plan, outputs=outputs, profile={"volume": [[1, 3], [1, 3], [4, 3]]})
    found = Device(PlanRecord.read(plan).version)
    monkeypatch.setattr(tensorrt, "load_flavour", lambda name: found)
    monkeypatch.setattr(tensorrt, "find_gpus", lambda: [Gpu("NVIDIA H200", "9.0", "13.0")])
    package = ModuleType("pycuda")
    package.driver, package.autoprimaryctx = found, found.autoprimaryctx  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", found)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "pycuda.autoprimaryctx", found.autoprimaryctx)  # type: ignore[arg-type]
    return found


def test_large_batches_are_run_in_parts_and_outputs_keep_the_graphs_order(device: Device, plan: Path) -> None:
    engine = TensorRTEngine(asked(plan), RTX, "fp32")
    assert (engine.name, engine.precision, engine.provider) == (RTX, "fp32", "GPU")
    for count in (1, 4, 10, 2):
        array = np.arange(3 * count, dtype=np.float32).reshape(count, 3)
        device.batches.clear()
        points, confidence = engine.run(COARSE, array)
        assert np.array_equal(points, 2 * array) and np.array_equal(confidence, array[:, 0])
        assert device.batches == [4] * (count // 4) + [count % 4] * (count % 4 > 0)
    assert device.pushed == 0
    assert len(device.memory) <= 6  # buffers are kept


@pytest.mark.parametrize(
    ("broken", "says"),
    [("address", "does not take the memory"), ("execute", "could not run"), ("memory", "out of memory")],
)
def test_every_refusal_while_running_is_an_error(device: Device, plan: Path, broken: str, says: str) -> None:
    engine = TensorRTEngine(asked(plan), RTX, "fp32")
    device.broken.add(broken)
    with pytest.raises(EngineError, match=says):
        engine.run(COARSE, np.zeros((1, 3), dtype=np.float32))
    device.broken.clear()
    with pytest.raises(EngineError, match=r"refuses an input of shape \(1, 5\); the plan takes batches of 1 to 4"):
        engine.run(COARSE, np.zeros((1, 5), dtype=np.float32))
    assert device.pushed == 0
    assert engine.run(COARSE, np.ones((1, 3), dtype=np.float32))[0].sum() == 6


@pytest.mark.parametrize(("broken", "says"), [("plan", "incompatible version"), ("type", "must be FP32")])
def test_every_refusal_while_loading_is_an_error(device: Device, plan: Path, broken: str, says: str) -> None:
    device.broken.add(broken)
    with pytest.raises(EngineError, match=says):
        TensorRTEngine(asked(plan), RTX, "fp32")
    device.broken.clear()
    device.names.pop()
    with pytest.raises(EngineError, match="expected others"):
        TensorRTEngine(asked(plan), RTX, "fp32")


def test_missing_pycuda_is_explained(device: Device, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.autoprimaryctx", None)
    with pytest.raises(EngineError, match="needs PyCUDA"):
        TensorRTEngine(asked(plan), RTX, "fp32")


def test_a_plan_for_another_gpu_never_reaches_tensorrt(device: Device, plan: Path) -> None:
    settings = {**PlanRecord.read(plan).settings.as_data(), "compute_capabilities": ["8.6"]}
    wanted = asked(plan, settings=settings, target={"compute_capability": "8.6"})
    device.Runtime = lambda log: pytest.fail("TensorRT was asked")  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=rf"8\.6, and this GPU \(NVIDIA H200\) has 9\.0\. .*{COMMAND}"):
        TensorRTEngine(wanted, RTX, "fp32")


@pytest.mark.parametrize("compatible", [False, True])
def test_the_runtime_within_a_plan_is_allowed_for_version_compatible_plans_only(
    device: Device, plan: Path, compatible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "this_platform", lambda: "Linux x86_64")
    target = {"compute_capability": "9.0", "gpu": "NVIDIA H200", "driver": "13.0", "platform": "Linux x86_64"}
    settings = {**PlanRecord.read(plan).settings.as_data(), "version_compatible": compatible}
    TensorRTEngine(asked(plan, flavour="tensorrt", target=target, settings=settings), "tensorrt", "fp32")
    assert device.runtime.engine_host_code_allowed is compatible
