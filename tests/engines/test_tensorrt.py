"""TensorRT: plans really built (TensorRT for RTX needs no GPU for it), and the runtime with a stand-in for the GPU."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from trt_landmarks.bundle import Bundle
from trt_landmarks.engines import tensorrt, tensorrt_plan
from trt_landmarks.engines.base import COARSE
from trt_landmarks.engines.gpu import gpu_problem
from trt_landmarks.engines.tensorrt import Plan, TensorRTEngine, build_plan, load_flavour
from trt_landmarks.errors import EngineError
from trt_landmarks.export.parity import input_shapes

RTX = "tensorrt-rtx"


@pytest.fixture
def rtx() -> ModuleType:
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")  # type: ignore[no-any-return]


def profile(bundle: Bundle, graph: str) -> dict[str, Any]:
    shape = input_shapes(bundle.task)[graph]
    return {"volume" if graph == COARSE else "patches": ((1, *shape), (1, *shape), (4, *shape))}


def small_graph(path: Path, nodes: list[onnx.NodeProto], kind: int = TensorProto.FLOAT) -> Path:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("volume", "points")]
    half = helper.make_tensor("half", kind, [3], [1, 2, 3])
    graph = helper.make_graph(nodes, "net", value[:1], value[1:], [half])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


SMALL = {"volume": ((1, 3), (1, 3), (2, 3))}


def test_every_graph_becomes_a_plan(rtx: ModuleType, tiny_bundle: Bundle, tmp_path: Path) -> None:
    for graph, path in tiny_bundle.graphs.items():
        out = tmp_path / f"{graph}.plan"
        facts = build_plan(path, out, RTX, profile(tiny_bundle, graph), workspace=1 << 28, optimization_level=1)
        model = onnx.load(path)
        assert facts["outputs"] == [value.name for value in model.graph.output]
        assert facts["inputs"] == [value.name for value in model.graph.input]
        assert facts["layers"] > 0 and out.stat().st_size > 1000
    assert len(list(tmp_path.iterdir())) == len(tiny_bundle.graphs)


def test_targets(rtx: ModuleType, tmp_path: Path) -> None:
    path = small_graph(tmp_path / "net.onnx", [helper.make_node("Add", ["volume", "half"], ["points"])])
    build_plan(path, tmp_path / "net.plan", RTX, SMALL, targets=["7.5"])
    with pytest.raises(EngineError, match=r"cannot build for compute capability 3\.5\. It knows .*8\.6"):
        build_plan(path, tmp_path / "net.plan", RTX, SMALL, targets=["3.5"])
    with pytest.raises(EngineError, match="takes no other target"):
        tensorrt_plan.build_target("tensorrt", ["8.9"])


def test_a_graph_it_cannot_parse_is_named_with_node_and_operator(rtx: ModuleType, tmp_path: Path) -> None:
    node = helper.make_node("NoSuchOperator", ["volume"], ["points"], name="the-node")
    path = small_graph(tmp_path / "net.onnx", [node])
    with pytest.raises(EngineError, match=r"net\.onnx: .*cannot parse.*the-node \(NoSuchOperator\)") as error:
        build_plan(path, tmp_path / "net.plan", RTX, SMALL)
    assert error.value.code == "graph_refused"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(EngineError, match=r"net\.onnx: .*cannot parse"):
        build_plan(path, tmp_path / "net.plan", RTX, SMALL)
    assert not (tmp_path / "net.plan").exists()


def test_types_are_taken_as_they_stand(rtx: ModuleType, tmp_path: Path) -> None:
    """FP16 and FP32 cannot be added in a strongly typed network."""
    node = helper.make_node("Add", ["volume", "half"], ["points"], name="mixed")
    path = small_graph(tmp_path / "net.onnx", [node], TensorProto.FLOAT16)
    with pytest.raises(EngineError, match=r"net\.onnx: .*cannot (parse|build)"):
        build_plan(path, tmp_path / "net.plan", RTX, SMALL)


def test_a_profile_of_other_inputs_is_refused(rtx: ModuleType, tmp_path: Path) -> None:
    path = small_graph(tmp_path / "net.onnx", [helper.make_node("Add", ["volume", "half"], ["points"])])
    with pytest.raises(EngineError, match="inputs are volume, not patches"):
        build_plan(path, tmp_path / "net.plan", RTX, {"patches": SMALL["volume"]})


def test_progress_is_told_and_an_interruption_leaves_nothing(
    rtx: ModuleType, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_plan, "PROGRESS_SECONDS", -1.0)
    lines: list[str] = []

    def interrupt(line: str) -> None:
        lines.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(tiny_bundle.graphs[COARSE], tmp_path / "a.plan", RTX, profile(tiny_bundle, COARSE), say=interrupt)
    assert len(lines) == 1 and "coarse: " in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_flavour_that_is_not_there_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, extra in (("tensorrt", "gpu"), (RTX, "rtx")):
        monkeypatch.setitem(sys.modules, tensorrt_plan.FLAVOURS[name][0], None)
        with pytest.raises(EngineError, match=rf"pip install 'trt-landmarks\[{extra}\]'"):
            load_flavour(name)
        monkeypatch.setitem(sys.modules, tensorrt_plan.FLAVOURS[name][0], ModuleType("stub"))
        with pytest.raises(EngineError, match="does not load"):
            load_flavour(name)


# --- the runtime --------------------------------------------------------------------------------------------


def plan(path: Path, content: bytes = b"plan") -> Plan:
    path.write_bytes(content)
    return Plan(path, hashlib.sha256(content).hexdigest(), ("points", "confidence"))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_changed_plan_never_reaches_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    good = plan(tmp_path / "coarse.plan", bytes(range(256)))
    if damage == "missing":
        good.path.unlink()
    else:
        good.path.write_bytes(bytes(range(255)) if damage == "truncated" else bytes([1, *range(1, 256)]))
    monkeypatch.setattr(tensorrt, "load_flavour", lambda name: pytest.fail("TensorRT was asked"))
    with pytest.raises(EngineError, match=r"coarse\.plan: (is not the file|cannot be read)"):
        TensorRTEngine({COARSE: good}, RTX, "fp16")


@pytest.mark.skipif(gpu_problem() is None, reason="there is a GPU here")
def test_without_a_gpu_a_real_plan_is_one_error(rtx: ModuleType, tmp_path: Path) -> None:
    path = small_graph(tmp_path / "net.onnx", [helper.make_node("Add", ["volume", "half"], ["points"])])
    out = tmp_path / "net.plan"
    build_plan(path, out, RTX, SMALL)
    good = Plan(out, hashlib.sha256(out.read_bytes()).hexdigest(), ("points",))
    with pytest.raises(EngineError, match=r"tensorrt-rtx cannot run here: .*driver"):
        TensorRTEngine({COARSE: good}, RTX, "fp32")


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
    __version__ = "11.0"
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")

    class Error(Exception):
        pass

    class ILogger:
        Severity = SimpleNamespace(ERROR=1)

    def __init__(self) -> None:
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

        return SimpleNamespace(deserialize_cuda_engine=deserialize)

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
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    found = Device()
    monkeypatch.setattr(tensorrt, "load_flavour", lambda name: found)
    monkeypatch.setattr(tensorrt, "gpu_problem", lambda: None)
    package = ModuleType("pycuda")
    package.driver, package.autoprimaryctx = found, found.autoprimaryctx  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", found)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "pycuda.autoprimaryctx", found.autoprimaryctx)  # type: ignore[arg-type]
    return found


def test_large_batches_are_run_in_parts_and_outputs_keep_the_graphs_order(device: Device, tmp_path: Path) -> None:
    engine = TensorRTEngine({COARSE: plan(tmp_path / "a.plan")}, RTX, "fp16")
    assert (engine.name, engine.precision, engine.provider) == (RTX, "fp16", "GPU")
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
def test_every_refusal_while_running_is_an_error(device: Device, tmp_path: Path, broken: str, says: str) -> None:
    engine = TensorRTEngine({COARSE: plan(tmp_path / "a.plan")}, RTX, "fp16")
    device.broken.add(broken)
    with pytest.raises(EngineError, match=says):
        engine.run(COARSE, np.zeros((1, 3), dtype=np.float32))
    device.broken.clear()
    with pytest.raises(EngineError, match=r"refuses an input of shape \(1, 5\); the plan takes batches of 1 to 4"):
        engine.run(COARSE, np.zeros((1, 5), dtype=np.float32))
    assert device.pushed == 0
    assert engine.run(COARSE, np.ones((1, 3), dtype=np.float32))[0].sum() == 6


@pytest.mark.parametrize(("broken", "says"), [("plan", "incompatible version"), ("type", "must be FP32")])
def test_every_refusal_while_loading_is_an_error(device: Device, tmp_path: Path, broken: str, says: str) -> None:
    device.broken.add(broken)
    with pytest.raises(EngineError, match=says):
        TensorRTEngine({COARSE: plan(tmp_path / "a.plan")}, RTX, "fp16", "tensorrt-rtx 1.2")
    device.broken.clear()
    device.names.pop()
    with pytest.raises(EngineError, match="expected others"):
        TensorRTEngine({COARSE: plan(tmp_path / "a.plan")}, RTX, "fp16")


def test_missing_pycuda_is_explained(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.autoprimaryctx", None)
    with pytest.raises(EngineError, match="needs PyCUDA"):
        TensorRTEngine({COARSE: plan(tmp_path / "a.plan")}, RTX, "fp16")
