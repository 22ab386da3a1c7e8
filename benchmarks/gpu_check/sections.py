"""The sections that open and run TensorRT's plans, and the list of all sections in the order of what matters.

Each takes the setting and yields rows; it may import what it checks, and may crash.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu_check.rows import FAILED, MEASURED, NOT_RUN, OK, Row, latency, row, verdict
from trt_landmarks.bundles.builds import Build, find_build
from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.bundles.select import open_plans
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.tensorrt.flavours import FLAVOURS, load_flavour
from trt_landmarks.errors import EngineError, TrtlmError
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.localization.result import Localization
from trt_landmarks.localization.whole_scan import WholeScanLocalizer
from trt_landmarks.preprocessing.select import open_preprocessor
from trt_landmarks.scan import Scan, find_scans, read_scan
from trt_landmarks.system import installed_versions

if TYPE_CHECKING:
    from trt_landmarks.engines.tensorrt.engine import TensorRTEngine

#: The precision of the default path.
DEFAULT = "fp16"
#: Precisions that are compared.
PRECISIONS = ("fp16", "int8", "fp32")
#: Runs after which nothing may have been allocated.
STEADY_RUNS = 20
#: The largest difference of points between two ways of giving the same inputs, mm.
SAME_MM = 1e-3


@dataclass(frozen=True)
class Setting:
    """What the command was asked for, and a folder that sections share."""

    scans: Path
    model: str | None
    count: int
    work: Path

    def bundle(self) -> Bundle:
        """The model."""
        return open_bundle(self.model)

    def read(self, count: int | None = None) -> list[Scan]:
        """The first scans of the folder."""
        return [read_scan(file) for file in find_scans([self.scans])[: count or self.count]]


@dataclass(frozen=True)
class Section:
    """A section: what runs it, its time limit, and its rows where it cannot run at all."""

    run: Callable[[Setting], Iterator[Row]]
    seconds: float
    rows: tuple[str, ...]
    needs_gpu: bool = True


def machine(setting: Setting) -> Iterator[Row]:
    """What there is, as the doctor sees it."""
    from trt_landmarks.doctor.facts import gather
    from trt_landmarks.doctor.report import make_report

    report = make_report(gather())
    yield row("computer", MEASURED, **{key: report["machine"].get(key) for key in ("python", "system", "machine")})
    yield row("driver", MEASURED, report["driver"]["problem"] or "", cuda=report["driver"]["cuda"],
              kernel=report["driver"]["kernel"])  # fmt: skip
    for gpu in report["gpus"]:
        yield row(gpu["name"], MEASURED, capability=gpu["compute_capability"], memory_bytes=gpu["memory_bytes"])
    for name, package in report["packages"].items():
        if package["state"] == "missing":
            yield row(name, NOT_RUN, "it is not installed")
        else:
            yield row(name, MEASURED, package["problem"] or "", version=package["version"])


def opens(setting: Setting) -> Iterator[Row]:
    """Does a plan open here, and does it find what ONNX Runtime finds?  What has all it needs and does not, failed."""
    bundle, scans = setting.bundle(), setting.read()
    yield from _reference(setting, bundle, scans)
    has_pycuda = bool(installed_versions(("pycuda",)))
    if not has_pycuda:
        yield row("PyCUDA", NOT_RUN, "it is not installed")
    for flavour in FLAVOURS:
        try:
            yield row(f"{flavour} loads", OK, version=str(load_flavour(flavour).__version__))
        except EngineError as error:
            yield row(f"{flavour} loads", NOT_RUN, error.message)
            continue
        for precision in (DEFAULT, "fp32"):
            what = f"{flavour} {precision} opens"
            try:
                found = _build(bundle, flavour, precision)
                start = time.perf_counter()
                engine = open_plans(bundle, found, cuda_graphs=0)
            except (TrtlmError, ImportError) as error:
                yield row(what, FAILED if has_pycuda else NOT_RUN, str(error))
                continue
            yield row(what, OK, seconds=round(time.perf_counter() - start, 2))
            yield from _agrees(setting, bundle, scans, engine, f"{flavour} {precision} against onnxruntime fp32")
            engine.close()
            break


def _reference(setting: Setting, bundle: Bundle, scans: Sequence[Scan]) -> Iterator[Row]:
    """FP32 in ONNX Runtime on the CPU, with the graphs that are fast there: what all others are compared with."""
    start = time.perf_counter()
    localizer = Localizer(bundle.task, bundle.mean_shape, OnnxRuntimeEngine(bundle.cpu_graphs))
    found = [localizer.localize(scan) for scan in scans]
    names = ("points", "confidence", "coarse_points")
    arrays = {name: np.stack([getattr(one, name) for one in found]) for name in names}
    np.savez(setting.work / "reference.npz", **arrays)  # type: ignore[arg-type]
    yield row("onnxruntime fp32 on the CPU", MEASURED, scans=len(scans), seconds=round(time.perf_counter() - start, 1))


def _build(bundle: Bundle, flavour: str, precision: str) -> Build:
    """A build as it is found, or made here.

    Raises:
        TrtlmError, ImportError: if it cannot be made.
    """
    from trt_landmarks.build import Request, build

    return find_build(bundle, flavour, precision) or build(bundle, flavour, Request(precision))


def _agrees(
    setting: Setting, bundle: Bundle, scans: Sequence[Scan], engine: TensorRTEngine, what: str
) -> Iterator[Row]:
    """Whether a plan finds what the reference does, given its inputs from the host."""
    localizer = WholeScanLocalizer(bundle.task, engine)
    try:
        yield compared(setting, bundle, [localizer.localize(scan) for scan in scans], engine.precision, what)
    except EngineError as error:
        yield row(what, FAILED, str(error))


def _expected(setting: Setting) -> list[Localization]:
    """What the reference found, without key slices.

    Raises:
        EngineError: if it did not come so far.
    """
    try:
        with np.load(setting.work / "reference.npz") as file:
            points, confidence, coarse = (file[name] for name in ("points", "confidence", "coarse_points"))
    except OSError:
        raise EngineError("There is nothing to compare with: the reference did not run.") from None
    return [Localization(p, c, k, (), {}) for p, c, k in zip(points, confidence, coarse, strict=True)]


def compared(setting: Setting, bundle: Bundle, found: Sequence[Localization], precision: str, what: str) -> Row:
    """How far localizations are from the reference, and whether a precision may be so far."""
    from trt_landmarks.calibration.gate import deviation, judged

    figures = deviation(bundle, _expected(setting), [replace(one, slices=()) for one in found], None)
    judgement = judged(figures, precision)
    shown = ("mean_mm", "max_mm", "p99_voxel", "coarse_mean_mm", "max_confidence")
    return verdict(what, judgement["passed"], "; ".join(judgement["failures"]), **{n: figures[n] for n in shown})


def default_path(setting: Setting) -> Iterator[Row]:
    """What ``trtlm infer`` does on this GPU: DALI, the plan as CUDA graphs; every stage, and without graphs."""
    bundle, scans = setting.bundle(), setting.read()
    preprocessor, note = open_preprocessor("auto", 0)
    yield row("preprocessing", MEASURED, note)
    for cuda_graphs in (8, 0):
        engine = any_engine(bundle, cuda_graphs=cuda_graphs)
        localizer = WholeScanLocalizer(bundle.task, engine, preprocessor)
        how = "with CUDA graphs" if cuda_graphs else "without CUDA graphs"
        for scan in scans[:2]:
            size = "x".join(map(str, scan.geometry.size))
            yield row(f"{engine.name} {size} {scan.voxels.dtype} {how}", MEASURED,
                      latency=latency(partial(localizer.localize, scan)),
                      stages_ms={k: round(v, 3) for k, v in localizer.localize(scan).timing_ms.items()})  # fmt: skip
        if cuda_graphs:
            yield from _replays(setting, bundle, scans, engine, localizer)
        engine.close()


def _replays(
    setting: Setting, bundle: Bundle, scans: Sequence[Scan], engine: TensorRTEngine, localizer: WholeScanLocalizer
) -> Iterator[Row]:
    """A folder of mixed sizes, again and again: graphs are replayed, agree, and nothing is allocated."""
    for _ in range(3):
        found = [localizer.localize(scan) for scan in scans]
    yield compared(setting, bundle, found, engine.precision, "replays against onnxruntime fp32")
    if engine.captured and not engine.notes:
        yield row("CUDA graphs", OK, graphs=engine.captured, scans=len(scans))
    else:
        differs = any("differs" in note for note in engine.notes)
        yield row("CUDA graphs", FAILED if differs else NOT_RUN, " ".join(engine.notes) or "nothing was captured")
    yield _steady(engine, lambda: [localizer.localize(scan) for scan in scans])


def precisions(setting: Setting) -> Iterator[Row]:
    """The other precisions: how far they are, and how fast with their inputs on the host."""
    bundle, scans = setting.bundle(), setting.read()
    for precision in PRECISIONS:
        for flavour in FLAVOURS:
            what = f"{flavour} {precision}"
            try:
                load_flavour(flavour)
                engine = open_plans(bundle, _build(bundle, flavour, precision))
            except (TrtlmError, ImportError) as error:
                yield row(what, NOT_RUN, str(error))
                continue
            yield from _agrees(setting, bundle, scans, engine, f"{what} against onnxruntime fp32")
            localizer = WholeScanLocalizer(bundle.task, engine)
            yield row(f"{what} latency", MEASURED, latency=latency(partial(localizer.localize, scans[0])))
            engine.close()


def _steady(engine: TensorRTEngine, call: Callable[[], Any]) -> Row:
    """Whether an engine that is warm still allocates."""
    call()
    before, free = engine.allocations, _free_memory()
    for _ in range(STEADY_RUNS):
        call()
    more = engine.allocations - before
    return verdict("allocates nothing once warm", more == 0, "it does", runs=STEADY_RUNS, allocations=more,
                   gpu_memory_bytes=free - _free_memory())  # fmt: skip


def _free_memory() -> int:
    """Bytes that are free on the GPU, for TensorRT's own allocations too."""
    cuda, context = pycuda()
    context.push()
    try:
        return int(cuda.mem_get_info()[0])
    finally:
        context.pop()


def pycuda() -> tuple[Any, Any]:
    """``pycuda.driver`` and the primary context."""
    import pycuda.driver as cuda

    from trt_landmarks.engines.tensorrt.engine import primary_context

    return cuda, primary_context(0)


def any_engine(bundle: Bundle, cuda_graphs: int = 8) -> TensorRTEngine:
    """The first engine that opens: of the default precision, if it can be had.

    Raises:
        EngineError: if there is none.
    """
    reasons = []
    for precision in (DEFAULT, "fp32"):
        for flavour in FLAVOURS:
            found = find_build(bundle, flavour, precision)
            if found is not None:
                try:
                    return open_plans(bundle, found, cuda_graphs=cuda_graphs)
                except EngineError as error:
                    reasons.append(error.message)
    raise EngineError(f"No plan runs here. {' '.join(reasons)}".strip())


def _others(name: str) -> Callable[[Setting], Iterator[Row]]:
    """A section of :mod:`benchmarks.gpu_check.others`, which is imported when it runs."""

    def run(setting: Setting) -> Iterator[Row]:
        from benchmarks.gpu_check import others

        yield from getattr(others, name)(setting)

    return run


#: In the order of what matters; together they may take no longer than 8 minutes.
SECTIONS = {
    "machine": Section(machine, 25, ("machine",), needs_gpu=False),
    "opens and agrees": Section(opens, 120, ("a plan opens", "against onnxruntime fp32")),
    "DALI and race": Section(_others("dali"), 60, ("GPU against the reference", "hand-over to TensorRT")),
    "latency of the default path": Section(default_path, 60, ("latency", "CUDA graphs", "allocates nothing once warm")),
    "variants": Section(_others("variants"), 70, ("grouped", "separate", "dense")),
    "precisions": Section(precisions, 75, ("fp16", "int8", "fp32")),
    "bench rows": Section(_others("baselines"), 60, ("PyTorch", "ONNX Runtime's CUDA provider")),
}  # fmt: skip
