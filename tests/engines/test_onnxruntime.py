"""ONNX Runtime as an engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trt_landmarks.bundle import Bundle
from trt_landmarks.engines.base import COARSE, INDEPENDENT
from trt_landmarks.engines.onnxruntime import CPU, OnnxRuntimeEngine
from trt_landmarks.errors import BundleError, EngineError
from trt_landmarks.export.parity import random_inputs


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
