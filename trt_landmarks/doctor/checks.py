"""What the facts mean: known conflicts, and which engines and backends can be built and run here.

Each conflict is a function of the facts in :data:`CHECKS`; to add one, write it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trt_landmarks.doctor.facts import DEFAULT_JOB, Facts
from trt_landmarks.doctor.packages import OWN, PACKAGES, built_for, major
from trt_landmarks.doctor.probe import plain
from trt_landmarks.engines.tensorrt.flavours import FLAVOURS

#: First driver (Linux) that supports a major version of CUDA (NVIDIA's CUDA release notes).
DRIVERS = {11: "450.80", 12: "525.60", 13: "580"}
#: Smallest compute capability of CUDA 13, which dropped Maxwell, Pascal and Volta.
CUDA13_SMALLEST = (7, 5)


@dataclass(frozen=True)
class Conflict:
    """Something that does not fit together.

    Attributes:
        code: stable name, e.g. ``shared-folder``.
        severity: ``problem`` (something does not work) or ``note`` (worth knowing).
        message: what is wrong.
        remedy: what to do, a command where there is one.
    """

    code: str
    severity: str
    message: str
    remedy: str


def find_conflicts(facts: Facts) -> list[Conflict]:
    """All known conflicts in the facts: problems first."""
    found: list[Conflict] = []
    for check in CHECKS:
        try:
            found += check(facts)
        except Exception as error:  # facts may be of a kind nobody has seen yet
            name = check.__name__.strip("_").replace("_", "-")
            found.append(Conflict(name, "note", f"This check could not be made: {plain(error)}.", "Please report it."))
    return sorted(found, key=lambda conflict: conflict.severity != "problem")


def _problem(code: str, message: str, remedy: str) -> Conflict:
    return Conflict(code, "problem", message, remedy)


def _note(code: str, message: str, remedy: str) -> Conflict:
    return Conflict(code, "note", message, remedy)


def _shared_folder(facts: Facts) -> Iterator[Conflict]:
    """Two distributions in one folder: each overwrites the other's files, and removing one breaks the other."""
    for package in PACKAGES:
        names = [name for name in package.distributions if name in facts.installed]
        if len(names) > 1:
            keep = f"'{OWN}{f'[{package.extra}]' if package.extra else ''}'"
            yield _problem(
                "shared-folder",
                f"{' and '.join(names)} install into the same folder; the one installed last has overwritten files of "
                "the other.",
                f"pip uninstall -y {' '.join(names)} && pip install {keep}",
            )


def _files_missing(facts: Facts) -> Iterator[Conflict]:
    """Installed by the metadata, and yet not there: what is left after one of two in a shared folder was removed."""
    for package in PACKAGES:
        there, answer = facts.distributions(package.name), facts.answer(package.name)
        gone = answer.state == "missing" or (answer.state == "failed" and "has no attribute" in answer.problem)
        if there and gone and not _parts_missing(facts, package.name):
            name, version = next(iter(there.items()))
            yield _problem(
                "files-missing",
                f"{name} {version} is installed, but its files are missing or not its own ({answer.problem}).",
                f"pip install --force-reinstall --no-deps {name}=={version}",
            )


def _version_unfit(facts: Facts) -> Iterator[Conflict]:
    extras: dict[tuple[str, str, str], list[str]] = {}
    for need in facts.unmet:
        if need.requirer == OWN and need.found is not None:
            extras.setdefault((need.name, need.wanted, need.found), []).append(need.extra)
    for (name, wanted, found), where in extras.items():
        which = "this toolkit" if "" in where else f"its extra {', '.join(where)}"
        why = " (the one that ModelOpt works with)" if name.startswith("onnxruntime") else ""
        message = f"{name} {found} is not the version that {which} is made for: {wanted}{why}."
        yield _problem("version-unfit", message, f"pip install '{name}{wanted}'")


def _base_missing(facts: Facts) -> Iterator[Conflict]:
    names = [need.name for need in facts.unmet if need.requirer == OWN and need.found is None]
    if names:
        message = f"Not installed, but needed by this toolkit: {', '.join(names)}."
        yield _problem("base-missing", message, f"pip install {OWN}")


def _dependency_unmet(facts: Facts) -> Iterator[Conflict]:
    for need in facts.unmet:
        if need.requirer == OWN or need.name in [f"{need.requirer}-{part}" for part in PARTS]:
            continue
        found = "which is not installed" if need.found is None else f"but {need.found} is installed"
        yield _problem(
            "dependency-unmet",
            f"{need.requirer} requires {need.name}{need.wanted}, {found}.",
            f"pip install '{need.name}{need.wanted}'",
        )


#: What a TensorRT distribution only refers to: PyPI has no libraries of TensorRT proper.
PARTS = ("libs", "bindings")


def _parts_missing(facts: Facts, name: str) -> list[str]:
    """Libraries and bindings that a TensorRT distribution lacks, or has of another version."""
    there = facts.distributions(name)
    return [
        f"{need.name} {need.found or ''}".strip()
        for need in facts.unmet
        if need.requirer in there and need.name in [f"{need.requirer}-{part}" for part in PARTS]
    ]


def _tensorrt_parts(facts: Facts) -> Iterator[Conflict]:
    for name, (module, extra) in FLAVOURS.items():
        parts = _parts_missing(facts, name)
        if not parts:
            continue
        main, version = next(iter(facts.distributions(name).items()))
        others, are = " and ".join(parts), "is" if len(parts) == 1 else "are"
        if all(" " in part for part in parts):
            yield _problem(
                "tensorrt-parts",
                f"{main} {version} is installed with {others}: the three belong to one version.",
                f"pip install --upgrade {main}=={version} {main}-libs=={version} {main}-bindings=={version}",
            )
        else:
            yield _problem(
                "tensorrt-stub",
                f"{main} {version} is only a stub here: {others} {are} missing, and {module} does not load without.",
                f"pip install --force-reinstall 'trt-landmarks[{extra}]' where NVIDIA's own package index can be "
                "reached" + ("; or take TensorRT for RTX: pip install 'trt-landmarks[rtx]'" * (extra != "rtx")),
            )


def _driver_refuses(facts: Facts) -> Iterator[Conflict]:
    none = facts.no_gpu
    if none is None or not facts.answer("driver").loaded:
        return
    if none.remedy:
        seen = f" The kernel driver lists {facts.cards} GPU{'s' * (facts.cards > 1)}." if facts.cards else ""
        shown = facts.settings.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if shown is None else f" CUDA_VISIBLE_DEVICES is set to {shown!r}."
        report = _problem if facts.kernel_driver is not None else _note  # without it there may well be no GPU
        yield report("driver-refuses", f"{_sentence(none.reason)}{seen}{hidden}", none.remedy)
    elif facts.kernel_driver is not None and not none.driver:
        yield _problem(
            "driver-library-missing",
            f"The kernel has the NVIDIA driver {facts.kernel_driver}, but {none.reason}.",
            "In a container: start it with GPU access (docker run --gpus all). Otherwise install the driver's library "
            "of the same version.",
        )


def _driver_old(facts: Facts) -> Iterator[Conflict]:
    """A driver runs programs of its own major version of CUDA and of older ones."""
    supported = major(facts.driver_cuda)
    for name, wanted in facts.built_for().items():
        if supported is not None and wanted > supported:
            other = built_for(name, supported)
            yield _problem(
                "driver-old",
                f"{name} is built for CUDA {wanted}; the driver supports CUDA {facts.driver_cuda}.",
                f"Update the NVIDIA driver to {DRIVERS.get(wanted, 'a newer one')} or later"
                + (f", or: pip uninstall -y {name} && pip install {other}" if other else "."),
            )


def _gpu_old(facts: Facts) -> Iterator[Conflict]:
    names = [name for name, wanted in facts.built_for().items() if wanted >= 13]
    for gpu in facts.gpus:
        if names and tuple(map(int, gpu.compute_capability.split("."))) < CUDA13_SMALLEST:
            yield _problem(
                "gpu-old",
                f"{gpu.name} has compute capability {gpu.compute_capability}; {', '.join(names)} "
                f"{'is' if len(names) == 1 else 'are'} built for CUDA 13, which begins at 7.5.",
                "Use a newer GPU, or packages that are built for CUDA 12.",
            )


def _onnxruntime_cuda(facts: Facts) -> Iterator[Conflict]:
    answer = facts.answers.get("onnxruntime-cuda")
    if answer is not None and "cannot open shared object file" in answer.problem:
        library = answer.problem.split(":")[0]
        wanted = facts.installed.get("onnxruntime-gpu", "")
        yield _problem(
            "onnxruntime-cuda-libraries",
            f"onnxruntime-gpu {wanted} lists a CUDA provider that cannot be used: {library} is missing. ONNX Runtime "
            "would take the CPU without an error.",
            f"pip install 'onnxruntime-gpu[cuda,cudnn]=={wanted}'",
        )


def _pycuda(facts: Facts) -> Iterator[Conflict]:
    answer = facts.answer("pycuda")
    if "pycuda" not in facts.installed or answer.state != "failed":
        return
    again = "pip install --force-reinstall --no-cache-dir --no-deps pycuda"
    if facts.no_gpu is not None and "libcuda.so" in answer.problem:
        yield _problem(
            "pycuda-driver",
            f"PyCUDA is installed, but it cannot be loaded without an NVIDIA driver ({answer.problem}).",
            "Install the NVIDIA driver; without a GPU: pip uninstall -y pycuda",
        )
    elif "undefined symbol: cu" in answer.problem:
        yield _problem(
            "pycuda-headers",
            f"PyCUDA was compiled with a CUDA toolkit newer than the driver ({answer.problem}).",
            f"Update the NVIDIA driver, or compile PyCUDA again with the toolkit of CUDA "
            f"{facts.driver_cuda or 'that the driver supports'}: {again}",
        )


def _torch(facts: Facts) -> Iterator[Conflict]:
    if "torch" in facts.installed and facts.torch_cuda == "" and facts.gpus:
        yield _note(
            "torch-cpu-only",
            "torch is a CPU build: trtlm train does not use the GPU.",
            "To train on the GPU, install a build of torch for the driver's CUDA.",
        )


def _cache(facts: Facts) -> Iterator[Conflict]:
    answer = facts.answer("cache")
    if answer.loaded and not answer.facts["writable"]:
        yield _problem(
            "cache-unwritable",
            f"The cache folder {answer.facts['folder']} cannot be written: shipped models cannot be built.",
            "export TRTLM_CACHE=/a/folder/that/can/be/written",
        )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


CHECKS: tuple[Callable[[Facts], Iterator[Conflict]], ...] = (
    _base_missing,
    _version_unfit,
    _dependency_unmet,
    _shared_folder,
    _files_missing,
    _tensorrt_parts,
    _driver_refuses,
    _driver_old,
    _gpu_old,
    _onnxruntime_cuda,
    _pycuda,
    _torch,
    _cache,
)


# --- abilities ---------------------------------------------------------------------------------------------

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
    answer = facts.answer(name)
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
