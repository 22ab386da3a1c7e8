"""Which preprocessor is taken, and what is said about it."""

from __future__ import annotations

import sys

import pytest

from trt_landmarks.engines.tensorrt.gpu import gpu_problem
from trt_landmarks.errors import EngineError
from trt_landmarks.preprocessing.select import PREPROCESSORS, open_preprocessor


@pytest.mark.parametrize("name", PREPROCESSORS)
def test_an_explicit_choice_holds(name: str) -> None:
    chosen, note = open_preprocessor(name, threads=1)
    assert chosen.name == name and note.startswith(name) and note.endswith("on the CPU")


def test_the_cpus_default_is_the_faster_one_and_needs_no_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    chosen, note = open_preprocessor()
    assert chosen.name == "reference" and note == "reference on the CPU"


def test_beside_an_engine_on_the_gpu_auto_says_why_it_is_not_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    chosen, note = open_preprocessor(device=0)
    assert chosen.name == "reference" and "DALI is not installed" in note
    with pytest.raises(EngineError, match="DALI is not installed"):
        open_preprocessor("dali", device=0)


@pytest.mark.skipif(gpu_problem() is None, reason="there is a GPU")
def test_beside_an_engine_on_a_gpu_that_is_not_there() -> None:
    chosen, note = open_preprocessor(device=0)
    assert chosen.name == "reference" and "GPU" in note
    with pytest.raises(EngineError, match="GPU"):
        open_preprocessor("dali", device=0)


def test_no_such_preprocessing() -> None:
    with pytest.raises(EngineError, match="abacus: no such preprocessing") as caught:
        open_preprocessor("abacus")
    assert all(name in caught.value.remedy for name in PREPROCESSORS)
