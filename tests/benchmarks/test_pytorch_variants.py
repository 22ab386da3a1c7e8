"""What makes PyTorch faster is tried, compared and taken only where it agrees and gains."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.pytorch import variants
from benchmarks.pytorch.variants import VARIANTS, Variant, choose, fastest, trial
from trt_landmarks.errors import EngineError
from trt_landmarks.export.parity import random_inputs
from trt_landmarks.nets.folding import folded
from trt_landmarks.training.checkpoint import Checkpoint


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_trial_runs_the_net_and_compares_it(variant: Variant, tiny_checkpoint: Checkpoint) -> None:
    task, graph = tiny_checkpoint.task, "coarse"
    inputs = np.asarray(random_inputs(task, 2)[graph])
    found = trial(task, graph, folded(tiny_checkpoint.nets[graph]), inputs, variant)
    assert found["agrees"] and found["ms"] > 0
    assert 1e-4 < found["max_voxel"] < 0.25 if variant.half else found["max_voxel"] < 1e-4
    assert found["name"] == variant.name.replace("half", "bfloat16")


def one(ms: float, agrees: bool = True, compiled: bool = False) -> dict[str, object]:
    return {"variant": {"compiled": compiled}, "ms": ms, "agrees": agrees}


def test_the_fastest_is_taken_that_agrees_and_compiling_has_to_gain() -> None:
    eager, half, wrong = one(10), one(5), one(1, agrees=False)
    assert fastest([eager, half, wrong]) is half
    assert fastest([eager, half, one(4.9, compiled=True)]) is half
    compiled = one(4, compiled=True)
    assert fastest([eager, half, compiled, one(1, agrees=False, compiled=True)]) is compiled


def test_where_nothing_agrees_the_reasons_are_told() -> None:
    with pytest.raises(EngineError, match="no kernel"):
        fastest([{**one(1, agrees=False), "problem": "no kernel"}])


def test_a_variant_that_raises_is_a_problem_and_the_others_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def stand_in(task, graph, net, inputs, variant, device):
        if variant.compiled:
            raise RuntimeError("no compiler\nand more")
        row = one(4.0 if variant.half else 9.0)
        return {**row, "graph": graph, "name": variant.name, "variant": {**vars(variant)}}

    monkeypatch.setattr(variants, "trial", stand_in)
    trials = choose(None, "coarse", None, None)  # type: ignore[arg-type]
    assert [row["name"] for row in trials if row["taken"]] == ["half"]
    assert [row["problem"] for row in trials if "problem" in row] == ["no compiler"] and len(trials) == 5
