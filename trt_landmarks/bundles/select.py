"""Which engine runs a model here, and why: an explicit choice holds or fails, only ``auto`` falls back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trt_landmarks.bundles.builds import (
    ENGINE_PRECISIONS,
    ENGINES,
    OPENVINO,
    Build,
    deviation_summary,
    list_builds,
    own_graphs,
)
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.engines.base import Engine
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.openvino import OpenVinoEngine, check_bf16, load_openvino
from trt_landmarks.engines.tensorrt.check import Plan
from trt_landmarks.engines.tensorrt.flavours import FLAVOURS
from trt_landmarks.errors import BundleError, EngineError
from trt_landmarks.system import processor_bf16
from trt_landmarks.task.graphs import LAYOUTS, NETS, profiles

if TYPE_CHECKING:
    from trt_landmarks.engines.tensorrt.engine import TensorRTEngine


def open_engine(
    bundle: Bundle,
    engine: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    layout: str = NETS,
    device: int = 0,
    workers: int = 1,
) -> tuple[Engine, str]:
    """Open an engine for a model.

    Args:
        bundle: the model.
        engine: ``onnxruntime``, ``openvino``, ``tensorrt``, ``tensorrt-rtx``, or ``auto``: a build for a GPU that loads
            here; else OpenVINO, if it is installed; else ONNX Runtime.
        precision: ``fp32``, ``fp16``, ``int8`` or ``bf16``; None takes the best build for a GPU. On the CPU it takes
            bfloat16 if OpenVINO passed its accuracy gate on this kind of processor, else FP32: FP16 and INT8 are not
            faster there.
        threads: threads of each worker on the CPU; None takes all cores.
        layout: what its graphs are (:mod:`trt_landmarks.task.layouts`).
        device: number of the GPU, for engines that run on one.
        workers: threads that will use the engine at the same time, on the CPU.

    Returns:
        The engine, and a line for people: which it is and why.

    Raises:
        EngineError: if an explicit choice cannot be had, with the reason and what to do.
    """
    if engine != "auto" and engine not in ENGINES:
        raise EngineError(f"{engine}: no such engine.", f"Engines: auto, {', '.join(ENGINES)}.")
    known = list(dict.fromkeys(p for name in ENGINES if engine in ("auto", name) for p in ENGINE_PRECISIONS[name]))
    if precision is not None and precision not in known:
        problem = f"{precision}: no such precision" + ("" if engine == "auto" else f" for engine {engine}")
        raise EngineError(f"{problem}.", f"Precisions: {', '.join(known)}.")
    if layout not in (NETS, *LAYOUTS):
        raise EngineError(f"{layout}: no such layout.", f"Layouts: {', '.join((NETS, *LAYOUTS))}.")
    reasons: list[str] = []
    builds = [build for build in list_builds(bundle, reasons.append) if build.layout == layout]
    wanted = _Wanted(precision, layout)
    if engine in FLAVOURS:
        return _open_tensorrt(bundle, builds, engine, wanted, reasons, device)
    if engine == OPENVINO:
        return _open_openvino(bundle, builds, wanted, threads, workers, reasons)
    if engine == "auto":
        present = {build.engine for build in builds if precision in (None, build.precision)}
        for name in FLAVOURS:
            if name in present:
                try:
                    return _open_tensorrt(bundle, builds, name, wanted, reasons, device)
                except (EngineError, BundleError) as error:
                    reasons.append(error.message)
        if not present & set(FLAVOURS):
            reasons.append(f"This model has no TensorRT build{wanted}.")
        if precision == "bf16":
            return _open_openvino(bundle, builds, wanted, threads, workers, reasons)
        if layout == NETS and precision in (None, "fp32"):
            try:
                best = wanted if precision else _Wanted(_best_on_openvino(builds, reasons), layout)
                return _open_openvino(bundle, builds, best, threads, workers, reasons)
            except EngineError as error:
                reasons.append(error.message)
    return _open_onnxruntime(bundle, builds, wanted, threads, reasons)


class _Wanted(NamedTuple):
    """What a build must be."""

    precision: str | None
    layout: str

    def __str__(self) -> str:
        at = f" at {self.precision}" if self.precision else ""
        return at + ("" if self.layout == NETS else f" with layout {self.layout}")


def _open_tensorrt(
    bundle: Bundle, builds: list[Build], name: str, wanted: _Wanted, reasons: list[str], device: int
) -> tuple[Engine, str]:
    precisions = (wanted.precision,) if wanted.precision else ("fp16", "int8", "fp32")
    fitting = sorted(
        (build for build in builds if build.engine == name and build.precision in precisions),
        key=lambda build: precisions.index(build.precision),
    )
    if not fitting:
        raise _no_build(name, wanted, reasons)
    build = fitting[0]
    opened = open_plans(bundle, build, device=device)
    return opened, f"{name} {build.precision} on GPU {device}, the build that was made for it"


def open_plans(bundle: Bundle, build: Build, **options: int) -> TensorRTEngine:
    """Open a build of plans.

    Args:
        bundle: the model.
        build: for one of TensorRT's flavours.
        options: ``device`` and ``cuda_graphs`` of :class:`~trt_landmarks.engines.tensorrt.engine.TensorRTEngine`.

    Raises:
        EngineError: if a file was changed, or it cannot run here.
    """
    from trt_landmarks.engines.tensorrt.engine import TensorRTEngine

    build.verify()
    shapes = profiles(bundle.task, build.layout)
    plans = {
        graph: Plan(path, build.record["recipe"]["sources"][graph], next(iter(shapes[graph].values()))[0])
        for graph, path in build.files.items()
    }
    return TensorRTEngine(plans, build.engine, build.precision, build.record["command"], **options)


def _best_on_openvino(builds: list[Build], reasons: list[str]) -> str:
    """``bf16`` if its accuracy was measured on this kind of processor and found good enough, else ``fp32``.

    Raises:
        EngineError: if OpenVINO is not installed.
    """
    load_openvino()
    kind = processor_bf16()
    if kind is None:
        reasons.append("This processor has no bfloat16 instructions.")
        return "fp32"
    build = _bf16_build(builds)
    if build is None or build.record["recipe"]["target"]["processor"] != kind:
        reasons.append(f"The accuracy in bfloat16 was not measured on this kind of processor ({kind}).")
        return "fp32"
    if not build.record["gate"]["passed"]:
        reasons.append("The accuracy gate for bfloat16 was not passed.")
        return "fp32"
    return "bf16"


def _bf16_build(builds: list[Build]) -> Build | None:
    return next((build for build in builds if (build.engine, build.precision) == (OPENVINO, "bf16")), None)


def _open_openvino(
    bundle: Bundle, builds: list[Build], wanted: _Wanted, threads: int | None, workers: int, reasons: list[str]
) -> tuple[Engine, str]:
    if wanted.layout != NETS:
        raise EngineError(f"openvino does not run layout {wanted.layout}.", f"Use --layout {NETS}.")
    precision = wanted.precision or _best_on_openvino(builds, reasons)
    note = f"openvino {precision} on the CPU"
    if precision == "bf16":
        check_bf16()
        build = _bf16_build(builds)
        if build is None:
            raise _no_build(OPENVINO, wanted, reasons)
        gate, kind = build.record["gate"], build.record["recipe"]["target"]["processor"]
        verdict = "passed its accuracy gate" if gate["passed"] else "did NOT pass its accuracy gate, which was accepted"
        note += f", which {verdict} on a processor with {kind} ({deviation_summary(gate)})"
    elif reasons:
        note += f" ({' '.join(reasons)})"
    bundle.verify()
    digests = own_graphs(bundle).digests
    return OpenVinoEngine(bundle.graphs, precision, threads, workers, digests), note


def _open_onnxruntime(
    bundle: Bundle, builds: list[Build], wanted: _Wanted, threads: int | None, reasons: list[str]
) -> tuple[Engine, str]:
    because = f" ({' '.join(reasons)})" if reasons else ""
    precision = wanted.precision or "fp32"
    if precision != "fp32":
        raise EngineError(
            f"ONNX Runtime computes {precision} on the CPU only by emulation, which is slower than fp32{because}.",
            f"Take --precision fp32, or build the model for a GPU: trtlm build --precision {precision} --engine "
            f"tensorrt{' --calib SCANS' * (precision == 'int8')}.",
            code="precision_emulated",
        )
    how = "on the CPU"
    if not wanted.precision:
        how += "; FP16 and INT8 would not be faster on the CPU"
    if wanted.layout == NETS:
        bundle.verify()
        return OnnxRuntimeEngine(bundle.cpu_graphs, "fp32", threads), f"onnxruntime fp32 {how}{because}"
    for build in builds:
        if (build.engine, build.precision) == ("onnxruntime", "fp32"):
            build.verify()
            return OnnxRuntimeEngine(build.files, "fp32", threads), f"onnxruntime fp32 {how}{because}"
    raise _no_build("onnxruntime", wanted, reasons)


def _no_build(name: str, wanted: _Wanted, reasons: list[str]) -> EngineError:
    precision = wanted.precision or ("fp32" if name == "onnxruntime" else "fp16")
    return EngineError(
        f"This model has no {name} build{wanted}." + (f" {' '.join(reasons)}" if reasons else ""),
        f"Make it with: trtlm build --precision {precision} --engine {name}"
        + ("" if wanted.layout == NETS else f" --layout {wanted.layout}")
        + (" --calib SCANS." if precision in ("int8", "bf16") else "."),
        code="build_missing",
    )
