"""Running plans with TensorRT or TensorRT for RTX on the GPU.

Everything that must hold for a plan is checked first (:mod:`trt_landmarks.engines.tensorrt.check`).  One call::

    arrays that are on the GPU, or host arrays -> pinned memory -> GPU
        -> graph              plainly or as a CUDA graph (:mod:`trt_landmarks.engines.tensorrt.context`)
        -> pinned memory -> host

all on one stream, in memory that is kept from call to call.  **Not verified on a GPU:** everything in
:class:`TensorRTEngine` behind the check of the driver.  It follows the documentation of TensorRT 11, TensorRT for RTX
1.7, PyCUDA 2026.1 (its source was read for threads and contexts) and cuda-bindings 13, and is tested on the real PyCUDA
and cuda-bindings over an emulated driver, with a stand-in for TensorRT.  ``python -m benchmarks.gpu_check`` verifies it
where there is a GPU.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import threading
import traceback
import weakref
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from trt_landmarks.engines.base import Arrays, DeviceArray, Input
from trt_landmarks.engines.tensorrt.check import Machine, Plan, check_machine, read_plan, this_platform
from trt_landmarks.engines.tensorrt.context import Gpu, LoadedPlan
from trt_landmarks.engines.tensorrt.cuda_graph import load_driver
from trt_landmarks.engines.tensorrt.flavours import Log, load_flavour
from trt_landmarks.engines.tensorrt.gpu import NoGpu, find_gpus
from trt_landmarks.engines.tensorrt.memory import Buffers
from trt_landmarks.engines.tensorrt.record import PlanRecord
from trt_landmarks.errors import EngineError

#: CUDA graphs kept for each plan unless told otherwise.
CUDA_GRAPHS = 8
#: CU_STREAM_NON_BLOCKING: the stream does not wait for the default stream, nor that for it.
_NON_BLOCKING = 1


class TensorRTEngine:
    """Runs plans on the GPU, in the primary CUDA context (shared with DALI and PyTorch).

    Calls from several threads take turns; engines run side by side, each on its own stream.

    Args:
        plans: graph name to its plan and what is asked of it.
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        precision: what the plans are to compute in.
        command: what builds the plans again, told if a plan's own record cannot; empty: the plain command.
        device: number of the GPU.
        cuda_graphs: CUDA graphs kept for each plan at most; 0 runs plainly.

    Attributes:
        notes: what is worth knowing of how it runs, such as why there are no CUDA graphs.

    Raises:
        EngineError: if a plan is not the recorded file, not of the graph asked for, or not for this machine; if there
            is no module, GPU or PyCUDA; or if TensorRT refuses the plan.
    """

    provider = "GPU"

    def __init__(
        self,
        plans: Mapping[str, Plan],
        flavour: str,
        precision: str,
        command: str = "",
        device: int = 0,
        cuda_graphs: int = CUDA_GRAPHS,
    ) -> None:
        self.name = flavour
        self.precision = precision
        self._lock = threading.Lock()
        command = command or f"trtlm build --engine {flavour} --precision {precision}"
        checked = {graph: read_plan(plan, graph, flavour, precision, command) for graph, plan in plans.items()}
        trt = load_flavour(flavour)
        found = find_gpus()
        gpu = None if isinstance(found, NoGpu) else dict(enumerate(found)).get(device)
        here = Machine(str(trt.__version__), gpu, this_platform())
        for graph, (record, _) in checked.items():
            check_machine(record, plans[graph].path, here)
        if isinstance(found, NoGpu):
            raise EngineError(
                f"{flavour} cannot run here: {found.reason}.",
                f"{found.remedy} Take --engine onnxruntime to run on the CPU.",
            )
        if gpu is None:
            raise EngineError(f"{flavour}: there is no GPU {device} here.", f"GPUs here: 0 to {len(found) - 1}.")
        try:
            import pycuda.driver as cuda

            context = primary_context(device)
        except Exception as error:  # PyCUDA's own errors as well as a missing package
            raise EngineError(
                f"{flavour} needs PyCUDA, which cannot be used: {error}.",
                "Install it with: pip install pycuda (needs the CUDA toolkit's nvcc).",
            ) from None
        self._own_notes: list[str] = []
        self._state = _State(trt, cuda, context)
        self._close = weakref.finalize(self, self._state.close)
        try:
            with self._state.current():
                driver = self._load_driver() if cuda_graphs else None
                self._state.load(checked, plans, driver, cuda_graphs)
        except BaseException as error:
            with self._state.current():  # its frames hold objects of TensorRT
                traceback.clear_frames(error.__traceback__)
            self.close()
            raise

    @property
    def stream(self) -> int:
        """Handle of the CUDA stream (``cudaStream_t``) that everything runs on."""
        return int(self._state.stream.handle)

    @property
    def notes(self) -> list[str]:
        return [*self._own_notes, *(plan.note for plan in self._state.plans.values() if plan.note)]

    @property
    def allocations(self) -> int:
        """How often memory on the GPU, or pinned memory, was allocated so far."""
        return self._state.buffers.allocations

    @property
    def captured(self) -> int:
        """CUDA graphs that are kept."""
        return sum(plan.captured for plan in self._state.plans.values())

    def run(self, graph: str, *arrays: Input) -> Arrays:
        """Run one graph on its inputs, in the graph's order.

        Args:
            graph: its name.
            arrays: float32.  What lies on the GPU is read where it is, when :attr:`stream` has come so far, and may be
                changed when this returns.

        Returns:
            Its outputs in the graph's order, float32, on the host.

        Raises:
            EngineError: if TensorRT or CUDA refuses something, or the engine is closed.
        """
        with self._lock:
            if not self._close.alive:
                raise EngineError(f"{self.name}: the engine is closed.")
            state = self._state
            log = Log(state.trt)
            try:
                with state.current():
                    return state.run(graph, arrays)
            except state.cuda.Error as error:
                raise EngineError(
                    f"{graph}: CUDA failed: {error}.",
                    "Free GPU memory, or take --engine onnxruntime.",
                    code="cuda_failed",
                ) from None
            except EngineError as error:
                message = f"{error.message} {log.last()}." if log.errors else error.message
                raise EngineError(message, error.remedy, code=error.code) from None

    def close(self) -> None:
        """Give all memory back; it cannot run any more.  Also done when the engine is garbage, or at exit."""
        with self._lock:
            self._close()

    def _load_driver(self) -> Any:
        """The driver for CUDA graphs; None, with a note, if it cannot be had."""
        try:
            return load_driver()
        except EngineError as error:
            self._own_notes.append(f"Runs without CUDA graphs: {error}")
            return None


class _State:
    """What an engine holds on the GPU.

    It is apart from the engine, so that it can be given back when the engine is garbage.
    """

    def __init__(self, trt: Any, cuda: Any, context: Any) -> None:
        self.trt, self.cuda, self._context = trt, cuda, context
        self.plans: dict[str, LoadedPlan] = {}
        with self.current():
            self.stream = cuda.Stream(_NON_BLOCKING)
        self.buffers = Buffers(cuda, self.stream)

    def load(
        self,
        checked: Mapping[str, tuple[PlanRecord, bytes]],
        plans: Mapping[str, Plan],
        driver: Any,
        cuda_graphs: int,
    ) -> None:
        """Deserialize plans that were checked."""
        trt, log = self.trt, Log(self.trt)
        self.runtime = trt.Runtime(log.logger)
        if any(record.settings.version_compatible for record, _ in checked.values()):
            self.runtime.engine_host_code_allowed = True  # such a plan brings the runtime of its own version
        self._gpu = gpu = Gpu(trt, self.cuda, driver, self.stream, self.buffers)
        for graph, (record, blob) in checked.items():
            engine = self.runtime.deserialize_cuda_engine(blob)
            if engine is None:
                raise EngineError(
                    f"{plans[graph].path}: {record.flavour} {trt.__version__} refuses this plan "
                    f"(built with {record.version}): {log.last()}{_validity(self.runtime, blob)}.",
                    f"Build it again on this machine: {record.command}.",
                    code="plan_refused",
                )
            self.plans[graph] = LoadedPlan(gpu, record, engine, cuda_graphs)
            del engine

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """The CUDA context is current within."""
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def run(self, graph: str, arrays: Sequence[Input]) -> Arrays:
        """One run of a graph."""
        try:
            given = [self._upload(n, array) for n, array in enumerate(arrays)]
            fetch = self._gpu.download(self.plans[graph].enqueue(given), graph)
        finally:
            self.stream.synchronize()  # of a run that failed too: its copies still use the buffers
        return fetch()

    def _upload(self, number: int, array: Input) -> DeviceArray:
        """An input on the GPU, when the stream has come so far."""
        if isinstance(array, DeviceArray):
            return array
        array = np.asarray(array, dtype=np.float32)
        pinned = self.buffers.host(f"input {number}", array.shape)
        np.copyto(pinned, array)
        address = self.buffers.device(f"input {number}", array.nbytes)
        self.cuda.memcpy_htod_async(address, pinned, self.stream)
        return DeviceArray(address, array.shape)

    def close(self) -> None:
        """Give everything back, what was made last first, in whatever thread."""
        with self.current():
            self.stream.synchronize()
            for plan in self.plans.values():
                plan.free()
            self.plans.clear()
            self.runtime = None
            self.buffers.free()
            del self.stream


def _validity(runtime: Any, blob: bytes) -> str:
    """What TensorRT for RTX says of a plan that it refuses; empty with TensorRT, which cannot be asked."""
    if not hasattr(runtime, "get_engine_validity"):
        return ""
    validity, why = runtime.get_engine_validity(blob)
    return f" (validity: {getattr(validity, 'name', validity)}, {getattr(why, 'name', why)})"


@cache
def primary_context(device: int) -> Any:
    """A GPU's primary context, kept until the process ends: PyCUDA releases it only in the thread that took it."""
    import pycuda.driver as cuda

    cuda.init()
    context = cuda.Device(device).retain_primary_context()
    owner = threading.get_ident()

    def release() -> None:
        if threading.get_ident() == owner:
            context.detach()
        else:  # in another thread PyCUDA would complain, also in its destructor; the driver frees it with the process
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))

    atexit.register(release)  # runs after the engines' finalizers, which are registered later
    return context
