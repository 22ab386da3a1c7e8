"""The ways: everything that can run a model here, under one name each, opened in a process of its own.

A way takes a scan file and leaves its landmarks in a file: all stages, from reading to writing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from trt_landmarks.bundles.builds import PRECISIONS, build_name, list_builds
from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.engines.tensorrt.flavours import FLAVOURS
from trt_landmarks.errors import EngineError

if TYPE_CHECKING:
    from trt_landmarks.geometry import Floats
    from trt_landmarks.runs.workers import AnyLocalizer
    from trt_landmarks.scan import Scan

TORCH, TORCH_BF16 = "torch", "torch-bf16"
#: Ways that others are compared with.
BASELINES = (TORCH, TORCH_BF16)
#: The default of ``trtlm infer`` on the CPU; and the same with all that overlaps.
DEFAULT, FOLDER = "onnxruntime-fp32", "onnxruntime-fp32 pipelined"
ONNXRUNTIME, CUDA, DALI = "onnxruntime", "onnxruntime-cuda", "dali"
#: Ways of the preprocessing alone.
PREPROCESSING = ("preprocess-reference", "preprocess-dali")
#: What ``--engines`` may name.
ENGINES = (*BASELINES, ONNXRUNTIME, CUDA, *FLAVOURS, DALI)

#: Stages of a scan in their order; TensorRT has ``upload`` and ``scan`` between ``normalize`` and ``write``.
STAGES = (
    "read", "normalize", "coarse_resample", "coarse", "patch_sampling", "fine_independent", "fine_correlated", "write",
)  # fmt: skip
#: Stages that are nets and nothing else.
NET_STAGES = ("coarse", "fine_independent", "fine_correlated")


@dataclass(frozen=True)
class Way:
    """A way.

    Attributes:
        name: its own.
        what: what it is, for people.
        engine: what of :data:`ENGINES` it belongs to.
        precision: ``fp32``, ``fp16``, ``int8`` or, of PyTorch, ``bf16``.
        problem: why it cannot run here; empty if it may.
    """

    name: str
    what: str
    engine: str
    precision: str = "fp32"
    problem: str = ""


@dataclass(frozen=True)
class Spec:
    """What a process needs to open a way; plain data.

    Attributes:
        way: its name.
        engine: of :class:`Way`.
        precision: the same.
        model: the bundle's folder, or the name of a shipped one.
        nets: folder of the file of PyTorch's nets; empty without PyTorch.
        threads: on the CPU.
        device: of PyTorch.
        batches: for ways that overlap stages, how many there will be.
    """

    way: str
    engine: str
    precision: str = "fp32"
    model: str = ""
    nets: str = ""
    threads: int = 1
    device: str = "cpu"
    batches: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class Opened(Protocol):
    """A way that is ready."""

    note: str

    def localize(self, path: Path, out: Path) -> tuple[Floats | None, dict[str, float]]:
        """Points ``[N, 3]`` (LPS mm; None if it finds none), and milliseconds of every stage."""
        ...

    def folder(self, paths: Sequence[Path], out: Path) -> None:
        """All scans; results in ``out``."""
        ...


def list_ways(bundle: Bundle, engines: Iterable[str] = ENGINES, precisions: Iterable[str] = PRECISIONS) -> list[Way]:
    """All ways of some engines and precisions, those that cannot run here with the reason.

    Raises:
        EngineError: if there is no such engine or precision.
    """
    from trt_landmarks.engines.tensorrt.gpu import gpu_problem

    asked, wanted = list(engines), list(precisions)
    for given, known, what in ((asked, ENGINES, "engine"), (wanted, PRECISIONS, "precision")):
        for name in given:
            if name not in known:
                raise EngineError(f"{name}: no such {what} to measure.", f"There are: all, {', '.join(known)}.")
    problem = gpu_problem() or ""
    builds = {(build.engine, build.precision) for build in list_builds(bundle)}
    ways = [
        Way(TORCH, "PyTorch eager FP32, batched nets, sampling of this toolkit", TORCH),
        Way(TORCH_BF16, "the same with autocast to bfloat16 and channels-last memory", TORCH_BF16, "bf16"),
        Way(DEFAULT, "ONNX Runtime FP32 on the CPU, as trtlm infer opens it for one scan", ONNXRUNTIME),
    ]
    emulated = "lower precision is emulated on the CPU, to check its accuracy: its time says nothing"
    ways += [Way(f"{ONNXRUNTIME}-{p}", f"ONNX Runtime {p}", ONNXRUNTIME, p, emulated) for p in PRECISIONS[1:]]
    ways.append(Way(f"{CUDA}-fp32", "ONNX Runtime FP32 on the GPU", CUDA, problem=problem))
    for flavour in FLAVOURS:
        for precision in PRECISIONS:
            missing = "" if (flavour, precision) in builds else "this model has no such build (trtlm build makes it)"
            both = "; ".join(part for part in (problem, missing) if part)
            name = build_name(flavour, precision)
            ways.append(Way(name, f"{flavour} {precision}, the whole method", flavour, precision, both))
    wanted.append("bf16")  # of a baseline
    chosen = [way for way in ways if way.engine in asked and way.precision in wanted]
    if DALI in asked:
        chosen += [Way(name, f"coarse volume by {name.partition('-')[2]}", DALI) for name in PREPROCESSING]
    return chosen


def open_way(spec: Spec) -> Opened:
    """Open a way in this process.

    Raises:
        EngineError: if it cannot be had.
        ModuleNotFoundError: if a package is missing.
    """
    bundle = open_bundle(spec.model)
    if spec.way in PREPROCESSING:
        return _Preprocessing(bundle, spec)
    return _Toolkit(bundle, spec)


class _Toolkit:
    """The toolkit's own localizers, whatever runs the nets."""

    def __init__(self, bundle: Bundle, spec: Spec) -> None:
        self.bundle = bundle
        self.pipelined = spec.way == FOLDER
        self.localizers: list[AnyLocalizer]
        if spec.engine in (ONNXRUNTIME, *FLAVOURS):
            from trt_landmarks.runs.workers import open_workers

            workers = open_workers(
                bundle, spec.batches, engine=spec.engine, precision=spec.precision, threads=spec.threads
            )
            self.localizers = workers.localizers if self.pipelined else workers.localizers[:1]
            self.note = f"{workers.note}; preprocessing: {workers.preprocessing}"
            return
        from trt_landmarks.localization.localizer import Localizer

        engine: Any
        if spec.engine == CUDA:
            from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine

            engine = OnnxRuntimeEngine(bundle.graphs, provider="CUDAExecutionProvider")
        else:
            import torch

            from trt_landmarks.bench.pytorch import read_nets
            from trt_landmarks.engines.torch import TorchEngine

            torch.set_num_threads(spec.threads)
            engine = TorchEngine(read_nets(Path(spec.nets), bundle.task), spec.device, bf16=spec.engine == TORCH_BF16)
        self.note = f"{engine.name} {engine.precision} on {engine.provider}"
        self.localizers = [Localizer(bundle.task, bundle.mean_shape, engine)]

    def localize(self, path: Path, out: Path) -> tuple[Floats | None, dict[str, float]]:
        from trt_landmarks.localization.case import case_result
        from trt_landmarks.scan import ScanFile, read_scan

        localizer = self.localizers[0]
        start = time.perf_counter()
        scan = read_scan(path)
        read = time.perf_counter()
        found = localizer.localize(scan)
        located = time.perf_counter()
        predictions = self._predictions()
        predictions.cases.append(case_result(ScanFile(scan.id, path), scan, found, localizer.task))
        predictions.write(out)
        done = time.perf_counter()
        stages = {"read": 1000 * (read - start), **found.timing_ms}
        rest = 1000 * (located - read) - sum(found.timing_ms.values())
        return found.points, {**stages, "other": rest, "write": 1000 * (done - located)}

    def folder(self, paths: Sequence[Path], out: Path) -> None:
        from trt_landmarks.runs.run import Run, Unfinished
        from trt_landmarks.scan import ScanFile

        if not self.pipelined:
            for path in paths:
                self.localize(path, out)
            return
        files = [ScanFile(f"scan{n}", path) for n, path in enumerate(paths)]
        outcome = Run(files, self._predictions(), out, Unfinished(overwrite=True)).go(self.localizers)
        if outcome.exit_code:
            why = outcome.problem or f"scans failed: {', '.join(outcome.found.failures)}"
            raise EngineError(f"the folder could not be localized: {why}.")

    def _predictions(self) -> Any:
        from trt_landmarks.results.predictions import Predictions

        return Predictions(self.bundle.task.name, {"name": self.bundle.name}, {"name": self.localizers[0].engine.name})


class _Preprocessing:
    """The coarse volume alone, left in an ``.npy`` file, of scans that are in memory.

    Percentiles, which all need alike, are not counted, nor is the file.
    """

    def __init__(self, bundle: Bundle, spec: Spec) -> None:
        from trt_landmarks.preprocessing.select import open_preprocessor

        name = spec.way.partition("-")[2]
        device = 0 if spec.device == "cuda" and name == DALI else None
        self.preprocessor, self.note = open_preprocessor(name, device, spec.threads)
        self.task = bundle.task
        self._scans: dict[Path, tuple[Scan, tuple[float, float]]] = {}

    def localize(self, path: Path, out: Path) -> tuple[Floats | None, dict[str, float]]:
        from trt_landmarks.localization.localizer import coarse_grid
        from trt_landmarks.preprocessing.sampling import intensity_range
        from trt_landmarks.scan import read_scan

        if path not in self._scans:
            scan = read_scan(path)
            self._scans[path] = scan, intensity_range(scan.voxels, self.task.intensity)
        scan, intensities = self._scans[path]
        start = time.perf_counter()
        volumes = self.preprocessor.coarse_volumes([scan], [coarse_grid(self.task, scan)], [intensities])
        taken = 1000 * (time.perf_counter() - start)
        np.save(out, volumes)
        return None, {"coarse_resample": taken}

    def folder(self, paths: Sequence[Path], out: Path) -> None:
        for path in paths:
            self.localize(path, out)
