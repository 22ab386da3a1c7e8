"""What can be built and run, with and without a GPU."""

from __future__ import annotations

import pytest

from tests.doctor.stand_ins import H200, LOADED, RTX, base, failed, full, gpu
from trt_landmarks.doctor.checks import Can, dali_abilities, default_job, engine_abilities
from trt_landmarks.doctor.facts import Facts
from trt_landmarks.doctor.probe import Answer
from trt_landmarks.doctor.report import make_report, render


def abilities(facts: Facts) -> dict[str, tuple[Can, Can]]:
    return {f"{a.engine} {a.precision}".strip(): (a.build, a.run) for a in engine_abilities(facts)}


def can(facts: Facts) -> dict[str, tuple[bool | None, bool | None]]:
    return {name: (build.possible, run.possible) for name, (build, run) in abilities(facts).items()}


def test_a_base_installation_runs_onnxruntime_only() -> None:
    assert can(base()) == {
        "onnxruntime fp32": (True, True),
        "onnxruntime fp16": (False, True),
        "onnxruntime int8": (False, True),
        "tensorrt": (False, False),
        "tensorrt-rtx": (False, False),
    }
    found = abilities(base())
    assert "trt-landmarks[calibrate]" in found["onnxruntime fp16"][0].reason
    assert "trt-landmarks[rtx]" in found["tensorrt-rtx"][0].reason
    assert dali_abilities(base())["cpu"].possible is False


def test_everything_without_a_gpu() -> None:
    facts = full({})
    assert can(facts) == {
        "onnxruntime fp32": (True, True),
        "onnxruntime fp16": (True, True),
        "onnxruntime int8": (True, True),
        "tensorrt": (False, False),
        "tensorrt-rtx": (True, False),
    }
    assert abilities(facts)["tensorrt"][0].reason == "there is no NVIDIA driver"
    assert {name: found.possible for name, found in dali_abilities(facts).items()} == {"cpu": True, "gpu": False}


def test_everything_with_a_gpu() -> None:
    facts = full(gpu(RTX))
    assert set(can(facts).values()) == {(True, True)}
    assert dali_abilities(facts)["gpu"].possible
    assert "on the GPU (tensorrt, tensorrt-rtx)" in make_report(facts)["verdict"]["summary"]


def test_a_gpu_that_rtx_does_not_build_for_is_not_known() -> None:
    facts = full(gpu(H200))
    assert can(facts)["tensorrt-rtx"] == (True, None) and can(facts)["tensorrt"] == (True, True)
    assert "this GPU has 9.0" in abilities(facts)["tensorrt-rtx"][1].reason


@pytest.mark.parametrize(
    ("answers", "engine", "expected", "says"),
    [
        (failed("pycuda", "no libcuda"), "tensorrt", (True, False), "pycuda: no libcuda"),
        (failed("pycuda", "", "missing"), "tensorrt-rtx", (True, False), "pycuda"),
        (failed("tensorrt", "no libnvinfer"), "tensorrt", (False, False), "no libnvinfer"),
        (failed("tensorrt", "did not load within 1 s", "late"), "tensorrt", (None, None), "--deep"),
        (gpu({**RTX, "driver": "12.8"}), "tensorrt", (False, False), "built for CUDA 13"),
        (failed("driver", "did not load within 1 s", "late"), "tensorrt", (False, False), "does not answer"),
        (failed("modelopt", "broken"), "onnxruntime fp16", (False, True), "modelopt: broken"),
        (failed("onnxruntime", "broken"), "onnxruntime int8", (False, False), "onnxruntime: broken"),
    ],
)
def test_what_one_fault_takes_away(
    answers: dict[str, Answer], engine: str, expected: tuple[bool | None, bool | None], says: str
) -> None:
    facts = full(gpu(RTX) | answers)
    assert can(facts)[engine] == expected
    assert says in " ".join(found.reason for found in abilities(facts)[engine])


def test_without_the_toolkits_metadata_the_packages_themselves_count() -> None:
    assert can(full({}, lacking={}))["onnxruntime fp16"][0]
    assert not can(base(lacking={}))["onnxruntime fp16"][0]


def test_a_precision_that_this_version_does_not_have() -> None:
    facts = full({"builds": Answer("loaded", {**LOADED["builds"], "precisions": ["fp32", "fp16"]})})
    assert abilities(facts)["onnxruntime int8"] == (Can(False, "not part of this version"),) * 2


@pytest.mark.parametrize("step", ["numpy", "SimpleITK", "onnxruntime", "model"])
@pytest.mark.parametrize("state", ["failed", "late", "missing", "untried"])
def test_the_verdict_needs_every_step_of_the_default_job(step: str, state: str) -> None:
    facts = base({}, failed(step, "the reason", state))
    assert default_job(facts).possible is False and "the reason" in default_job(facts).reason
    report = make_report(facts)
    assert not report["verdict"]["ok"] and "the reason" in report["verdict"]["summary"]
    assert "Verdict: NOT OK" in render(report)


def test_isal_may_be_missing() -> None:
    assert default_job(base({}, failed("isal", "No module named 'isal'", "missing"))).possible
