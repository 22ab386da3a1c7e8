"""Which engine runs a model here, and why: an explicit choice holds or fails, only ``auto`` falls back."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from trt_landmarks.engines.tensorrt.engine import TensorRTEngine


def open_engine(
    bundle: Bundle,
    engine: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
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
    reasons: list[str] = []
    builds = list_builds(bundle, reasons.append)
    if engine in FLAVOURS:
        return _open_tensorrt(bundle, builds, engine, precision, reasons, device)
    if engine == OPENVINO:
        return _open_openvino(bundle, builds, precision, threads, workers, reasons)
    if engine == "auto":
        present = {build.engine for build in builds if precision in (None, build.precision)}
        for name in FLAVOURS:
            if name in present:
                try:
                    return _open_tensorrt(bundle, builds, name, precision, reasons, device)
                except (EngineError, BundleError) as error:
                    reasons.append(error.message)
        if not present & set(FLAVOURS):
            reasons.append(f"This model has no TensorRT build{_at(precision)}.")
        if precision == "bf16":
            return _open_openvino(bundle, builds, precision, threads, workers, reasons)
        if precision in (None, "fp32"):
            try:
                best = precision or _best_on_openvino(builds, reasons)
                return _open_openvino(bundle, builds, best, threads, workers, reasons)
            except EngineError as error:
                reasons.append(error.message)
    return _open_onnxruntime(bundle, precision, threads, reasons)


def _at(precision: str | None) -> str:
    return f" at {precision}" if precision else ""


def _open_tensorrt(
    bundle: Bundle, builds: list[Build], name: str, precision: str | None, reasons: list[str], device: int
) -> tuple[Engine, str]:
    precisions = (precision,) if precision else ("fp16", "int8", "fp32")
    fitting = sorted(
        (build for build in builds if build.engine == name and build.precision in precisions),
        key=lambda build: precisions.index(build.precision),
    )
    if not fitting:
        raise _no_build(name, precision, reasons)
    build = fitting[0]
    opened = open_plans(bundle, build, device=device)
    return opened, f"{name} {build.precision} on GPU {device}, the build that was made for it"


def open_plans(bundle: Bundle, build: Build, **options: int) -> TensorRTEngine:
    """Open a build of a plan.

    Args:
        bundle: the model.
        build: for one of TensorRT's flavours.
        options: ``device`` and ``cuda_graphs`` of :class:`~trt_landmarks.engines.tensorrt.engine.TensorRTEngine`.

    Raises:
        EngineError: if a file was changed, or it cannot run here.
    """
    from trt_landmarks.engines.tensorrt.engine import TensorRTEngine

    build.verify()
    plans = {graph: Plan(path, build.record["source"]) for graph, path in build.files.items()}
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
    bundle: Bundle, builds: list[Build], precision: str | None, threads: int | None, workers: int, reasons: list[str]
) -> tuple[Engine, str]:
    precision = precision or _best_on_openvino(builds, reasons)
    note = f"openvino {precision} on the CPU"
    if precision == "bf16":
        check_bf16()
        build = _bf16_build(builds)
        if build is None:
            raise _no_build(OPENVINO, precision, reasons)
        gate, kind = build.record["gate"], build.record["recipe"]["target"]["processor"]
        verdict = "passed its accuracy gate" if gate["passed"] else "did NOT pass its accuracy gate, which was accepted"
        note += f", which {verdict} on a processor with {kind} ({deviation_summary(gate)})"
    elif reasons:
        note += f" ({' '.join(reasons)})"
    bundle.verify()
    digests = own_graphs(bundle).digests
    return OpenVinoEngine(bundle.graphs, precision, threads, workers, digests), note


def _open_onnxruntime(
    bundle: Bundle, precision: str | None, threads: int | None, reasons: list[str]
) -> tuple[Engine, str]:
    because = f" ({' '.join(reasons)})" if reasons else ""
    if precision not in (None, "fp32"):
        raise EngineError(
            f"ONNX Runtime computes {precision} on the CPU only by emulation, which is slower than fp32{because}.",
            f"Take --precision fp32, or build the model for a GPU: trtlm build --precision {precision} --engine "
            f"tensorrt{' --calib SCANS' * (precision == 'int8')}.",
            code="precision_emulated",
        )
    how = "on the CPU" if precision else "on the CPU; FP16 and INT8 would not be faster on the CPU"
    bundle.verify()
    return OnnxRuntimeEngine(bundle.cpu_graphs, "fp32", threads), f"onnxruntime fp32 {how}{because}"


def _no_build(name: str, precision: str | None, reasons: list[str]) -> EngineError:
    wanted = precision or "fp16"
    return EngineError(
        f"This model has no {name} build{_at(precision)}." + (f" {' '.join(reasons)}" if reasons else ""),
        f"Make it with: trtlm build --precision {wanted} --engine {name}"
        + (" --calib SCANS." if wanted in ("int8", "bf16") else "."),
        code="build_missing",
    )
