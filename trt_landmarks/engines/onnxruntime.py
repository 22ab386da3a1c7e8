"""ONNX Runtime: the default engine, on the CPU."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.engines.base import Arrays, RunCancelled
from trt_landmarks.engines.emulation import emulated
from trt_landmarks.errors import BundleError, EngineError
from trt_landmarks.system import physical_cores

CPU = "CPUExecutionProvider"


class OnnxRuntimeEngine:
    """Runs ONNX graphs with ONNX Runtime.

    On the CPU, graphs of lower precision are emulated (:mod:`trt_landmarks.engines.emulation`).

    Args:
        graphs: graph name to ONNX file.
        precision: ``fp32``, ``fp16`` or ``int8``: what the graphs compute in.
        threads: threads within an operator; None for the cores that this process may use.
        provider: the execution provider that must run them.

    Raises:
        EngineError: if the provider cannot be had (ONNX Runtime itself would silently take another).
        BundleError: naming a graph file that is damaged.
    """

    name = "onnxruntime"

    def __init__(
        self, graphs: Mapping[str, Path], precision: str = "fp32", threads: int | None = None, provider: str = CPU
    ) -> None:
        import onnxruntime as ort

        if provider not in ort.get_available_providers():
            raise EngineError(
                f"ONNX Runtime {ort.__version__} has no {provider}; it has {', '.join(ort.get_available_providers())}.",
                "Install an ONNX Runtime with it, or take --engine auto.",
            )
        self.precision = precision
        self.provider = provider
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Spinning threads of three sessions would compete for the cores that sampling needs in between.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # One block of memory for a whole run would come on top of what the first run took, and saves no time.
        options.enable_mem_pattern = False
        if provider == CPU:
            _share_memory()
            options.add_session_config_entry("session.use_env_allocators", "1")
        # Told a number, it binds threads to no cores: left alone it takes cores that this process may not use.
        options.intra_op_num_threads = threads or physical_cores()
        self._run_options = ort.RunOptions
        self._running: dict[int, Any] = {}  # thread -> options of its run
        self._sessions = {}
        emulation = precision != "fp32" and provider == CPU
        if emulation:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        for graph, path in graphs.items():
            content = emulated(path) if emulation else str(path)
            try:
                session = ort.InferenceSession(content, options, providers=[provider])
            except Exception as error:  # ONNX Runtime's exceptions have no common public base
                reason = str(error).splitlines()[0]
                raise BundleError(f"{path}: ONNX Runtime cannot load this graph: {reason}.") from None
            if session.get_providers()[0] != provider:
                raise EngineError(f"ONNX Runtime did not take {provider} but {session.get_providers()[0]}.")
            self._sessions[graph] = (session, [value.name for value in session.get_inputs()])

    def run(self, graph: str, *arrays: NDArray[np.float32]) -> Arrays:
        session, names = self._sessions[graph]
        feed = {n: np.ascontiguousarray(array, dtype=np.float32) for n, array in zip(names, arrays, strict=True)}
        options = self._run_options()
        self._running[threading.get_ident()] = options
        try:
            outputs: list[NDArray[np.float32]] = session.run(None, feed, options)
        except Exception:
            if options.terminate:
                raise RunCancelled(graph) from None
            raise
        finally:
            del self._running[threading.get_ident()]
        return tuple(outputs)

    def cancel(self, thread: int | None = None) -> None:
        """Make runs under way raise :class:`RunCancelled` after the operator they are at."""
        for running, options in list(self._running.items()):
            if thread in (None, running):
                options.terminate = True


@cache
def _share_memory() -> None:
    """One pool of memory for all sessions, in blocks as large as they are needed.

    A session's own pool doubles its blocks, and what lies in them shifts from run to run, so that over hundreds of
    scans ever more of them is touched: resident memory then grows for as long as anybody looks.
    """
    import onnxruntime as ort

    where = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    as_requested = {"max_mem": 0, "arena_extend_strategy": 1, "initial_chunk_size_bytes": -1,
                    "max_dead_bytes_per_chunk": -1}  # fmt: skip
    ort.create_and_register_allocator(where, ort.OrtArenaCfg(as_requested))
