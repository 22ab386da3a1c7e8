"""The sections: what is checked on a GPU, and how.

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
from trt_landmarks.engines.base import Engine
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.tensorrt.flavours import FLAVOURS, RTX, Log, load_flavour
from trt_landmarks.engines.tensorrt.gpu import gpu_problem
from trt_landmarks.engines.tensorrt.settings import PlanSettings
from trt_landmarks.errors import EngineError, TrtlmError
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.localization.result import Localization
from trt_landmarks.localization.whole_scan import ResidentLocalizer
from trt_landmarks.scan import Scan, find_scans, read_scan
from trt_landmarks.task.graphs import COARSE, NETS, profiles

if TYPE_CHECKING:
    from trt_landmarks.engines.tensorrt.engine import TensorRTEngine

#: Plans are built with as much scratch memory as they want: with layout ``one`` that is more than 4 GiB, for a scan
#: of the largest size.
UNLIMITED = PlanSettings()
#: Runs after which nothing may have been allocated.
STEADY_RUNS = 20
#: Codes of errors that are failures; others say that something cannot be had here.
BROKEN = ("cuda_failed", "engine_output", "run_failed", "shape_refused")
#: The largest difference of a volume between preprocessors, of its range 0..1.
VOLUME_TOLERANCE = 1e-3
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

    report = make_report(gather(deep=True))
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


def loading(setting: Setting) -> Iterator[Row]:
    """Which TensorRT loads, and for what TensorRT for RTX builds plans that this GPU takes."""
    for flavour in FLAVOURS:
        try:
            yield row(f"{flavour} loads", OK, version=str(load_flavour(flavour).__version__))
        except EngineError as error:
            yield row(f"{flavour} loads", NOT_RUN, error.message)
    problem = gpu_problem()
    if problem is not None:
        yield row("targets", NOT_RUN, problem)
        return
    try:
        trt = load_flavour(RTX)
    except EngineError as error:
        yield row("targets", NOT_RUN, error.message)
        return
    bundle = setting.bundle()
    for name in ("none named", *(name for name in trt.ComputeCapability.__members__ if name != "NONE")):
        yield _target(trt, bundle, None if name == "none named" else trt.ComputeCapability.__members__[name], name)


def _target(trt: Any, bundle: Bundle, target: Any, name: str) -> Row:
    """Whether a plan of the coarse net can be built here for a target, and is taken by this GPU."""
    what, log, start = f"target {name}", Log(trt), time.perf_counter()
    builder = trt.Builder(log.logger)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    trt.OnnxParser(network, log.logger).parse(bundle.graphs[COARSE].read_bytes())
    config, shapes = builder.create_builder_config(), builder.create_optimization_profile()
    for tensor, (smallest, usual, largest) in profiles(bundle.task)[COARSE].items():
        shapes.set_shape(tensor, smallest, usual, largest)
    config.add_optimization_profile(shapes)
    if target is not None:
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(target, 0):
            return row(what, MEASURED, "the builder does not take it", builds=False, loads=False)
    plan = builder.build_serialized_network(network, config)
    seconds = round(time.perf_counter() - start, 2)
    if plan is None:
        return row(what, MEASURED, log.last(), builds=False, loads=False)
    loaded = trt.Runtime(log.logger).deserialize_cuda_engine(plan)
    said = log.last() if loaded is None else ""
    return row(what, MEASURED, said, builds=True, build_seconds=seconds, loads=loaded is not None)


def building(setting: Setting) -> Iterator[Row]:
    """Plans: those that are there, and those that can be made here."""
    from trt_landmarks.build import Request, build

    bundle = setting.bundle()
    flavours = [flavour for flavour in FLAVOURS if _loads(flavour)]
    if not flavours:
        yield row("plans", NOT_RUN, "no TensorRT loads")
    for flavour in flavours:
        for precision, layout in COMBINATIONS:
            what = f"{flavour} {precision} {layout}"
            if find_build(bundle, flavour, precision, layout) is not None:
                yield row(what, MEASURED, "built before this run")
                continue
            start = time.perf_counter()
            try:
                build(bundle, flavour, Request(precision, layout=layout, plans=UNLIMITED))
                yield row(what, MEASURED, "built here", seconds=round(time.perf_counter() - start, 1))
            except (TrtlmError, ImportError) as error:
                yield row(what, NOT_RUN, str(error))


def _loads(flavour: str) -> bool:
    try:
        load_flavour(flavour)
    except EngineError:
        return False
    return True


def reference(setting: Setting) -> Iterator[Row]:
    """FP32 in ONNX Runtime on the CPU: what all others are compared with."""
    bundle, scans = setting.bundle(), setting.read()
    localizer = Localizer(bundle.task, bundle.mean_shape, OnnxRuntimeEngine(bundle.graphs))
    found = [localizer.localize(scan) for scan in scans]
    names = ("points", "confidence", "coarse_points")
    arrays = {name: np.stack([getattr(one, name) for one in found]) for name in names}
    np.savez(setting.work / "reference.npz", **arrays)  # type: ignore[arg-type]
    yield row("onnxruntime fp32 on the CPU", MEASURED, scans=len(scans),
              latency=latency(lambda: localizer.localize(scans[0]), 5, 1))  # fmt: skip


def _expected(setting: Setting) -> list[Localization]:
    """What :func:`reference` found, without key slices.

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


def running(setting: Setting, precision: str, layout: str) -> Iterator[Row]:
    """Plans of a precision and layout: deviation in mm, CUDA graphs, allocations, latency."""
    bundle, scans = setting.bundle(), setting.read()
    missing = True
    for flavour in FLAVOURS:
        found = find_build(bundle, flavour, precision, layout)
        if found is None:
            continue
        missing = False
        try:
            yield from _run_build(setting, bundle, scans, found)
        except EngineError as error:
            yield row(f"{flavour} runs", FAILED if error.code in BROKEN else NOT_RUN, str(error))
    if missing:
        yield row("plans", NOT_RUN, f"there is no build of TensorRT at {precision} with layout {layout}")


def _run_build(setting: Setting, bundle: Bundle, scans: list[Scan], found: Build) -> Iterator[Row]:
    name = found.engine
    start = time.perf_counter()
    plain = open_plans(bundle, found, cuda_graphs=0)
    seconds = round(time.perf_counter() - start, 2)
    localizer = localizer_of(bundle, plain, found.layout)
    localized = [localizer.localize(scan) for scan in scans]
    yield row(f"{name} loads and runs", OK, load_seconds=seconds)
    yield compared(setting, bundle, localized, found.precision, f"{name} against onnxruntime fp32")
    yield row(f"{name} latency", MEASURED, latency=latency(lambda: localizer.localize(scans[0])))
    if found.layout == NETS:
        inputs = net_inputs(bundle, scans[0])
        yield row(f"{name} latency of the nets alone", MEASURED, latency=latency(lambda: _all_nets(plain, inputs)))
    plain.close()
    replaying = open_plans(bundle, found)
    again = localizer_of(bundle, replaying, found.layout)
    for _ in range(3):
        replayed = again.localize(scans[0])
    apart = float(np.linalg.norm(replayed.points - localized[0].points, axis=-1).max())
    if replaying.captured and not replaying.notes:
        yield verdict(f"{name} CUDA graphs against the plain run", apart <= SAME_MM,
                      "they differ", max_mm=apart, graphs=replaying.captured)  # fmt: skip
        yield row(f"{name} latency with CUDA graphs", MEASURED, latency=latency(lambda: again.localize(scans[0])))
    else:
        differs = any("differs" in note for note in replaying.notes)
        yield row(f"{name} CUDA graphs against the plain run", FAILED if differs else NOT_RUN,
                  " ".join(replaying.notes) or "nothing was captured", max_mm=apart)  # fmt: skip
    yield _steady(replaying, lambda: again.localize(scans[0]), name)
    replaying.close()


def _steady(engine: TensorRTEngine, call: Callable[[], Any], name: str) -> Row:
    """Whether an engine that is warm still allocates."""
    call()
    before, free = engine.allocations, _free_memory()
    for _ in range(STEADY_RUNS):
        call()
    more = engine.allocations - before
    return verdict(f"{name} allocates nothing once warm", more == 0, "it does", runs=STEADY_RUNS, allocations=more,
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


def localizer_of(bundle: Bundle, engine: Engine, layout: str) -> Localizer | ResidentLocalizer:
    """The localizer of a layout."""
    if layout == NETS:
        return Localizer(bundle.task, bundle.mean_shape, engine)
    return ResidentLocalizer(bundle.task, engine, layout)


def net_inputs(bundle: Bundle, scan: Scan) -> dict[str, Any]:
    """The nets' inputs of one scan: graph name to ``[1, C, Z, Y, X]``, float32."""
    from trt_landmarks.export.parity import real_inputs

    return dict(real_inputs(Localizer(bundle.task, bundle.mean_shape, OnnxRuntimeEngine(bundle.graphs)), [scan]))


def _all_nets(engine: Engine, inputs: dict[str, Any]) -> None:
    for graph, array in inputs.items():
        engine.run(graph, array)


def nets_engine(bundle: Bundle) -> TensorRTEngine:
    """The first engine that runs the nets' own plans.

    Raises:
        EngineError: if there is none.
    """
    reasons = []
    for flavour in FLAVOURS:
        for precision in ("fp32", "fp16"):
            found = find_build(bundle, flavour, precision)
            if found is not None:
                try:
                    return open_plans(bundle, found)
                except EngineError as error:
                    reasons.append(error.message)
    raise EngineError(f"No plan of the nets runs here. {' '.join(reasons)}".strip())


def _others(name: str) -> Callable[[Setting], Iterator[Row]]:
    """A section of :mod:`benchmarks.gpu_check.others`, which is imported when it runs."""

    def run(setting: Setting) -> Iterator[Row]:
        from benchmarks.gpu_check import others

        yield from getattr(others, name)(setting)

    return run


#: Precisions and layouts, the most telling first.
COMBINATIONS = tuple((p, layout) for p in ("fp32", "fp16", "int8") for layout in (NETS, "one", "pair"))

SECTIONS = {
    "machine": Section(machine, 60, ("machine",), needs_gpu=False),
    "loading": Section(loading, 90, ("loading",), needs_gpu=False),
    "building": Section(building, 150, ("plans",)),
    "reference": Section(reference, 60, ("onnxruntime fp32 on the CPU",)),
    **{
        f"running {precision} {layout}": Section(
            partial(running, precision=precision, layout=layout), 45,
            ("against onnxruntime fp32", "latency", "CUDA graphs against the plain run", "allocates nothing once warm"),
        )
        for precision, layout in COMBINATIONS
    },
    "race": Section(_others("race"), 60, ("hand-over with the wait", "hand-over without the wait")),
    "dali": Section(_others("dali"), 60, ("GPU against CPU", "hand-over to TensorRT")),
    "onnxruntime-cuda": Section(_others("onnxruntime_cuda"), 45, ("against onnxruntime fp32", "latency")),
    "torch": Section(_others("torch_nets"), 60, ("eager fp32", "eager fp16")),
}  # fmt: skip
