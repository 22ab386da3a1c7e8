"""Run by tests.gpu.test_on_driver in a process of its own: the engine on real PyCUDA and cuda-bindings.

TensorRT is a stand-in that doubles its input and adds one, through real pointers and real streams; the names that it
offers are checked by tests.gpu.test_names.  Prints one line of JSON per step.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

LIVE = ("memory", "pinned", "streams", "events", "graphs", "executables", "contexts", "depth")
library = ctypes.CDLL("libcuda.so.1")
library.emulation_capturing.argtypes = [ctypes.c_void_p]
recorded: dict[int, list[Any]] = {}


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
def replay(graph: int) -> int:
    for work in recorded[graph]:
        work()
    return 0


library.emulation_on_launch(replay)


def live() -> dict[str, int]:
    """Objects that were not given back."""
    counts = (ctypes.c_int * len(LIVE))()
    library.emulation_live(counts)
    return dict(zip(LIVE, counts, strict=True))


def floats(address: int, count: int) -> Any:
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


class Context:
    """``IExecutionContext``."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = tuple(shape)
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        return 1000

    def set_device_memory(self, address: int, size: int) -> None:
        assert address % 256 == 0 and size >= 1000

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes["x"]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        count, addresses = int(np.prod(self.shapes["x"])), dict(self.addresses)

        def work() -> None:
            floats(addresses["y"], count)[:] = 2 * floats(addresses["x"], count) + 1

        graph = library.emulation_capturing(stream)
        if graph > 0:
            recorded.setdefault(graph, []).append(work)
        else:
            work()
        return True

    def __del__(self) -> None:
        assert live()["depth"] > 0, "a context of TensorRT was destroyed without a current CUDA context"


class Engine:
    """``ICudaEngine``."""

    num_io_tensors = 2

    def get_tensor_name(self, number: int) -> str:
        return "xy"[number]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "x" else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return "float32"

    def create_execution_context(self, strategy: object) -> Context:
        return Context()

    def __del__(self) -> None:
        assert live()["depth"] > 0, "an engine of TensorRT was destroyed without a current CUDA context"


def tensorrt() -> Any:
    module: Any = ModuleType("tensorrt")
    module.__version__ = "11.4.0.106"
    module.float32 = "float32"
    module.TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    module.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=2)
    module.ILogger = type("ILogger", (), {"Severity": SimpleNamespace(ERROR=1, WARNING=2)})
    module.Runtime = lambda logger: SimpleNamespace(
        deserialize_cuda_engine=lambda blob: Engine(), engine_host_code_allowed=False
    )
    return module


def plan(folder: Path) -> Any:
    import hashlib

    from trt_landmarks.engines.tensorrt.check import Plan
    from trt_landmarks.engines.tensorrt.network import NetworkFacts, Tensor
    from trt_landmarks.engines.tensorrt.record import PlanRecord
    from trt_landmarks.engines.tensorrt.settings import PlanSettings

    path = folder / "graph.plan"
    path.write_bytes(b"plan")
    target = {"compute_capability": "9.0", "gpu": "NVIDIA H100 80GB HBM3", "driver": "13.0", "platform": "Linux x86_64"}
    tensors = (Tensor("x", "float32", (-1, 4)),), (Tensor("y", "float32", (-1, 4)),)
    PlanRecord(
        "graph", "fp32", hashlib.sha256(b"plan").hexdigest(), "0" * 64, "tensorrt", "11.4.0.106", target,
        PlanSettings(), {"x": ((1, 4), (2, 4), (4, 4))}, *tensors, NetworkFacts(0, {}, {}, 0, 0, 0, 0), {}, "build",
        0.0,
    ).write(path)  # fmt: skip
    return Plan(path, "0" * 64)


def run(engine: Any, rows: int) -> bool:
    """Whether a batch comes out right."""
    array = np.random.default_rng(rows).random((rows, 4), dtype=np.float32)
    (result,) = engine.run("graph", array)
    return bool(np.allclose(result, 2 * array + 1))


def main(folder: Path) -> None:
    import pycuda.driver as cuda

    from trt_landmarks.doctor.probe import STEPS
    from trt_landmarks.engines.base import DeviceArray
    from trt_landmarks.engines.tensorrt import check, engine
    from trt_landmarks.engines.tensorrt.gpu import find_gpus

    def say(step: str, **facts: object) -> None:
        print(json.dumps({"step": step, **facts, "live": live()}), flush=True)

    gpus = find_gpus()
    say("gpus", gpus=[gpu.name for gpu in gpus] if isinstance(gpus, list) else str(gpus))
    say("doctor", facts=STEPS["pycuda"][1](cuda))
    engine.load_flavour = lambda name: tensorrt()  # type: ignore[attr-defined]
    check.this_platform = lambda: "Linux x86_64"  # type: ignore[attr-defined]
    engine.this_platform = lambda: "Linux x86_64"  # type: ignore[attr-defined]
    opened = engine.TensorRTEngine({"graph": plan(folder)}, "tensorrt", "fp32")
    say("open", notes=opened.notes)

    right = [run(opened, rows) for rows in (1, 2, 2, 2, 4, 4, 2, 2, 1, 1)]
    say("batches", right=right, captured=opened.captured)
    allocated = opened.allocations
    right = [run(opened, rows) for rows in (1, 2, 4, 2, 1)]
    say("again", right=right, allocations=opened.allocations - allocated)
    elsewhere: list[bool] = []
    thread = threading.Thread(target=lambda engine: elsewhere.append(run(engine, 2)), args=(opened,))
    thread.start()
    thread.join()
    del thread
    say("other thread", right=elsewhere)

    context = engine.primary_context(0)
    context.push()
    memory = cuda.mem_alloc(64)
    floats(int(memory), 16)[:] = 3
    (result,) = opened.run("graph", DeviceArray(int(memory), (4, 4), memory))
    say("on the GPU", right=[bool((result == 7).all())])
    memory.free()
    context.pop()

    closing = threading.Thread(target=opened.close)
    closing.start()
    closing.join()
    del opened, closing
    gc.collect()
    say("closed in another thread")


if __name__ == "__main__":
    if sys.argv[2:] == ["thread"]:  # the context is then another thread's than the one that ends the process
        first = threading.Thread(target=main, args=(Path(sys.argv[1]),))
        first.start()
        first.join()
    else:
        main(Path(sys.argv[1]))
