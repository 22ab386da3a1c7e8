"""A stand-in for the CUDA driver, PyCUDA and TensorRT that is as lazy as a GPU may be.

Streams do nothing until they must: when the host synchronizes with them.  So a reader on another stream than its
writer's always reads what was there before.  Copies read and
write host memory when they run, not when they are enqueued.  Freed memory must not be touched, and every call needs
the context to be current.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trt_landmarks.engines.tensorrt import engine as tensorrt
from trt_landmarks.engines.tensorrt.check import Plan
from trt_landmarks.engines.tensorrt.flavours import RTX
from trt_landmarks.engines.tensorrt.gpu import Gpu
from trt_landmarks.engines.tensorrt.network import NetworkFacts, Tensor
from trt_landmarks.engines.tensorrt.record import PlanRecord
from trt_landmarks.engines.tensorrt.settings import PlanSettings
from trt_landmarks.task.graphs import Shapes

VERSION = "1.7.1.116"
NOTHING = NetworkFacts(0, {}, {}, 0, 0, 0, 0)


class Error(Exception):
    """``pycuda.driver.Error``."""


class Code(IntEnum):
    """``CUresult``."""

    CUDA_SUCCESS = 0
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


@dataclass
class Net:
    """What a plan computes: outputs from inputs, both by name in the graph's order."""

    inputs: dict[str, Shapes]
    outputs: tuple[str, ...]
    compute: Callable[..., Sequence[Any]]
    scratch: int = 0  # bytes a row
    sizes: dict[Any, list[tuple[int, ...]]] = field(default_factory=dict)  # of outputs, by those of inputs


class Stream:
    def __init__(self, device: Device, flags: int = 0) -> None:
        device.need_context()
        self.device, self.flags, self.handle = device, flags, 100 + len(device.streams)
        device.streams[self.handle] = self
        self.queue: list[Callable[[], None]] = []
        self.done = 0
        self.capturing: list[Callable[[], None]] | None = None

    def add(self, work: Callable[[], None]) -> None:
        (self.queue if self.capturing is None else self.capturing).append(work)

    def run_up_to(self, count: int) -> None:
        while self.done < count:
            self.done += 1
            self.queue[self.done - 1]()
            self.queue[self.done - 1] = lambda: None  # keeps nothing alive

    def synchronize(self) -> None:
        self.device.need_context()
        if self.capturing is not None:
            raise Error("operation not permitted when stream is capturing")
        self.device.synchronized += 1
        self.run_up_to(len(self.queue))


class Allocation:
    """Device or pinned memory."""

    def __init__(self, device: Device, size: int, pinned: bool) -> None:
        device.need_context()
        if "memory" in device.broken:
            raise Error("out of memory")
        self.device, self.address = device, 256 * (1 + device.allocated)
        device.allocated += 1 + size // 256
        device.allocations.append("pinned" if pinned else "device")
        self.content = np.full(size, 0x55, dtype=np.uint8)
        device.memory[self.address] = self.content
        self.__array_interface__ = self.content.__array_interface__

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.device.need_context()
        assert not any(len(s.queue) > s.done for s in self.device.streams.values()), "freed while in use"
        del self.device.memory[self.address]
        self.device.freed.append("memory")


@dataclass
class Device:
    """The GPU.  ``broken`` names what fails."""

    broken: set[str] = field(default_factory=set)
    nets: dict[bytes, Net] = field(default_factory=dict)
    memory: dict[int, Any] = field(default_factory=dict)
    streams: dict[int, Stream] = field(default_factory=dict)
    allocations: list[str] = field(default_factory=list)
    freed: list[str] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    allocated: int = 0
    pushed: int = 0
    synchronized: int = 0
    captures: int = 0
    settled: int = 0
    launches: int = 0

    def need_context(self) -> None:
        assert self.pushed > 0, "no current context"

    def at(self, address: int, size: int) -> Any:
        """The bytes at an address."""
        for start, content in self.memory.items():
            if start <= address and address + size <= start + len(content):
                return content[address - start : address - start + size]
        raise AssertionError(f"{size} bytes at {address} are not allocated")

    # --- pycuda.driver ---

    def pycuda(self) -> Any:
        def push(step: int) -> None:
            self.pushed += step

        def copy(to: Callable[[], Any], source: Callable[[], Any], stream: Stream) -> None:
            self.need_context()
            stream.add(lambda: to().__setitem__(slice(None), source()))

        def host(array: Any) -> Any:
            assert array.flags.c_contiguous
            return array.reshape(-1).view(np.uint8)

        context = SimpleNamespace(push=lambda: push(1), pop=lambda: push(-1), detach=lambda: None)
        return SimpleNamespace(
            Error=Error,
            init=lambda: None,
            Device=lambda n: SimpleNamespace(retain_primary_context=lambda: context),
            Stream=lambda flags=0: Stream(self, flags),
            mem_alloc=lambda size: Allocation(self, size, pinned=False),
            pagelocked_empty=lambda size, dtype: np.asarray(Allocation(self, size, pinned=True)),
            memcpy_htod_async=lambda a, array, s: copy(lambda: self.at(a, array.nbytes), lambda: host(array), s),
            memcpy_dtoh_async=lambda array, a, s: copy(lambda: host(array), lambda: self.at(a, array.nbytes), s),
            memcpy_dtod_async=lambda a, b, n, s: copy(lambda: self.at(a, n), lambda: self.at(b, n), s),
            memset_d8_async=lambda a, byte, n, s: copy(lambda: self.at(a, n), lambda: byte, s),
            mem_get_info=lambda: (10**9 - sum(map(len, self.memory.values())), 10**9),
        )

    # --- cuda.bindings.driver ---

    def driver(self) -> Any:
        ok = Code.CUDA_SUCCESS

        def begin(handle: int, mode: str) -> tuple[Code]:
            assert mode == "thread local" and self.streams[handle].flags == 1
            self.streams[handle].capturing = []
            return (ok,)

        def end(handle: int) -> tuple[Code, Any]:
            work, self.streams[handle].capturing = self.streams[handle].capturing, None
            if "capture" in self.broken:
                return Code.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None
            self.captures += 1
            return ok, work

        def launch(graph: list[Any], handle: int) -> tuple[Code]:
            self.launches += 1
            for work in [] if "replay" in self.broken else graph:
                self.streams[handle].add(work)
            return (ok,)

        def destroy(graph: Any) -> tuple[Code]:
            self.need_context()
            self.freed.append("graph")
            return (ok,)

        return SimpleNamespace(
            CUstream=int,
            CUstreamCaptureMode=SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL="thread local"),
            cuStreamBeginCapture=begin,
            cuStreamEndCapture=end,
            cuGraphInstantiate=lambda graph, flags: (ok, graph),
            cuGraphDestroy=lambda graph: (ok,),
            cuGraphLaunch=launch,
            cuGraphExecDestroy=destroy,
        )

    # --- TensorRT ---

    def tensorrt(self) -> Any:
        def deserialize(blob: bytes) -> Any:
            self.need_context()
            if "plan" in self.broken:
                logger[0].log(1, "incompatible\nversion")
                return None
            return Engine(self, self.nets[blob])

        def runtime(log: Any) -> Any:
            logger.append(log)
            self.runtime = SimpleNamespace(deserialize_cuda_engine=deserialize, engine_host_code_allowed=False)
            return self.runtime

        logger: list[Any] = []
        module: Any = ModuleType("fake_tensorrt")
        module.__version__ = VERSION
        module.float32 = "float32"
        module.TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
        module.ILogger = type("ILogger", (), {"Severity": SimpleNamespace(ERROR=1, WARNING=2)})
        module.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")
        module.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")
        module.Runtime = runtime
        return module


class Engine:
    def __init__(self, device: Device, net: Net) -> None:
        self.device, self.net = device, net
        self.names = [*net.outputs, *net.inputs] + ["more"] * ("names" in device.broken)
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, n: int) -> str:
        return self.names[n]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in self.net.inputs else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return "float16" if "type" in self.device.broken else "float32"

    def create_runtime_config(self) -> Any:
        config: Any = SimpleNamespace()
        config.set_execution_context_allocation_strategy = partial(setattr, config, "allocation")
        return config

    def create_execution_context(self, how: Any) -> Any:
        if how != "user managed":  # a context to capture
            assert (how.allocation, how.dynamic_shapes_kernel_specialization_strategy) == ("user managed", "eager")
            self.device.settled += 1
        return None if "context" in self.device.broken else Context(self)

    def __del__(self) -> None:
        self.device.need_context()
        self.device.freed.append("engine")


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine, self.device, self.net = engine, engine.device, engine.net
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.given = (0, 0)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.net.inputs[name]
        fits = len(shape) == len(low) and all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
        if fits:
            self.shapes[name] = shape
        return fits

    def update_device_memory_size_for_shapes(self) -> int:
        assert set(self.shapes) == set(self.net.inputs)
        return self.net.scratch * next(iter(self.shapes.values()))[0]

    def set_device_memory(self, address: int, size: int) -> None:
        self.given = address, size

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shapes = tuple(self.shapes[name] for name in self.net.inputs)
        if shapes not in self.net.sizes:
            outputs = self.net.compute(*(np.zeros(shape, np.float32) for shape in shapes))
            self.net.sizes[shapes] = [np.asarray(output).shape for output in outputs]
        return self.net.sizes[shapes][self.net.outputs.index(name)]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return "address" not in self.device.broken

    def execute_async_v3(self, handle: int) -> bool:
        self.device.need_context()
        shapes, addresses, (scratch, size) = dict(self.shapes), dict(self.addresses), self.given
        assert size >= self.net.scratch * next(iter(shapes.values()))[0]

        def work() -> None:
            arrays = []
            for name, shape in shapes.items():
                count = 4 * int(np.prod(shape))
                arrays.append(self.device.at(addresses[name], count).view(np.float32).reshape(shape).copy())
            if size:
                self.device.at(scratch, size)[:] = 0xEE
            self.device.batches.append(len(arrays[0]))
            for name, result in zip(self.net.outputs, self.net.compute(*arrays), strict=True):
                flat = np.ascontiguousarray(result, dtype=np.float32).reshape(-1).view(np.uint8)
                self.device.at(addresses[name], flat.nbytes)[:] = flat

        if "execute" in self.device.broken:
            return False
        self.device.streams[handle].add(work)
        return True

    def is_stream_capturable(self, handle: int) -> bool:
        return "capturable" not in self.device.broken

    def __del__(self) -> None:
        self.device.need_context()
        self.device.freed.append("context")


def install(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a stand-in in place of PyCUDA, cuda.bindings, TensorRT and the driver."""
    package, bindings = ModuleType("pycuda"), ModuleType("cuda.bindings")
    package.driver, bindings.driver = device.pycuda(), device.driver()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", package.driver)
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", bindings.driver)
    loaded = device.tensorrt()
    monkeypatch.setattr(tensorrt, "load_flavour", lambda name: loaded)
    monkeypatch.setattr(tensorrt, "find_gpus", lambda: [Gpu("NVIDIA H200", "9.0", "13.0")])
    tensorrt.primary_context.cache_clear()


def write_plan(device: Device, folder: Path, graph: str, net: Net, **entries: Any) -> Plan:
    """A plan of the stand-in, with its record."""
    blob = graph.encode()
    device.nets[blob] = net
    path = folder / f"{graph}.plan"
    path.write_bytes(blob)
    facts: dict[str, Any] = {
        "flavour": RTX, "version": VERSION, "target": {"compute_capability": "8.0 and later"},
        "settings": PlanSettings(), **entries,
    }  # fmt: skip
    record = PlanRecord(
        graph=graph, precision="fp32", plan_sha256=hashlib.sha256(blob).hexdigest(), source_sha256="0" * 64,
        profile=net.inputs, inputs=tuple(Tensor(name, "float32", shapes[0]) for name, shapes in net.inputs.items()),
        outputs=tuple(Tensor(name, "float32", (-1,)) for name in net.outputs), network=NOTHING, gate={},
        command="trtlm build", seconds=0.0, **facts,
    )  # fmt: skip
    record.write(path)
    return Plan(path, "0" * 64)
