"""May a plan run here?  Every refusal names the file, what is recorded and what is here, and the rebuild command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engines.tensorrt.plans import COMMAND
from trt_landmarks.engines.tensorrt.check import Machine, Plan, check_machine, read_plan, this_platform
from trt_landmarks.engines.tensorrt.flavours import RTX, TENSORRT
from trt_landmarks.engines.tensorrt.gpu import Gpu
from trt_landmarks.engines.tensorrt.record import PlanRecord
from trt_landmarks.engines.tensorrt.settings import PlanSettings
from trt_landmarks.errors import EngineError
from trt_landmarks.task.graphs import COARSE

LINUX = "Linux x86_64"


def asked(plan: Path, **entries: Any) -> Plan:
    return replace(Plan(plan, PlanRecord.read(plan).source_sha256), **entries)


def message_of(error: EngineError) -> str:
    assert "coarse.plan" in error.message
    assert error.remedy == f"Build it again: {COMMAND}."
    return error.message


# --- the file -----------------------------------------------------------------------------------------------


def test_a_sound_plan_is_read(plan: Path) -> None:
    record, blob = read_plan(asked(plan), COARSE, RTX, "fp32", COMMAND)
    assert blob == plan.read_bytes() and record == PlanRecord.read(plan)


@pytest.mark.parametrize("damage", ["truncated", "empty", "longer", "flipped at 0", "flipped at -1", "flipped at 5000"])
def test_a_changed_plan_is_refused(plan: Path, damage: str) -> None:
    content = bytearray(plan.read_bytes())
    if damage.startswith("flipped"):
        content[int(damage.split()[-1])] ^= 1
    plan.write_bytes({"truncated": content[:-1], "empty": bytearray(), "longer": content + b"\0"}.get(damage, content))
    recorded = PlanRecord.read(plan).plan_sha256
    with pytest.raises(EngineError) as error:
        read_plan(asked(plan), COARSE, RTX, "fp32", COMMAND)
    text = message_of(error.value)
    assert "SHA-256 differs" in text and recorded[:12] in text and error.value.code == "build_tampered"


def test_a_missing_plan(plan: Path) -> None:
    wanted = asked(plan)
    plan.unlink()
    with pytest.raises(EngineError) as error:
        read_plan(wanted, COARSE, RTX, "fp32", COMMAND)
    assert "cannot be read: No such file" in message_of(error.value)


def test_without_a_record_the_command_comes_from_the_caller(plan: Path) -> None:
    wanted = asked(plan)
    plan.with_name("coarse.plan.json").unlink()
    with pytest.raises(EngineError, match=r"coarse\.plan\.json: no such record .*: trtlm build this\.$"):
        read_plan(wanted, COARSE, RTX, "fp32", "trtlm build this")


@pytest.mark.parametrize(
    ("entries", "call", "says"),
    [
        ({"source_sha256": "ab" * 32}, {}, "SHA-256 of the ONNX graph recorded .*, expected abababababab"),
        ({}, {"graph": "independent"}, "graph recorded coarse, expected independent"),
        ({}, {"precision": "int8"}, "precision recorded fp32, expected int8"),
        ({}, {"flavour": TENSORRT}, "flavour recorded tensorrt-rtx, expected tensorrt"),
    ],
)
def test_what_is_not_the_plan_asked_for(plan: Path, entries: dict[str, Any], call: dict[str, str], says: str) -> None:
    arguments = {"graph": COARSE, "flavour": RTX, "precision": "fp32", **call}
    with pytest.raises(EngineError, match=says) as error:
        read_plan(asked(plan, **entries), command=COMMAND, **arguments)
    assert "was not loaded" in message_of(error.value) and error.value.code == "build_foreign"


# --- the machine --------------------------------------------------------------------------------------------


def gpu(compute_capability: str, name: str = "NVIDIA A100") -> Gpu:
    return Gpu(name, compute_capability, "13.0")


@pytest.fixture
def portable(built_plan: Path) -> PlanRecord:
    """As TensorRT for RTX writes it."""
    return PlanRecord.read(built_plan)


@pytest.fixture
def bound(portable: PlanRecord) -> PlanRecord:
    """As TensorRT would write it on an A100."""
    return replace(
        portable,
        flavour=TENSORRT,
        version="11.2.0.5",
        target={"compute_capability": "8.0", "gpu": "NVIDIA A100", "driver": "13.0", "platform": LINUX},
    )


def differences(record: PlanRecord, **here: Any) -> str:
    """What is said against a plan; empty if it may run."""
    machine = replace(Machine(record.version, gpu("8.0"), LINUX), **here)
    try:
        check_machine(record, Path("engines/coarse.plan"), machine)
    except EngineError as error:
        assert error.code == "build_foreign"
        return message_of(error).removeprefix("engines/coarse.plan: was not loaded: ")
    return ""


@pytest.mark.parametrize("here", ["1.7.1", "1.7.1.117", "1.8.0.1", "1.6.0.9"])
def test_rtx_runs_plans_of_its_own_release_only(portable: PlanRecord, here: str) -> None:
    assert not differences(portable)
    assert differences(portable, version=here) == (
        f"it was built with tensorrt-rtx {portable.version}, and {here} is installed here."
    )


@pytest.mark.parametrize(
    ("built", "here", "compatible", "runs"),
    [
        ("11.2.0.5", "11.2.0.5", False, True),
        ("11.2.0.5", "11.2.0.6", False, False),
        ("11.2.0.5", "11.2.0.6", True, True),
        ("11.2.0.5", "11.4.1.2", True, True),
        ("11.4.1.2", "11.2.0.5", True, False),
        ("11.4.1.2", "12.0.0.1", True, False),
        ("10.16.1.11", "11.2.0.5", True, True),
        ("10.16.1.11", "11.2.0.5", False, False),
        ("11.2.0.5", "10.16.1.11", True, False),
        ("8.6.1.6", "11.2.0.5", True, False),
        ("10.9.0.34", "10.13.2.6", True, True),
    ],
)
def test_tensorrts_version_rules(bound: PlanRecord, built: str, here: str, compatible: bool, runs: bool) -> None:
    record = replace(bound, version=built, settings=PlanSettings(version_compatible=compatible))
    text = differences(record, version=here)
    assert (text == "") == runs
    assert runs or f"tensorrt {built}, and {here} is installed here" in text
    assert ("which runs no version-compatible plan of that one" in text) == (compatible and not runs)


@pytest.mark.parametrize(
    ("targets", "here", "runs"),
    [
        ((), "8.0", True),
        ((), "8.6", True),
        ((), "9.0", True),  # not documented: TensorRT decides
        ((), "12.0", True),
        ((), "13.1", True),
        ((), "7.5", False),
        (("7.5",), "7.5", True),
        (("8.6", "12.0"), "12.0", True),
        (("8.6", "12.0"), "8.9", False),
        (("8.6",), "9.0", False),
    ],
)
def test_rtx_and_compute_capabilities(portable: PlanRecord, targets: tuple[str, ...], here: str, runs: bool) -> None:
    listed = ", ".join(targets) or portable.target["compute_capability"]
    record = replace(
        portable, settings=PlanSettings(compute_capabilities=targets), target={"compute_capability": listed}
    )
    text = differences(record, gpu=gpu(here, "NVIDIA RTX"))
    assert text == (
        "" if runs else f"it was built for compute capability {listed}, and this GPU (NVIDIA RTX) has {here}."
    )


@pytest.mark.parametrize(
    ("level", "here", "name", "says"),
    [
        ("none", "8.0", "NVIDIA A100", ""),
        ("none", "8.6", "NVIDIA A10", "compute capability 8.0, and this GPU (NVIDIA A10) has 8.6."),
        ("none", "8.0", "NVIDIA A30", "for the GPU NVIDIA A100 alone, and this is NVIDIA A30."),
        ("same_compute_capability", "8.0", "NVIDIA A30", ""),
        ("same_compute_capability", "8.6", "NVIDIA A10", "compute capability 8.0, and this GPU (NVIDIA A10) has 8.6."),
        ("ampere_plus", "9.0", "NVIDIA H200", ""),
        ("ampere_plus", "12.0", "NVIDIA RTX 5090", ""),
        ("ampere_plus", "7.5", "NVIDIA T4", "compute capability 8.0 and later, and this GPU (NVIDIA T4) has 7.5."),
    ],
)
def test_tensorrt_and_gpus(bound: PlanRecord, level: str, here: str, name: str, says: str) -> None:
    record = replace(bound, settings=PlanSettings(hardware_compatibility=level))
    text = differences(record, gpu=gpu(here, name))
    assert text.endswith(says) and bool(text) == bool(says)


def test_tensorrts_plans_stay_on_their_platform(bound: PlanRecord, portable: PlanRecord) -> None:
    assert differences(bound, platform="Windows AMD64") == ("it was built on Linux x86_64, and this is Windows AMD64.")
    assert not differences(portable, platform="Windows AMD64")
    assert len(this_platform().split()) == 2


def test_everything_that_differs_is_said_at_once(bound: PlanRecord) -> None:
    text = differences(bound, version="10.16.1.11", gpu=gpu("9.0", "NVIDIA H200"), platform="Linux aarch64")
    assert text.count("; ") == 2 and all(part in text for part in ("10.16.1.11", "aarch64", "NVIDIA H200"))


def test_without_a_gpu_the_rest_is_still_checked(bound: PlanRecord) -> None:
    assert not differences(bound, gpu=None)
    assert "11.4.1.2 is installed" in differences(bound, gpu=None, version="11.4.1.2")
