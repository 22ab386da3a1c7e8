"""Fixtures for plans."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest

from tests.engines.tensorrt.plans import build, profile
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.task.graphs import COARSE


@pytest.fixture(scope="session")
def rtx() -> ModuleType:
    """TensorRT for RTX, which builds plans without a GPU."""
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def built_plan(rtx: ModuleType, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan of the small task's coarse graph, with its record."""
    out = tmp_path_factory.mktemp("plan") / "coarse.plan"
    build(tiny_bundle.graphs[COARSE], out, profile(tiny_bundle, COARSE), gate={"mean_voxel": 0.01})
    return out


@pytest.fixture
def plan(built_plan: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    for file in built_plan.parent.iterdir():
        shutil.copy(file, tmp_path / file.name)
    return tmp_path / built_plan.name
