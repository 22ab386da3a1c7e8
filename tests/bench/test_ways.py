"""Which ways there are, and why some do not run."""

from __future__ import annotations

import json

import pytest

from trt_landmarks.bench.ways import BASELINES, DEFAULT, PREPROCESSING, Spec, list_ways
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.engines.tensorrt.gpu import gpu_problem
from trt_landmarks.errors import EngineError


def test_all_ways_are_listed_and_those_that_cannot_run_say_why(tiny_bundle: Bundle) -> None:
    ways = {way.name: way for way in list_ways(tiny_bundle)}
    assert [name for name, way in ways.items() if not way.problem] == [*BASELINES, DEFAULT, *PREPROCESSING] or (
        gpu_problem() is None
    )
    assert "emulated" in ways["onnxruntime-int8"].problem
    for name in ("tensorrt-fp16", "tensorrt-rtx-int8"):
        assert "no such build" in ways[name].problem
        assert (gpu_problem() or "") in ways[name].problem
    assert all(way.what for way in ways.values())


def test_engines_and_precisions_are_chosen(tiny_bundle: Bundle) -> None:
    names = [way.name for way in list_ways(tiny_bundle, ["torch", "torch-bf16", "tensorrt"], ["fp32"])]
    assert names == ["torch", "torch-bf16", "tensorrt-fp32"]
    assert [way.name for way in list_ways(tiny_bundle, ["dali"])] == list(PREPROCESSING)
    with pytest.raises(EngineError, match="abacus: no such engine"):
        list_ways(tiny_bundle, ["abacus"])
    with pytest.raises(EngineError, match="fp4: no such precision"):
        list_ways(tiny_bundle, precisions=["fp4"])


def test_a_specification_survives_the_way_to_a_process() -> None:
    spec = Spec("torch-bf16", "torch-bf16", "bf16", threads=3)
    assert Spec(**json.loads(json.dumps(spec.to_dict()))) == spec
