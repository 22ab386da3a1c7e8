"""Settings of a build: what each flavour has, and what it is asked for."""

from __future__ import annotations

import json
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.engines.tensorrt.plans import FakeConfig, FakeTensorRT
from trt_landmarks.engines.tensorrt.flavours import RTX, TENSORRT, Log
from trt_landmarks.engines.tensorrt.settings import PlanSettings
from trt_landmarks.errors import EngineError


def test_every_setting_is_in_the_plain_data_of_a_cache_key() -> None:
    variants = [
        PlanSettings(),
        PlanSettings(workspace_bytes=1 << 30),
        PlanSettings(optimization_level=0),
        PlanSettings(version_compatible=True),
        PlanSettings(hardware_compatibility="ampere_plus"),
        PlanSettings(compute_capabilities=("8.6",)),
        PlanSettings(compute_capabilities=("8.6", "12.0")),
    ]
    assert len({json.dumps(settings.as_data(), sort_keys=True) for settings in variants}) == len(variants)


def test_the_order_of_compute_capabilities_does_not_matter() -> None:
    assert PlanSettings(compute_capabilities=("12.0", "8.6", "8.6")) == PlanSettings(
        compute_capabilities=("8.6", "12.0")
    )
    assert PlanSettings(compute_capabilities=("12.0", "8.9")).as_data()["compute_capabilities"] == ["8.9", "12.0"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"workspace_bytes": 0}, "workspace: 0 bytes"),
        ({"optimization_level": 6}, "optimization level: 6 .* 0 to 5"),
        ({"optimization_level": -1}, "optimization level: -1"),
        ({"hardware_compatibility": "turing"}, "turing .* none, same_compute_capability, ampere_plus"),
        ({"compute_capabilities": ("86",)}, "compute capability: '86' .* 8.6"),
        ({"compute_capabilities": ("8.6", "")}, "compute capability: ''"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(EngineError, match=says):
        PlanSettings(**values)


@pytest.mark.parametrize(
    ("flavour", "settings", "says"),
    [
        (RTX, PlanSettings(version_compatible=True), "no version compatibility.*build again after an upgrade"),
        (RTX, PlanSettings(hardware_compatibility="ampere_plus"), "no hardware compatibility.*8.0, 8.6, 8.9, 12.0"),
        (TENSORRT, PlanSettings(compute_capabilities=("8.6", "8.9")), "no other target .8.6, 8.9.*same_compute_capab"),
    ],
)
def test_what_a_flavour_does_not_have_comes_with_advice(flavour: str, settings: PlanSettings, says: str) -> None:
    with pytest.raises(EngineError, match=says) as error:
        settings.check(flavour)
    assert error.value.code == "setting_unknown"
    settings.check(TENSORRT if flavour == RTX else RTX)


def test_tensorrt_for_rtx_takes_the_settings(rtx: ModuleType) -> None:
    log = Log(rtx)
    config = rtx.Builder(log.logger).create_builder_config()
    PlanSettings(1 << 28, 1, compute_capabilities=("8.9", "8.6")).apply(rtx, config)
    assert config.get_memory_pool_limit(rtx.MemoryPoolType.WORKSPACE) == 1 << 28
    assert config.builder_optimization_level == 1
    found = [config.get_compute_capability(n) for n in range(config.num_compute_capabilities)]
    assert found == [rtx.ComputeCapability.SM86, rtx.ComputeCapability.SM89]
    assert not log.warnings
    with pytest.raises(EngineError, match=r"compute capability 3\.5\. It knows 7\.5, 8\.0, 8\.6, .*12\.0"):
        PlanSettings(compute_capabilities=("3.5",)).apply(rtx, config)


def test_rtx_would_only_warn_of_hardware_compatibility(rtx: ModuleType) -> None:
    """Why it is refused before: TensorRT for RTX builds a plan without it."""
    log = Log(rtx)
    config = rtx.Builder(log.logger).create_builder_config()
    PlanSettings(hardware_compatibility="ampere_plus").apply(rtx, config)
    assert any("unsupported in TensorRT-RTX" in text for text in log.warnings)


def test_tensorrt_gets_its_own_settings() -> None:
    config: Any = FakeConfig()
    PlanSettings(version_compatible=True, hardware_compatibility="same_compute_capability").apply(
        FakeTensorRT(), config
    )
    assert config.flags == {"version_compatible"} and config.hardware_compatibility_level == 2


def test_an_older_tensorrt_without_a_level_says_which_it_has() -> None:
    older = FakeTensorRT()
    older.HardwareCompatibilityLevel = SimpleNamespace(__members__={"NONE": 0, "AMPERE_PLUS": 1})  # type: ignore[misc]
    with pytest.raises(EngineError, match=r"no hardware compatibility same_.* It has ampere_plus, none"):
        PlanSettings(hardware_compatibility="same_compute_capability").apply(older, FakeConfig())
