"""What ships with the models beside their graphs: the accuracy in bfloat16, measured before the release."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_landmarks.bundles.builds import list_builds
from trt_landmarks.bundles.bundle import SHIPPED, open_bundle
from trt_landmarks.bundles.select import open_engine
from trt_landmarks.calibration.recipe import LIMITS
from trt_landmarks.files import CACHE_VARIABLE
from trt_landmarks.system import processor_bf16


@pytest.mark.parametrize("name", SHIPPED)
def test_bf16_was_measured_with_these_graphs_and_is_used(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    bundle = open_bundle(name)
    (build,) = list_builds(bundle, pytest.fail)
    gate = build.record["gate"]
    assert gate["passed"] and gate["p99_voxel"] <= (LIMITS["bf16"].p99_voxel or 0) and len(gate["on"]) >= 5
    kind = build.record["recipe"]["target"]["processor"]
    if processor_bf16() == kind:
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
        assert open_engine(bundle)[0].precision == "bf16"
