"""OpenVINO as an engine: the same numbers as ONNX Runtime, one net for each landmark, a cache, no silent FP32."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from trt_landmarks import system
from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.engines import openvino as engine_module
from trt_landmarks.engines.base import Arrays, Cancellable, RunCancelled
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.openvino import OpenVinoEngine
from trt_landmarks.engines.openvino_graph import convert
from trt_landmarks.errors import BundleError, EngineError
from trt_landmarks.export.parity import FP32_TOLERANCE_VOXEL, compare, random_inputs
from trt_landmarks.files import CACHE_VARIABLE
from trt_landmarks.system import processor_bf16
from trt_landmarks.task.graphs import COARSE, INDEPENDENT

ov = pytest.importorskip("openvino", reason="OpenVINO is not installed")
needs_bf16 = pytest.mark.skipif(processor_bf16() is None, reason="this processor has no bfloat16")
PRECISIONS = ["fp32", pytest.param("bf16", marks=needs_bf16)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for each test; gives the folder of compiled models."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


def results(graphs: dict[str, Path], bundle: Bundle, precision: str = "fp32") -> dict[str, Arrays]:
    engine, inputs = OpenVinoEngine(graphs, precision), random_inputs(bundle.task, 2)
    return {graph: engine.run(graph, inputs[graph]) for graph in graphs}


@pytest.fixture
def group(tiny_bundle: Bundle) -> dict[str, Path]:
    """The graph of the group alone."""
    return {"group-mid": tiny_bundle.graphs["group-mid"]}


def same(first: dict[str, Arrays], second: dict[str, Arrays]) -> bool:
    return all(np.array_equal(a, b) for graph in first for a, b in zip(first[graph], second[graph], strict=True))


def test_it_gives_the_numbers_of_onnxruntime(tiny_bundle: Bundle) -> None:
    engine = OpenVinoEngine(tiny_bundle.graphs, threads=1)
    assert (engine.name, engine.precision, engine.provider) == ("openvino", "fp32", "CPU")
    reference = OnnxRuntimeEngine(tiny_bundle.graphs, threads=1)
    report = compare(reference, engine, tiny_bundle.task, random_inputs(tiny_bundle.task, 5))
    for figures in report.values():
        assert figures["max_voxel"] <= FP32_TOLERANCE_VOXEL / 10
        assert max(figures["max_confidence"], figures["max_key_slice_mm"]) <= 1e-5


def test_every_landmark_has_a_net_of_its_own(tiny_bundle: Bundle) -> None:
    for graph, path in tiny_bundle.graphs.items():
        nets, decoding = convert(ov.Core(), path)
        kinds = [node.get_type_name() for node in nets.get_ops()]
        assert "GroupConvolution" not in kinds and "GroupConvolution" not in [
            n.get_type_name() for n in decoding.get_ops()
        ]
        assert graph == COARSE or kinds.count("Convolution") >= 3 * 10  # three landmarks, ten layers each
        smoothing = [node for node in decoding.get_ops() if node.get_type_name() == "Convolution"]
        assert all(node.input_value(1).get_shape()[:2] == [1, 1] for node in smoothing)
        assert "TopK" not in kinds and "Log" not in kinds  # decoding stays in FP32


@pytest.mark.parametrize("precision", PRECISIONS)
def test_results_depend_on_neither_batch_nor_threads(tiny_bundle: Bundle, precision: str) -> None:
    array = random_inputs(tiny_bundle.task, 4)[INDEPENDENT]
    graphs = {INDEPENDENT: tiny_bundle.graphs[INDEPENDENT]}
    engine = OpenVinoEngine(graphs, precision, threads=1, workers=2)
    expected = engine.run(INDEPENDENT, array)
    for row in (3, 0, 1, 2):
        alone = engine.run(INDEPENDENT, array[row : row + 1])
        assert all(np.array_equal(a[0], b[row]) for a, b in zip(alone, expected, strict=True))
    other = OpenVinoEngine(graphs, precision, threads=2).run(INDEPENDENT, array)
    assert all(np.array_equal(a, b) for a, b in zip(other, expected, strict=True))

    got: list[Arrays] = []
    workers = [threading.Thread(target=lambda: got.append(engine.run(INDEPENDENT, array))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(got) == 4 and all(same({"": expected}, {"": one}) for one in got)


@needs_bf16
def test_bf16_rounds_the_fine_nets_only(tiny_bundle: Bundle) -> None:
    full, low = (results(tiny_bundle.graphs, tiny_bundle, precision) for precision in ("fp32", "bf16"))
    assert same({COARSE: full[COARSE]}, {COARSE: low[COARSE]})
    heights = np.abs(full[INDEPENDENT][1] - low[INDEPENDENT][1])
    assert 0 < heights.max() < 0.02


def test_bf16_is_refused_where_the_processor_lacks_it(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text("model name : Old\nflags : fpu avx2\n")
    monkeypatch.setattr(system, "CPU_INFO", tmp_path / "cpuinfo")
    with pytest.raises(EngineError) as error:
        OpenVinoEngine(tiny_bundle.graphs, "bf16")
    assert error.value.code == "precision_missing"


def test_without_the_package(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(EngineError) as error:
        OpenVinoEngine(tiny_bundle.graphs)
    assert error.value.code == "package_missing"


def test_compiled_models_are_used_again(
    tiny_bundle: Bundle, group: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = results(group, tiny_bundle)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    monkeypatch.setattr(engine_module, "convert", lambda *_: pytest.fail("compiled again"))
    assert same(results(group, tiny_bundle), expected)
    assert [path.read_bytes() for path in cache.iterdir()] == [content]


@pytest.mark.parametrize("spoil", ["cut", "changed", "empty", "a folder"])
def test_a_damaged_cache_is_not_used(tiny_bundle: Bundle, group: dict[str, Path], cache: Path, spoil: str) -> None:
    expected = results(group, tiny_bundle)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    middle = len(whole) // 2
    changed = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    file.unlink()
    if spoil == "a folder":
        file.mkdir()
    else:
        file.write_bytes({"cut": whole[:-1], "changed": changed}.get(spoil, b""))
    assert same(results(group, tiny_bundle), expected)
    assert file.is_dir() or len(file.read_bytes()) == len(whole)


def test_a_cache_that_cannot_be_written_to(tiny_bundle: Bundle, group: dict[str, Path], cache: Path) -> None:
    cache.parent.write_text("not a folder")
    assert results(group, tiny_bundle)


def test_what_was_long_unused_leaves_the_cache(group: dict[str, Path], cache: Path) -> None:
    cache.mkdir(parents=True)
    for name, age in (("old.compiled", 31), ("new.compiled", 29)):
        (cache / name).touch()
        os.utime(cache / name, (time.time() - age * 86400,) * 2)
    OpenVinoEngine(group)
    assert {path.name for path in cache.iterdir()} >= {"new.compiled"}
    assert not (cache / "old.compiled").exists()


def test_another_graph_is_compiled_anew(tiny_bundle: Bundle, cache: Path) -> None:
    coarse = {COARSE: tiny_bundle.graphs[COARSE]}
    OpenVinoEngine(coarse)
    OpenVinoEngine(coarse, digests={COARSE: "0" * 64})
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"no graph", None])
def test_a_damaged_graph_is_named(tiny_bundle: Bundle, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "coarse.onnx"
    whole = tiny_bundle.graphs[COARSE].read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(BundleError, match=r"coarse\.onnx: OpenVINO cannot load"):
        OpenVinoEngine({COARSE: path})


def test_runs_under_way_are_cancelled_and_later_ones_are_not() -> None:
    """The shipped model's largest graph takes half a second or more: two runs are cancelled, then one is not."""
    bundle = open_bundle("mouse-skull")
    engine = OpenVinoEngine({INDEPENDENT: bundle.graphs[INDEPENDENT]}, threads=1, workers=2)
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
