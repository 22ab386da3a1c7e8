"""ONNX Runtime as an engine."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.engines.base import Cancellable, RunCancelled
from trt_landmarks.engines.onnxruntime import CPU, OnnxRuntimeEngine
from trt_landmarks.errors import BundleError, EngineError
from trt_landmarks.export.parity import random_inputs
from trt_landmarks.task.graphs import COARSE, INDEPENDENT


def test_it_says_what_it_is_and_runs_every_graph(tiny_bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine(tiny_bundle.graphs, threads=1)
    assert (engine.name, engine.precision, engine.provider) == ("onnxruntime", "fp32", CPU)
    for graph, array in random_inputs(tiny_bundle.task, 2).items():
        outputs = engine.run(graph, array)
        assert len(outputs) == {COARSE: 1, INDEPENDENT: 2}.get(graph, 3)
        assert all(output.dtype == np.float32 and len(output) == 2 for output in outputs)


def test_views_and_other_types_are_taken(tiny_bundle: Bundle) -> None:
    engine = OnnxRuntimeEngine({COARSE: tiny_bundle.graphs[COARSE]}, threads=1)
    array = random_inputs(tiny_bundle.task, 1)[COARSE]
    (expected,) = engine.run(COARSE, array)
    twisted = np.asfortranarray(array.astype(np.float64))
    assert np.array_equal(engine.run(COARSE, twisted)[0], expected)  # type: ignore[arg-type]


def test_runs_under_way_are_cancelled_and_later_ones_are_not() -> None:
    """The shipped model's largest graph takes a second or more: two runs at once are cancelled, then one is not."""
    bundle = open_bundle("mouse-skull")
    engine = OnnxRuntimeEngine({INDEPENDENT: bundle.graphs[INDEPENDENT]}, threads=1)
    assert isinstance(engine, Cancellable)
    array = random_inputs(bundle.task, 1)[INDEPENDENT]
    ends: list[object] = []

    def run() -> None:
        try:
            ends.append(engine.run(INDEPENDENT, array))
        except RunCancelled as error:
            ends.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        engine.cancel()
    assert [type(end) for end in ends] == [RunCancelled] * 2
    assert len(engine.run(INDEPENDENT, array)) == 2


def test_a_provider_that_is_not_there_is_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"has no NoSuchProvider; it has .*CPUExecutionProvider"):
        OnnxRuntimeEngine(tiny_bundle.graphs, provider="NoSuchProvider")


@pytest.mark.parametrize("content", [b"", b"no graph", None])
def test_a_damaged_graph_is_named(tiny_bundle: Bundle, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "coarse.onnx"
    whole = tiny_bundle.graphs[COARSE].read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(BundleError, match=r"coarse\.onnx: ONNX Runtime cannot load"):
        OnnxRuntimeEngine({COARSE: path})
