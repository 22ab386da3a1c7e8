"""Which engine runs a model here, and why: an explicit choice holds or fails, only ``auto`` falls back."""

from __future__ import annotations

from trt_landmarks.builds import ENGINES, PRECISIONS, Build, list_builds
from trt_landmarks.bundle import Bundle
from trt_landmarks.engines.base import Engine
from trt_landmarks.engines.flavours import FLAVOURS
from trt_landmarks.engines.gpu import first_gpu
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.plan_check import Plan
from trt_landmarks.errors import BundleError, EngineError
from trt_landmarks.export.parity import input_shapes


def open_engine(
    bundle: Bundle, engine: str = "auto", precision: str | None = None, threads: int | None = None
) -> tuple[Engine, str]:
    """Open an engine for a model.

    Args:
        bundle: the model.
        engine: ``onnxruntime``, ``tensorrt``, ``tensorrt-rtx``, or ``auto``: a build for a GPU that loads here,
            else ONNX Runtime.
        precision: ``fp32``, ``fp16`` or ``int8``; None takes the best build for a GPU, and FP32 on the CPU, where lower
            precision is not faster.
        threads: threads of ONNX Runtime; None takes all cores.

    Returns:
        The engine, and a line for people: which it is and why.

    Raises:
        EngineError: if an explicit choice cannot be had, with the reason and what to do.
    """
    if engine != "auto" and engine not in ENGINES:
        raise EngineError(f"{engine}: no such engine.", f"Engines: auto, {', '.join(ENGINES)}.")
    if precision is not None and precision not in PRECISIONS:
        raise EngineError(f"{precision}: no such precision.", f"Precisions: {', '.join(PRECISIONS)}.")
    reasons: list[str] = []
    builds = list_builds(bundle, reasons.append)
    if engine in FLAVOURS:
        return _open_tensorrt(bundle, builds, engine, precision, reasons)
    if engine == "auto":
        present = {build.engine for build in builds if precision in (None, build.precision)}
        for name in FLAVOURS:
            if name in present:
                try:
                    return _open_tensorrt(bundle, builds, name, precision, reasons)
                except (EngineError, BundleError) as error:
                    reasons.append(error.message)
        if not present & set(FLAVOURS):
            reasons.append(f"This model has no TensorRT build{f' at {precision}' if precision else ''}.")
    return _open_onnxruntime(bundle, builds, precision, threads, reasons)


def _open_tensorrt(
    bundle: Bundle, builds: list[Build], name: str, precision: str | None, reasons: list[str]
) -> tuple[Engine, str]:
    wanted = (precision,) if precision else ("int8", "fp16", "fp32")
    fitting = sorted(
        (build for build in builds if build.engine == name and build.precision in wanted),
        key=lambda build: wanted.index(build.precision),
    )
    if not fitting:
        raise _no_build(name, precision, reasons)
    from trt_landmarks.engines.tensorrt import TensorRTEngine

    build = fitting[0]
    build.verify()
    shapes = input_shapes(bundle.task)
    plans = {
        graph: Plan(path, build.record["recipe"]["sources"][graph], (1, *shapes[graph]))
        for graph, path in build.files.items()
    }
    opened = TensorRTEngine(plans, name, build.precision, build.record["command"])
    gpu = first_gpu()
    return opened, f"{name} {build.precision} on {gpu.name if gpu else 'GPU'}, the build that was made for it"


def _open_onnxruntime(
    bundle: Bundle, builds: list[Build], precision: str | None, threads: int | None, reasons: list[str]
) -> tuple[Engine, str]:
    because = f" ({' '.join(reasons)})" if reasons else ""
    if precision in (None, "fp32"):
        bundle.verify(list(bundle.manifest["graphs"].values()))
        opened = OnnxRuntimeEngine(bundle.graphs, "fp32", threads)
        why = "" if precision else "; lower precision would not be faster on the CPU"
        return opened, f"onnxruntime fp32 on the CPU{why}{because}"
    for build in builds:
        if (build.engine, build.precision) == ("onnxruntime", precision):
            build.verify()
            opened = OnnxRuntimeEngine(build.files, build.precision, threads)
            return opened, f"onnxruntime {precision} emulated on the CPU, for checking: it is slower than FP32{because}"
    raise _no_build("onnxruntime", precision, reasons)


def _no_build(name: str, precision: str | None, reasons: list[str]) -> EngineError:
    return EngineError(
        f"This model has no {name} build{f' at {precision}' if precision else ''}."
        + (f" {' '.join(reasons)}" if reasons else ""),
        f"Make it with: trtlm build --precision {precision or 'fp16'} --engine {name}"
        + (" --calib SCANS." if precision == "int8" else "."),
        code="build_missing",
    )
