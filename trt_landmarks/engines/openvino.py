"""OpenVINO: the fastest engine on a CPU, in FP32 or bfloat16."""

from __future__ import annotations

import hashlib
import importlib
import json
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks import __version__
from trt_landmarks.engines.base import Arrays, RunCancelled
from trt_landmarks.engines.openvino_graph import convert
from trt_landmarks.errors import BundleError, EngineError
from trt_landmarks.files import cache_folder, file_sha256, make_folder, write_bytes
from trt_landmarks.system import cores, install_command, processor, processor_bf16
from trt_landmarks.task.graphs import COARSE

#: Our precisions and OpenVINO's names for them.
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
#: Graphs that are always computed in FP32.  The coarse net gives millimetres, not heatmaps; in bfloat16 it moved the
#: patches so far that final points differed from FP32's 2 to 4 times as much, and saved 4 % of the time.
ALWAYS_FP32 = (COARSE,)
#: Compiled models that were not used for so long are removed from the cache, seconds.
LONGEST_UNUSED = 30 * 24 * 3600.0


class OpenVinoEngine:
    """Runs a bundle's FP32 ONNX graphs with OpenVINO on the CPU, the fine nets in FP32 or bfloat16.

    Graphs are rewritten as they are loaded (:mod:`trt_landmarks.engines.openvino_graph`).  The coarse net and the
    decoding of heatmaps are always in FP32.
    Scans of a batch run one after the other, so that a result never depends on the batch, nor on other threads.
    Compiled models are kept in the user's cache folder; without one that can be written to they are compiled anew.

    Args:
        graphs: graph name to ONNX file.
        precision: ``fp32``, or ``bf16``: convolutions multiply and store bfloat16, and accumulate in FP32.
        threads: threads of each worker; None shares all cores.
        workers: threads that call :meth:`run` at the same time.
        digests: graph name to the SHA-256 of its file, where it is known already.

    Raises:
        EngineError: ``package_missing``; ``precision_missing`` if the processor has no instructions for bfloat16.
        BundleError: naming a graph file that is damaged.
    """

    name = "openvino"
    provider = "CPU"

    def __init__(
        self,
        graphs: Mapping[str, Path],
        precision: str = "fp32",
        threads: int | None = None,
        workers: int = 1,
        digests: Mapping[str, str] | None = None,
    ) -> None:
        ov = load_openvino()
        self.precision = precision
        self._core, self._tensor = ov.Core(), ov.Tensor
        if precision == "bf16":
            check_bf16(self._core)
        self._threads = {
            "INFERENCE_NUM_THREADS": threads * workers if threads else cores(),
            "NUM_STREAMS": workers,
            "ENABLE_CPU_PINNING": False,  # other processes would be pinned to the same cores
        }
        self._models: dict[str, tuple[Any, Any]] = {}
        for graph, path in graphs.items():
            digest = digests[graph] if digests else file_sha256(path)
            inside = "fp32" if graph in ALWAYS_FP32 else precision
            cached = cache_file(digest, inside, ov.get_version())
            models = self._read_cached(cached, inside)
            if models is None:
                models = self._compile(path, inside)
                self._write_cached(cached, models)
            self._models[graph] = models
        self._local = threading.local()
        self._running: dict[int, _Run] = {}

    def run(self, graph: str, *arrays: NDArray[np.float32]) -> Arrays:
        (array,) = arrays
        array = np.ascontiguousarray(array, dtype=np.float32)
        run = _Run(*self._requests(graph))
        self._running[threading.get_ident()] = run
        try:
            rows = [self._run_scan(run, graph, array[n : n + 1]) for n in range(len(array))]
        finally:
            del self._running[threading.get_ident()]
        return tuple(np.concatenate(outputs) for outputs in zip(*rows, strict=True))

    def cancel(self, thread: int | None = None) -> None:
        """Make runs under way raise :class:`RunCancelled` after the layer they are at."""
        for running, run in list(self._running.items()):
            if thread in (None, running):
                run.cancelled = True
                run.nets.cancel()

    def _run_scan(self, run: _Run, graph: str, array: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        if run.cancelled:
            raise RunCancelled(graph)
        run.nets.set_input_tensor(self._tensor(array, shared_memory=True))
        try:
            run.nets.start_async()
            run.nets.wait()
        except RuntimeError:
            if run.cancelled:
                raise RunCancelled(graph) from None
            raise
        run.decoding.infer()
        if run.cancelled:
            raise RunCancelled(graph)
        return [run.decoding.get_output_tensor(n).data.copy() for n in range(len(run.decoding.model_outputs))]

    def _requests(self, graph: str) -> tuple[Any, Any]:
        """Inference requests of the calling thread: nets and decoding, which reads the nets' outputs where they lie."""
        requests: dict[str, tuple[Any, Any]] = self._local.__dict__.setdefault("requests", {})
        if graph not in requests:
            nets, decoding = (model.create_infer_request() for model in self._models[graph])
            for n in range(len(nets.model_outputs)):
                decoding.set_input_tensor(n, nets.get_output_tensor(n))
            requests[graph] = nets, decoding
        return requests[graph]

    def _settings(self, precision: str) -> dict[str, Any]:
        return {**self._threads, "INFERENCE_PRECISION_HINT": PRECISIONS[precision]}

    def _compile(self, path: Path, precision: str) -> tuple[Any, Any]:
        try:
            nets, decoding = convert(self._core, path)
            nets = self._core.compile_model(nets, "CPU", self._settings(precision))
            return nets, self._core.compile_model(decoding, "CPU", self._settings("fp32"))
        except Exception as error:  # OpenVINO raises RuntimeError and others
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise BundleError(f"{path}: OpenVINO cannot load this graph: {reason}") from None

    def _read_cached(self, path: Path, precision: str) -> tuple[Any, Any] | None:
        """Models compiled earlier; None if they are missing or damaged."""
        try:
            content = path.read_bytes()
            path.touch()
        except OSError:
            return None
        digest, length, body = content[:32], int.from_bytes(content[32:40], "little"), content[40:]
        if len(content) < 40 or hashlib.sha256(body).digest() != digest:
            return None
        try:
            nets = self._core.import_model(body[:length], "CPU", self._settings(precision))
            return nets, self._core.import_model(body[length:], "CPU", self._settings("fp32"))
        except RuntimeError:  # another program wrote it
            return None

    def _write_cached(self, path: Path, models: tuple[Any, Any]) -> None:
        """Keep compiled models for the next start, if the cache folder can be written to."""
        with suppress(EngineError, OSError):
            make_folder(path.parent, EngineError)
            nets, decoding = (model.export_model().getvalue() for model in models)
            body = nets + decoding
            write_bytes(path, hashlib.sha256(body).digest() + len(nets).to_bytes(8, "little") + body, EngineError)
            for other in path.parent.glob(f"*{path.suffix}"):
                if time.time() - other.stat().st_mtime > LONGEST_UNUSED:
                    other.unlink(missing_ok=True)


@dataclass
class _Run:
    """A run under way: its requests, and whether it was cancelled."""

    nets: Any
    decoding: Any
    cancelled: bool = False


def load_openvino() -> Any:
    """The package ``openvino``.

    Raises:
        EngineError: ``package_missing``.
    """
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise EngineError(
            f"OpenVINO cannot be loaded: {error}.",
            f"Run {install_command('openvino')}, or use --engine onnxruntime.",
            code="package_missing",
        ) from None


def check_bf16(core: Any = None) -> None:
    """Check that this processor computes in bfloat16.

    Raises:
        EngineError: ``package_missing``; ``precision_missing`` if it has no instructions for it.
    """
    core = core or load_openvino().Core()
    if processor_bf16() is None or "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise EngineError(
            f"This processor ({processor()}) has no bfloat16 instructions (AVX512_BF16 or AMX).",
            "Use --precision fp32.",
            code="precision_missing",
        )


def cache_file(digest: str, precision: str, version: str) -> Path:
    """Where the compiled models of a graph are kept: named by all that decides what they become."""
    parts = [digest, precision, version, __version__, processor(), processor_bf16()]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return cache_folder() / "openvino" / f"{key[:40]}.compiled"
