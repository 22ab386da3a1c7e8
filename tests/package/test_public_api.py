"""The public names: there, documented, and lazy."""

from __future__ import annotations

import doctest
import importlib
import inspect
import subprocess
import sys

import pytest

import trt_landmarks

HEAVY = (
    "torch",
    "onnxruntime",
    "SimpleITK",
    "tensorrt",
    "tensorrt_rtx",
    "nvidia.dali",
    "matplotlib",
    "numpy",
    "pydantic",
)


def test_importing_loads_nothing_heavy() -> None:
    code = f"import sys, trt_landmarks; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", trt_landmarks.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(trt_landmarks, name)
    assert inspect.getdoc(value)
    assert name in dir(trt_landmarks)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        trt_landmarks.nothing  # noqa: B018


@pytest.mark.parametrize("module", ["trt_landmarks", "trt_landmarks.model"])
def test_the_examples_of_docstrings(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted and not result.failed


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "trt_landmarks", "models"], capture_output=True, text=True, check=True)
    assert [name in done.stdout for name in trt_landmarks.Model.names()] == [True, True]
