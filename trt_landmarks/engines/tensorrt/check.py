"""May this plan run here?  Everything is checked before TensorRT sees a plan's bytes, which are native code.

The rules are NVIDIA's ("Engine Compatibility" in the guides to TensorRT 11.4 and TensorRT for RTX 1.7):

=============  =======================================  ==========================================================
..             TensorRT                                 TensorRT for RTX
=============  =======================================  ==========================================================
version        the one that built it; a                 the one that built it
               version-compatible plan also later
               ones of the same major version, and
               one of 10 also those of 11
GPU            the model it was built on; with          those it was built for; a portable plan all from 8.0 on
               hardware compatibility all of its        that TensorRT accepts (documented are 8.0 or 8.6, 8.9,
               compute capability, or all from 8.0 on   12.0 and later; 9.0 to 11.0 are not mentioned)
platform       operating system and processor it was    Linux and Windows on x86-64
               built on
=============  =======================================  ==========================================================
"""

from __future__ import annotations

import hashlib
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from trt_landmarks.engines.tensorrt.flavours import RTX, TENSORRT
from trt_landmarks.engines.tensorrt.gpu import Gpu
from trt_landmarks.engines.tensorrt.record import PlanRecord
from trt_landmarks.engines.tensorrt.settings import capability
from trt_landmarks.errors import EngineError

#: From where on portable plans, and plans with hardware compatibility ``ampere_plus``, run.
_AMPERE = (8, 0)


@dataclass(frozen=True)
class Plan:
    """A plan file and what is asked of it.

    Attributes:
        path: the file.
        source_sha256: SHA-256 of the ONNX graph it is to compute.
    """

    path: Path
    source_sha256: str


@dataclass(frozen=True)
class Machine:
    """What runs plans here.

    Attributes:
        version: of the flavour of TensorRT that is asked for.
        gpu: the first GPU; None if there is none (what it would have to be is then not checked).
        platform: operating system and processor, as :func:`this_platform` writes them.
    """

    version: str
    gpu: Gpu | None
    platform: str


def this_platform() -> str:
    """Operating system and processor: ``Linux x86_64``."""
    return f"{platform.system()} {platform.machine()}"


def read_plan(plan: Plan, graph: str, flavour: str, precision: str, command: str) -> tuple[PlanRecord, bytes]:
    """Read a plan and its record, and check all of it that does not depend on the machine.

    Args:
        plan: the plan and what is asked of it.
        graph: the graph it is to be of.
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        command: what builds the plan again, told if its record cannot.

    Returns:
        The record, and the bytes that have the recorded SHA-256.

    Raises:
        EngineError: naming the file, what is recorded and what was asked for, and the command to build it again.
    """
    record = PlanRecord.read(plan.path, command)
    try:
        blob = plan.path.read_bytes()
    except OSError as error:
        raise EngineError(f"{plan.path}: cannot be read: {error.strerror}.", _again(record)) from None
    found = hashlib.sha256(blob).hexdigest()
    if found != record.plan_sha256:
        raise EngineError(
            f"{plan.path}: is not the file its record describes (SHA-256 differs: recorded {record.plan_sha256[:12]}, "
            f"found {found[:12]}); it was not loaded.",
            _again(record),
            code="build_tampered",
        )
    asked = {
        "graph": (record.graph, graph),
        "precision": (record.precision, precision),
        "flavour": (record.flavour, flavour),
        "SHA-256 of the ONNX graph": (record.source_sha256[:12], plan.source_sha256[:12]),
    }
    differences = [f"{what} recorded {has}, expected {wants}" for what, (has, wants) in asked.items() if has != wants]
    _refuse(record, plan.path, differences)
    return record, blob


def check_machine(record: PlanRecord, path: Path, here: Machine) -> None:
    """Check that a plan may run on a machine.

    Args:
        record: the plan's record.
        path: the plan, for the message.
        here: the machine.

    Raises:
        EngineError: with everything that differs, recorded and here, and the command to build the plan again.
    """
    differences = _version_differences(record, here.version)
    if record.flavour == TENSORRT and record.target["platform"] != here.platform:
        differences.append(f"it was built on {record.target['platform']}, and this is {here.platform}")
    if here.gpu is not None:
        differences += _gpu_differences(record, here.gpu)
    _refuse(record, path, differences)


def _version_differences(record: PlanRecord, here: str) -> list[str]:
    compatible = record.settings.version_compatible
    if record.version == here or (compatible and _runs_on(record.version, here)):
        return []
    text = f"it was built with {record.flavour} {record.version}, and {here} is installed here"
    return [text + (", which runs no version-compatible plan of that one" if compatible else "")]


def _runs_on(built: str, here: str) -> bool:
    """Whether a version-compatible plan of TensorRT ``built`` runs with TensorRT ``here``."""
    old, new = ([int(part) for part in re.findall(r"\d+", text)[:4]] for text in (built, here))
    return bool(old and new) and new >= old and (old[0] == new[0] or (old[0], new[0]) == (10, 11))


def _gpu_differences(record: PlanRecord, gpu: Gpu) -> list[str]:
    here = gpu.compute_capability
    built_for = record.target["compute_capability"]
    if record.flavour == RTX:
        listed = record.settings.compute_capabilities
        fits = here in listed if listed else capability(here) >= _AMPERE
    elif record.settings.hardware_compatibility == "ampere_plus":
        fits, built_for = capability(here) >= _AMPERE, "8.0 and later"
    else:
        fits = here == built_for
    if not fits:
        return [f"it was built for compute capability {built_for}, and this GPU ({gpu.name}) has {here}"]
    alone = record.flavour == TENSORRT and record.settings.hardware_compatibility == "none"
    if alone and record.target["gpu"] != gpu.name:
        return [f"it was built for the GPU {record.target['gpu']} alone, and this is {gpu.name}"]
    return []


def _refuse(record: PlanRecord, path: Path, differences: list[str]) -> None:
    if differences:
        raise EngineError(f"{path}: was not loaded: {'; '.join(differences)}.", _again(record), code="build_foreign")


def _again(record: PlanRecord) -> str:
    return f"Build it again: {record.command}."
