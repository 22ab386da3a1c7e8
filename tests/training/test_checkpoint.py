"""Checkpoints: everything comes back, and what is damaged is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.synthetic import HEAD, scrambled, small_task
from trt_landmarks.errors import CheckpointError, TaskError
from trt_landmarks.files import file_sha256
from trt_landmarks.nets.model import build_nets
from trt_landmarks.task.graphs import COARSE
from trt_landmarks.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint


@pytest.fixture
def checkpoint() -> Checkpoint:
    task = small_task(description="größe")
    nets = scrambled(build_nets(task))
    nets[COARSE].get_buffer("mean_shape").copy_(torch.from_numpy(HEAD))
    return Checkpoint(task, nets, {"seed": 7, "split": {"train": ["a"], "val": []}, "metrics": {"mre": 0.5}})


@pytest.fixture
def folder(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    save_checkpoint(checkpoint, tmp_path / "runs" / "first")
    return tmp_path / "runs" / "first"


def test_round_trip(checkpoint: Checkpoint, folder: Path) -> None:
    again = load_checkpoint(str(folder))
    assert again.task == checkpoint.task
    assert again.record["seed"] == 7 and again.record["metrics"] == {"mre": 0.5}
    assert again.record["versions"].keys() == {"trt_landmarks", "torch", "numpy"}
    np.testing.assert_array_equal(again.mean_shape, HEAD)
    assert again.mean_shape.dtype == np.float64
    assert again.nets.keys() == checkpoint.nets.keys()
    for graph, net in again.nets.items():
        assert not net.training
        expected = checkpoint.nets[graph].state_dict()
        assert net.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in net.state_dict().items())


def test_saving_again_gives_the_same_folder(folder: Path, tmp_path: Path) -> None:
    save_checkpoint(load_checkpoint(folder), tmp_path / "second")
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_nets_in_another_memory_layout_are_stored_alike(checkpoint: Checkpoint, folder: Path, tmp_path: Path) -> None:
    for net in checkpoint.nets.values():
        net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    save_checkpoint(checkpoint, tmp_path / "second")
    assert (folder / "coarse.safetensors").read_bytes() == (tmp_path / "second" / "coarse.safetensors").read_bytes()


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: no such run folder"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no checkpoint\.json, so its training has not finished") as caught:
        load_checkpoint(tmp_path)
    assert "resumes" in caught.value.remedy


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"files": 5}', '{"files": {}, "format": 1', "null", "7"])
def test_a_damaged_record(folder: Path, text: str) -> None:
    (folder / "checkpoint.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"checkpoint\.json: is damaged"):
        load_checkpoint(folder)


def test_a_record_of_another_version(folder: Path) -> None:
    path = folder / "checkpoint.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(CheckpointError, match="has format 2, this version reads 1"):
        load_checkpoint(folder)


@pytest.mark.parametrize("graph", ["coarse", "independent", "group-mid"])
def test_damaged_weights(folder: Path, graph: str) -> None:
    path = folder / f"{graph}.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{graph}\.safetensors: is not the file checkpoint\.json describes"):
        load_checkpoint(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"{graph}\.safetensors: is missing"):
        load_checkpoint(folder)


@pytest.mark.parametrize("how", ["another shape", "not safetensors", "a weight less"])
def test_weights_that_do_not_fit(folder: Path, how: str) -> None:
    """Files that checkpoint.json does describe."""
    path = folder / "coarse.safetensors"
    weights = load_file(path)
    if how == "not safetensors":
        path.write_bytes(b"no weights")
    else:
        bias = weights.pop("head.bias")
        save_file(weights | ({"head.bias": bias[1:]} if how == "another shape" else {}), path)
    record = json.loads((folder / "checkpoint.json").read_text())
    record["files"]["coarse.safetensors"] = file_sha256(path)
    (folder / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"coarse\.safetensors: does not fit .*task\.yaml"):
        load_checkpoint(folder)


def test_the_task_file_is_part_of_it(folder: Path) -> None:
    path = folder / "task.yaml"
    wider = path.read_text(encoding="utf-8").replace("width: 2", "width: 4")
    path.write_text(wider, encoding="utf-8")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(folder)
    path.unlink()
    with pytest.raises(TaskError, match=r"task\.yaml: no such task file"):
        load_checkpoint(folder)


def test_an_interrupted_save_is_no_checkpoint(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """checkpoint.json is written last."""

    class Broken(torch.nn.Module):
        def state_dict(self, *_: object, **__: object) -> dict[str, torch.Tensor]:  # type: ignore[override]
            raise KeyboardInterrupt

    checkpoint.nets["zzz"] = Broken()
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(checkpoint, tmp_path / "half")
    assert (tmp_path / "half" / "coarse.safetensors").exists()
    with pytest.raises(CheckpointError, match="has not finished"):
        load_checkpoint(tmp_path / "half")
