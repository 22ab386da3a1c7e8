"""Variants are tried in processes of their own; one that takes too long costs no more than its time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trt_landmarks.bench import pytorch
from trt_landmarks.bench.best import Variant
from trt_landmarks.bench.ways import BEST, Spec
from trt_landmarks.errors import EngineError


class StandIn:
    """A process whose trials take what a table says; ``None`` does not end."""

    started = 0

    def __init__(self, spec: Spec, folder: Path) -> None:
        self.gone = False
        StandIn.started += 1

    def open(self, **options: bool) -> str:
        return ""

    def close(self) -> None:
        self.gone = True

    def ask(self, order: dict[str, Any], seconds: float) -> dict[str, Any]:
        trial = order["trial"]
        ms = TABLE[trial["graph"]].get(Variant(**trial["variant"]).name)
        if ms is None:
            self.gone = True
            raise EngineError("did not answer")
        return {**trial, "name": "any", "ms": ms, "agrees": True}


TABLE: dict[str, dict[str, float]] = {
    "coarse": {"eager": 9, "channels-last": 8, "half": 4, "channels-last half": 5, "half compiled": 1},
    "independent": {"eager": 9, "channels-last": 7, "channels-last half": 8},
}


def test_the_fastest_of_each_net_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pytorch, "Child", StandIn)
    StandIn.started = 0
    said: list[str] = []
    trials = pytorch.choose_variants(Spec(BEST, BEST), list(TABLE), tmp_path, 60, said.append)
    taken = {one["graph"]: Variant(**one["variant"]).name for one in trials if one["taken"]}
    assert taken == {"coarse": "half compiled", "independent": "channels-last"}
    failed = [one["name"] for one in trials if "problem" in one]
    assert failed == ["half", "channels-last compiled"]
    assert StandIn.started == 2  # a new one where there was more to do
    assert len(trials) == 10 and len(said) == 2


def test_without_time_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pytorch, "Child", StandIn)
    trials = pytorch.choose_variants(Spec(BEST, BEST), ["coarse"], tmp_path, 0, lambda text: None)
    assert [one["problem"] for one in trials if one["variant"]["compiled"]] == ["no time was left"]
    assert [Variant(**one["variant"]).name for one in trials if one["taken"]] == ["half"]
