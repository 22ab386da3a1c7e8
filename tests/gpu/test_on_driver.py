"""The engine code on the real PyCUDA and the real cuda-bindings, over an emulated driver."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gpu import build


@pytest.fixture(scope="module", params=["main", "thread"])
def steps(
    request: pytest.FixtureRequest, repo_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What :mod:`tests.gpu.engine_on_driver` printed, by step."""
    try:
        importlib.metadata.version("cuda-bindings")
        variables = build.environment()
    except (build.NotBuilt, importlib.metadata.PackageNotFoundError) as reason:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the real PyCUDA on an emulated driver: {reason}")
    paths = os.pathsep.join([str(repo_root), variables["PYTHONPATH"], os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **variables, "PYTHONPATH": paths}
    command = [sys.executable, "-m", "tests.gpu.engine_on_driver", str(tmp_path_factory.mktemp("plans")), request.param]
    done = subprocess.run(command, env=environment, cwd=repo_root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # no complaint of a destructor at exit either
    return {line["step"]: line for line in map(json.loads, done.stdout.splitlines())}


def test_it_finds_the_gpu_and_opens(steps: dict[str, dict[str, Any]]) -> None:
    assert steps["gpus"]["gpus"] == ["NVIDIA H100 80GB HBM3"]
    assert not steps["open"]["notes"] and steps["open"]["live"]["contexts"] == 1


def test_the_doctor_retains_a_context(steps: dict[str, dict[str, Any]]) -> None:
    assert steps["doctor"]["facts"]["version"]
    assert {name for name, count in steps["doctor"]["live"].items() if count} == {"contexts"}


@pytest.mark.parametrize("step", ["batches", "again", "other thread", "on the GPU"])
def test_it_computes(steps: dict[str, dict[str, Any]], step: str) -> None:
    assert steps[step]["right"] and all(steps[step]["right"])
    assert steps[step]["live"]["depth"] == (1 if step == "on the GPU" else 0)


def test_it_captures_graphs_and_allocates_nothing_after_the_warm_up(steps: dict[str, dict[str, Any]]) -> None:
    assert steps["batches"]["captured"] and steps["batches"]["live"]["executables"] > 0
    assert steps["again"]["allocations"] == 0


def test_closing_in_another_thread_gives_everything_back(steps: dict[str, dict[str, Any]]) -> None:
    left = steps["closed in another thread"]["live"]
    assert {name: count for name, count in left.items() if name != "contexts"} == dict.fromkeys(
        ("memory", "pinned", "streams", "events", "graphs", "executables", "depth"), 0
    )
