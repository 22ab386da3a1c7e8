"""What works on a folder: one localizer for each GPU, or several that share one engine on the CPU."""

from __future__ import annotations

from typing import Any

import pytest

from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.engines.tensorrt.gpu import gpu_problem
from trt_landmarks.errors import EngineError, TrtlmError
from trt_landmarks.localization.whole_scan import WholeScanLocalizer
from trt_landmarks.runs import workers
from trt_landmarks.runs.workers import open_workers, parse_devices


class OnGpu:
    """An engine that knows its GPU."""

    name, precision, provider = "tensorrt", "fp16", "GPU"

    def __init__(self, device: int) -> None:
        self.device = device


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two GPUs; the list receives what preprocessing is opened for."""
    prepared: list[Any] = []

    def open_engine(bundle: Bundle, *arguments: Any) -> tuple[OnGpu, str]:
        device = arguments[3]
        if device > 1:
            raise EngineError(f"there is no GPU {device} here")
        return OnGpu(device), "tensorrt fp16"

    def open_preprocessor(name: str, device: int | None, threads: int | None) -> tuple[None, str]:
        prepared.append(device)
        return None, "prepared"

    monkeypatch.setattr(workers, "open_engine", open_engine)
    monkeypatch.setattr(workers, "open_preprocessor", open_preprocessor)
    return prepared


def test_two_workers_for_each_gpu(tiny_bundle: Bundle, gpus: list[int]) -> None:
    found = open_workers(tiny_bundle, 100, devices=(0, 1))
    assert [one.engine.device for one in found.localizers] == [0, 0, 1, 1] == gpus  # type: ignore[attr-defined]
    assert len({id(one.engine) for one in found.localizers}) == 4 and found.note.endswith("on each of GPUs 0, 1")
    assert all(isinstance(one, WholeScanLocalizer) for one in found.localizers)
    assert [one.engine.device for one in open_workers(tiny_bundle, 1).localizers] == [0]  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match="no GPU 2"):
        open_workers(tiny_bundle, 100, devices=(0, 2))


def test_graphs_over_a_whole_scan_take_it_as_it_lies(tiny_bundle: Bundle, gpus: list[int]) -> None:
    assert open_workers(tiny_bundle, 1).pose == "as-is"
    for chosen in ({"pose": "search"}, {"pose": "any"}, {"tta": True}):
        with pytest.raises(TrtlmError) as caught:
            open_workers(tiny_bundle, 1, **chosen)  # type: ignore[arg-type]
        assert caught.value.code == "as_is_only"


def test_workers_on_the_cpu_share_the_engine(tiny_bundle: Bundle) -> None:
    found = open_workers(tiny_bundle, 100, engine="onnxruntime", threads=2)
    assert len(found.localizers) == 2 and "2 workers with 1 thread each" in found.note
    assert found.localizers[0] is found.localizers[1]
    assert len(open_workers(tiny_bundle, 1, engine="onnxruntime").localizers) == 1


@pytest.mark.skipif(gpu_problem() is None, reason="there is a GPU here")
def test_gpus_that_are_asked_for_are_not_replaced_by_the_cpu(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=r"GPUs 0, 1 were asked for, and this would run as: .* on the CPU.*--devices"):
        open_workers(tiny_bundle, 4, devices=(0, 1))


def test_devices_are_written_with_commas() -> None:
    assert parse_devices(None) == ()
    assert parse_devices("0") == (0,)
    assert parse_devices("1,0,3") == (1, 0, 3)
    for wrong in ("", "a", "0,", "0 1", "-1", "0,0", "cuda:0"):
        with pytest.raises(EngineError, match="is not a list of GPUs"):
            parse_devices(wrong)
