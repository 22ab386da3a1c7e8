"""What can be done here: which engines can be built and run, which backends of DALI can be used."""

from __future__ import annotations

from dataclasses import dataclass

from trt_landmarks.doctor.children import Answer
from trt_landmarks.doctor.facts import DEFAULT_JOB, Facts
from trt_landmarks.doctor.packages import PACKAGES, major
from trt_landmarks.engines.tensorrt.flavours import FLAVOURS

#: Precisions of a build that ModelOpt makes the graphs of.
REWRITTEN = ("fp16", "int8")


@dataclass(frozen=True)
class Can:
    """Whether something can be done here.

    Attributes:
        possible: True, False, or None if it is not known.
        reason: why, or under which condition.
    """

    possible: bool | None
    reason: str = ""


@dataclass(frozen=True)
class Ability:
    """What can be done with an engine.

    Attributes:
        engine: ``onnxruntime``, ``tensorrt`` or ``tensorrt-rtx``.
        precision: ``fp32``, ``fp16`` or ``int8``; empty for TensorRT, which takes the graphs' own.
        build: whether ``trtlm build`` can make it.
        run: whether ``trtlm infer`` can use it.
    """

    engine: str
    precision: str
    build: Can
    run: Can


def engine_abilities(facts: Facts) -> list[Ability]:
    """One entry per engine, for ONNX Runtime one per precision."""
    graphs = _rewritten_graphs(facts)
    onnxruntime = _works(facts, "onnxruntime")
    known = facts.answer("builds").facts.get("precisions", ("fp32", *REWRITTEN))
    found = [Ability("onnxruntime", "fp32", Can(True, "nothing to build"), default_job(facts))]
    for precision in REWRITTEN:
        absent = Can(False, "not part of this version")
        run = Can(onnxruntime.possible, onnxruntime.reason or "once built, not faster than fp32 on the CPU")
        build = onnxruntime if onnxruntime.possible is False else graphs
        found.append(Ability("onnxruntime", precision, *((build, run) if precision in known else (absent, absent))))
    for flavour in FLAVOURS:
        found.append(Ability(flavour, "", _build_tensorrt(facts, flavour, graphs), _run_tensorrt(facts, flavour)))
    return found


def default_job(facts: Facts) -> Can:
    """Whether inference on the CPU works: the default model was opened with all that ``trtlm infer`` imports."""
    for step in DEFAULT_JOB:
        answer = facts.answer(step)
        if not answer.loaded:
            what = "trtlm infer cannot begin" if step == "model" else step
            return Can(False, f"{what}: {answer.problem or 'not installed'}")
    return Can(True)


def dali_abilities(facts: Facts) -> dict[str, Can]:
    """Backend of DALI (``cpu``, ``gpu``) to whether it can be used."""
    cpu = _works(facts, "dali")
    gpu = cpu if cpu.possible is False else _gpu(facts, "dali")
    return {"cpu": cpu, "gpu": gpu if gpu.possible is False or cpu.possible else cpu}


def _rewritten_graphs(facts: Facts) -> Can:
    """Whether FP16 and INT8 graphs can be made."""
    lacking = facts.lacking.get("calibrate")
    if lacking is None:  # the toolkit's own metadata cannot be read
        lacking = [name for name in ("modelopt", "onnx", "torch") if not facts.distributions(name)]
    if lacking:
        return Can(False, f"needs {_some(lacking)}: pip install 'trt-landmarks[calibrate]'")
    for name in ("onnx", "modelopt", "torch"):
        can = _works(facts, name)
        if can.possible is False:
            return can
    loaded = facts.answer("modelopt").loaded and facts.answer("torch").loaded
    return Can(True, "" if loaded else "modelopt and torch found, not loaded")


def _build_tensorrt(facts: Facts, flavour: str, graphs: Can) -> Can:
    works = _works(facts, flavour)
    if not works.possible:
        return works
    if flavour == "tensorrt":
        gpu = _gpu(facts, flavour)
        if not gpu.possible:
            return gpu
    return Can(True, "" if graphs.possible else f"fp32; fp16 and int8: {graphs.reason}")


def _run_tensorrt(facts: Facts, flavour: str) -> Can:
    works = _works(facts, flavour)
    if works.possible is False:
        return works
    gpu = _gpu(facts, flavour)
    if gpu.possible is False:
        return gpu
    pycuda = _works(facts, "pycuda")
    if not (works.possible and pycuda.possible):
        return pycuda if pycuda.possible is False or works.possible else works
    targets = facts.answer(flavour).facts.get("targets", ())
    capability = facts.gpus[0].compute_capability
    if flavour == "tensorrt-rtx" and targets and capability not in targets:
        return Can(None, f"it builds for {', '.join(targets)}; this GPU has {capability}")
    return Can(True, f"on {facts.gpus[0].name}")


def _works(facts: Facts, name: str) -> Can:
    """Whether a package can be loaded; None if it was not tried, or not long enough."""
    answer: Answer = facts.answer(name)
    package = next(package for package in PACKAGES if package.name == name)
    if answer.state == "missing" and not facts.distributions(name):
        extra = f"[{package.extra}]" if package.extra else ""
        return Can(False, f"{name} is not installed: pip install 'trt-landmarks{extra}'")
    if answer.state in ("late", "found"):
        return Can(None, f"{name} is installed; {answer.problem or 'not loaded'} (--deep waits for it)")
    return Can(True) if answer.loaded else Can(False, f"{name}: {answer.problem}")


def _gpu(facts: Facts, name: str) -> Can:
    """Whether there is a GPU that a package can use."""
    if facts.no_gpu is not None:
        return Can(False, facts.no_gpu.reason)
    supported = major(facts.driver_cuda)
    for distribution in facts.distributions(name):
        wanted = facts.built_for().get(distribution, 0)
        if supported is not None and wanted > supported:
            return Can(False, f"{distribution} is built for CUDA {wanted}; the driver supports {facts.driver_cuda}")
    return Can(True, f"on {facts.gpus[0].name}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
