"""One plan on the GPU: shapes, addresses, execution, and its replay as a CUDA graph.

TensorRT's calls refuse by returning False, so every return value is looked at.  Contexts own no memory: inputs,
outputs and scratch memory are the engine's buffers.  **Not verified, for want of a GPU:** all of it; it follows
NVIDIA's documentation of TensorRT 11 and of TensorRT for RTX 1.7, and is tested with a stand-in for them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from trt_landmarks.engines.base import Arrays, DeviceArray
from trt_landmarks.engines.tensorrt.cuda_graph import CudaGraph
from trt_landmarks.engines.tensorrt.memory import Buffers
from trt_landmarks.engines.tensorrt.record import PlanRecord
from trt_landmarks.errors import EngineError

#: Largest difference between a replay and the plain run, in mm and of confidences.
REPLAY_TOLERANCE = 1e-4
#: What the outputs hold before the first replay: as floats 1.3e36, so that a replay that does nothing is seen.
_FILL = 0x7B

Given = Sequence[DeviceArray]


@dataclass(frozen=True)
class Gpu:
    """What all plans of an engine share.

    Attributes:
        trt: TensorRT's module.
        cuda: ``pycuda.driver``.
        driver: ``cuda.bindings.driver``; None if no CUDA graphs are to be captured.
        stream: the PyCUDA stream everything is enqueued on.
        buffers: all memory.
    """

    trt: ModuleType
    cuda: Any
    driver: Any
    stream: Any
    buffers: Buffers

    def download(self, arrays: Given, name: str) -> Callable[[], Arrays]:
        """Enqueue the copy to the host; what is returned gives the arrays once the stream is synchronized."""
        pinned = [self.buffers.host(f"{name}/{n}", array.shape) for n, array in enumerate(arrays)]
        for to, array in zip(pinned, arrays, strict=True):
            self.cuda.memcpy_dtoh_async(to, array.address, self.stream)
        return lambda: tuple(array.copy() for array in pinned)


class PlanContext:
    """An execution context of a deserialized plan.

    Args:
        gpu: what it runs with.
        record: the plan's record.
        engine: ``ICudaEngine``.
        settled: let TensorRT for RTX compile kernels for a shape before its first run is over, not beside later ones.

    Raises:
        EngineError: if TensorRT gives no context.
    """

    def __init__(self, gpu: Gpu, record: PlanRecord, engine: Any, settled: bool = False) -> None:
        self._gpu, self.record = gpu, record
        self._context = _create(gpu.trt, engine, settled)
        if self._context is None:
            raise EngineError(f"{record.graph}: TensorRT gives no execution context.", code="run_failed")
        self._inputs = [tensor.name for tensor in record.inputs]
        self._outputs = [tensor.name for tensor in record.outputs]
        self._shapes: list[tuple[int, ...]] = []
        self._scratch = 0

    @property
    def capturable(self) -> bool:
        """Whether its run can be captured; TensorRT for RTX knows, TensorRT cannot be asked."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(self._gpu.stream.handle))

    def prepare(self, given: Given) -> tuple[DeviceArray, ...]:
        """Set shapes and addresses; returns the outputs, which :meth:`execute` fills.

        Raises:
            EngineError: if TensorRT refuses one.
        """
        shapes = [array.shape for array in given]
        if shapes != self._shapes:
            self._shapes = []  # should one be refused
            for name, shape in zip(self._inputs, shapes, strict=True):
                if not self._context.set_input_shape(name, shape):
                    raise self._refused(name, shape)
            self._scratch = int(self._context.update_device_memory_size_for_shapes())
            self._shapes = shapes
        buffers, graph = self._gpu.buffers, self.record.graph
        if self._scratch:
            self._context.set_device_memory(buffers.device("scratch", self._scratch), self._scratch)
        outputs = []
        for name in self._outputs:
            shape = tuple(int(n) for n in self._context.get_tensor_shape(name))
            if any(n < 0 for n in shape):
                raise EngineError(f"{graph}: TensorRT gives no size for output {name}.", code="run_failed")
            array = DeviceArray(0, shape)
            outputs.append(DeviceArray(buffers.device(f"{graph}/{name}", array.nbytes), shape))
        for name, array in zip([*self._inputs, *self._outputs], [*given, *outputs], strict=True):
            if not self._context.set_tensor_address(name, array.address):
                raise EngineError(f"{graph}: TensorRT does not take the memory for {name}.", code="run_failed")
        return tuple(outputs)

    def execute(self) -> None:
        """Enqueue the run.

        Raises:
            EngineError: if TensorRT cannot.
        """
        if not self._context.execute_async_v3(self._gpu.stream.handle):
            raise EngineError(f"{self.record.graph}: TensorRT could not run the plan.", code="run_failed")

    def _refused(self, name: str, shape: tuple[int, ...]) -> EngineError:
        smallest, _, largest = self.record.profile[name]
        return EngineError(
            f"{self.record.graph}: TensorRT refuses an input {name} of shape {shape}; "
            f"the plan takes {smallest} to {largest}.",
            code="shape_refused",
        )


@dataclass(frozen=True)
class _Replay:
    """A captured run: its graph, the context it came from, what it writes, and how many buffers had been replaced."""

    graph: CudaGraph
    context: PlanContext
    outputs: tuple[DeviceArray, ...]
    replaced: int


class LoadedPlan:
    """A deserialized plan, run plainly or as CUDA graphs.

    A run that comes a second time with the same shapes and addresses is captured, in a context of its own (TensorRT's
    documentation asks for one for each), and its first replay is compared with the plain run.  If the two differ, or
    it cannot be captured, the plan is run plainly from then on.

    Args:
        gpu: what it runs with.
        record: the plan's record.
        engine: ``ICudaEngine``.
        captured: CUDA graphs to keep at most; the one used longest ago goes first.

    Attributes:
        note: why it is no longer captured; empty if it is.
    """

    def __init__(self, gpu: Gpu, record: PlanRecord, engine: Any, captured: int) -> None:
        self._gpu, self.record, self._engine = gpu, record, engine
        self._check_tensors()
        self._plain = PlanContext(gpu, record, engine)
        self._most = captured if gpu.driver is not None else 0
        self._replays: OrderedDict[Any, _Replay | None] = OrderedDict()  # None: seen once
        self.note = ""

    @property
    def captured(self) -> int:
        """CUDA graphs that are kept."""
        return sum(replay is not None for replay in self._replays.values())

    def enqueue(self, given: Given) -> tuple[DeviceArray, ...]:
        """Enqueue a run; returns the outputs, valid once the stream has come so far and until the next run.

        Raises:
            EngineError: if TensorRT or CUDA refuses.
        """
        if not self._most:
            return self._run_plainly(given)
        key = tuple((array.address, array.shape) for array in given)
        seen = key in self._replays
        replay = self._replays.pop(key, None)
        if replay is not None and replay.replaced != self._gpu.buffers.replaced:
            replay.graph.free()  # it may write where nothing is any more
            replay = None
        if replay is None and seen:
            replay = self._capture(given)
        if not self._most:
            return self._run_plainly(given)
        self._replays[key] = replay
        while len(self._replays) > 2 * self._most or self.captured > self._most:
            self._forget()
        if replay is None:
            return self._run_plainly(given)
        replay.graph.launch()
        return replay.outputs

    def free(self) -> None:
        """Give everything back; nothing may be running."""
        while self._replays:
            self._forget()
        del self._plain, self._engine

    def _run_plainly(self, given: Given) -> tuple[DeviceArray, ...]:
        outputs = self._plain.prepare(given)
        self._plain.execute()
        return outputs

    def _forget(self) -> None:
        _, replay = self._replays.popitem(last=False)
        if replay is not None:
            self._gpu.stream.synchronize()
            replay.graph.free()

    def _capture(self, given: Given) -> _Replay | None:
        """A replay that equals the plain run; None, with a note, if there is none."""
        graph = None
        try:
            context = PlanContext(self._gpu, self.record, self._engine, settled=True)
            outputs = context.prepare(given)
            context.execute()  # TensorRT asks for a run before the capture
            plain = self._fetch(outputs)
            if not context.capturable:
                raise EngineError("TensorRT says that it cannot be captured.")
            graph = CudaGraph(self._gpu.driver, self._gpu.stream.handle, context.execute)
            for array in outputs:
                self._gpu.cuda.memset_d8_async(array.address, _FILL, array.nbytes, self._gpu.stream)
            graph.launch()
            difference = _difference(plain, self._fetch(outputs))
            if not difference <= REPLAY_TOLERANCE:
                raise EngineError(f"a replay differs from the plain run by {difference:.2g}.")
            return _Replay(graph, context, outputs, self._gpu.buffers.replaced)
        except (EngineError, self._gpu.cuda.Error) as error:
            reason = error.message if isinstance(error, EngineError) else str(error)
            self.note = f"{self.record.graph}: runs without a CUDA graph: {reason.rstrip('.')}."
            self._most = 0
            if graph is not None:
                graph.free()
            while self._replays:
                self._forget()
            return None

    def _fetch(self, outputs: tuple[DeviceArray, ...]) -> Arrays:
        found = self._gpu.download(outputs, "replay")
        self._gpu.stream.synchronize()
        return found()

    def _check_tensors(self) -> None:
        trt, engine, record = self._gpu.trt, self._engine, self.record
        names = {engine.get_tensor_name(n) for n in range(engine.num_io_tensors)}
        inputs = {name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        recorded = {tensor.name for tensor in record.inputs}
        if inputs != recorded or names - inputs != {tensor.name for tensor in record.outputs}:
            raise EngineError(
                f"{record.graph}: the plan's inputs and outputs are {', '.join(sorted(names))}; expected others."
            )
        if any(engine.get_tensor_dtype(name) != trt.float32 for name in names):
            raise EngineError(f"{record.graph}: the plan's inputs and outputs must be FP32.")


def _create(trt: ModuleType, engine: Any, settled: bool) -> Any:
    """An execution context whose scratch memory is given to it."""
    given = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)  # TensorRT for RTX
    if not settled or strategies is None:
        return engine.create_execution_context(given)
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(given)
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return engine.create_execution_context(config)


def _difference(one: Arrays, other: Arrays) -> float:
    """The largest difference; NaN if only one side is NaN somewhere."""
    apart = [
        np.abs(a - b)[~(np.isnan(a) & np.isnan(b))].max(initial=0.0) for a, b in zip(one, other, strict=True)
    ]  # fmt: skip
    return float(np.max(apart))
