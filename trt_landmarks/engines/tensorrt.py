"""Running plans with TensorRT or TensorRT for RTX on the GPU.

Everything that must hold for a plan is checked first (:mod:`trt_landmarks.engines.plan_check`).  **Not verified, for
want of a GPU:** deserializing and running a plan, that is everything in :class:`TensorRTEngine` behind the check of
the driver.  It follows NVIDIA's documentation of TensorRT 11.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.engines.base import Arrays
from trt_landmarks.engines.flavours import Log, load_flavour
from trt_landmarks.engines.gpu import NoGpu, find_gpus
from trt_landmarks.engines.plan_check import Machine, Plan, check_machine, read_plan, this_platform
from trt_landmarks.errors import EngineError


class TensorRTEngine:
    """Runs plans on the GPU, in the primary CUDA context (shared with DALI and PyTorch).

    Batches larger than a plan's profile allows are run in parts.  Calls from several threads take turns.

    Args:
        plans: graph name to its plan and what is asked of it.
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        precision: what the plans are to compute in.
        command: what builds the plans again, told if a plan's own record cannot; empty: the plain command.

    Raises:
        EngineError: if a plan is not the recorded file, not of the graph asked for, or not for this machine; if there
            is no module, GPU or PyCUDA; or if TensorRT refuses the plan.
    """

    provider = "GPU"

    def __init__(self, plans: Mapping[str, Plan], flavour: str, precision: str, command: str = "") -> None:
        self.name = flavour
        self.precision = precision
        command = command or f"trtlm build --engine {flavour} --precision {precision}"
        checked = {graph: read_plan(plan, graph, flavour, precision, command) for graph, plan in plans.items()}
        trt = load_flavour(flavour)
        found = find_gpus()
        here = Machine(str(trt.__version__), None if isinstance(found, NoGpu) else found[0], this_platform())
        for graph, (record, _) in checked.items():
            check_machine(record, plans[graph].path, here)
        if isinstance(found, NoGpu):
            raise EngineError(
                f"{flavour} cannot run here: {found.reason}.",
                f"{found.remedy} Take --engine onnxruntime to run on the CPU.",
            )
        try:
            import pycuda.autoprimaryctx
            import pycuda.driver as cuda
        except Exception as error:  # PyCUDA's own errors as well as a missing package
            raise EngineError(
                f"{flavour} needs PyCUDA, which cannot be used: {error}.",
                "Install it with: pip install pycuda (needs the CUDA toolkit's nvcc).",
            ) from None
        self._cuda = cuda
        self._context = pycuda.autoprimaryctx.context
        self._lock = threading.Lock()
        self._trt = trt
        log = Log(trt)
        self._runtime = trt.Runtime(log.logger)
        if any(record.settings.version_compatible for record, _ in checked.values()):
            self._runtime.engine_host_code_allowed = True  # such a plan brings the runtime of its own version
        self._plans: dict[str, _Loaded] = {}
        for graph, (record, blob) in checked.items():
            engine = self._runtime.deserialize_cuda_engine(blob)
            context = None if engine is None else engine.create_execution_context()
            if context is None:
                raise EngineError(
                    f"{plans[graph].path}: {flavour} {trt.__version__} refuses this plan "
                    f"(built with {record.version}): {log.last()}.",
                    f"Build it again on this machine: {record.command}.",
                    code="plan_refused",
                )
            outputs = [tensor.name for tensor in record.outputs]
            self._plans[graph] = _Loaded(trt, cuda, graph, engine, context, outputs)

    def run(self, graph: str, array: NDArray[np.float32]) -> Arrays:
        loaded = self._plans[graph]
        array = np.ascontiguousarray(array, dtype=np.float32)
        with self._lock:
            log = Log(self._trt)
            self._context.push()
            try:
                step = loaded.largest
                parts = [loaded.run(array[start : start + step]) for start in range(0, len(array), step)]
            except self._cuda.Error as error:
                raise EngineError(
                    f"{graph}: CUDA failed: {error}.", "Free GPU memory, or take --engine onnxruntime."
                ) from None
            except EngineError as error:
                raise EngineError(f"{error.message} {log.last()}.", error.remedy, code=error.code) from None
            finally:
                self._context.pop()
        return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


class _Loaded:
    """One deserialized plan with its execution context, stream and buffers."""

    def __init__(
        self, trt: ModuleType, cuda: Any, graph: str, engine: Any, context: Any, outputs: Sequence[str]
    ) -> None:
        self.cuda, self.graph, self.engine, self.context = cuda, graph, engine, context
        names = [engine.get_tensor_name(n) for n in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        if len(inputs) != 1 or sorted(names) != sorted([*inputs, *outputs]):
            raise EngineError(f"{graph}: the plan's inputs and outputs are {', '.join(names)}; expected others.")
        if any(engine.get_tensor_dtype(name) != trt.float32 for name in names):
            raise EngineError(f"{graph}: the plan's inputs and outputs must be FP32.")
        self.input, self.outputs = inputs[0], tuple(outputs)
        shapes = engine.get_tensor_profile_shape(self.input, 0)
        self.smallest, self.largest = int(shapes[0][0]), int(shapes[2][0])
        self.stream = cuda.Stream()
        self.buffers: dict[str, tuple[Any, int]] = {}

    def run(self, array: NDArray[np.float32]) -> Arrays:
        """One batch that the profile allows."""
        shape = tuple(array.shape)
        if not self.context.set_input_shape(self.input, shape):
            raise EngineError(
                f"{self.graph}: TensorRT refuses an input of shape {shape}; "
                f"the plan takes batches of {self.smallest} to {self.largest}.",
                code="shape_refused",
            )
        results = []
        for name in self.outputs:
            found = tuple(self.context.get_tensor_shape(name))
            if any(n < 0 for n in found):
                raise EngineError(f"{self.graph}: TensorRT gives no size for output {name}.")
            results.append(np.empty(found, dtype=np.float32))
        self._bind(self.input, array.nbytes)
        for name, result in zip(self.outputs, results, strict=True):
            self._bind(name, result.nbytes)
        self.cuda.memcpy_htod_async(self.buffers[self.input][0], array, self.stream)
        if not self.context.execute_async_v3(self.stream.handle):
            raise EngineError(f"{self.graph}: TensorRT could not run the plan.", code="run_failed")
        for name, result in zip(self.outputs, results, strict=True):
            self.cuda.memcpy_dtoh_async(result, self.buffers[name][0], self.stream)
        self.stream.synchronize()
        return tuple(results)

    def _bind(self, name: str, size: int) -> None:
        """Give a tensor device memory, reusing what is there if it is large enough."""
        if name not in self.buffers or self.buffers[name][1] < size:
            self.buffers[name] = (self.cuda.mem_alloc(max(1, size)), size)
        if not self.context.set_tensor_address(name, int(self.buffers[name][0])):
            raise EngineError(f"{self.graph}: TensorRT does not take the memory for {name}.", code="run_failed")
