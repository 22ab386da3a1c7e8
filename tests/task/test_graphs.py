"""Shapes that engines are built for come from the task."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.synthetic import small_task
from trt_landmarks.errors import TaskError
from trt_landmarks.task.graphs import (
    LARGEST_SCAN,
    SCAN_INPUTS,
    graph_file,
    group_graph,
    net_profiles,
    padded_size,
    scan_profile,
)


def test_batches_of_the_task() -> None:
    task = small_task(batches={"coarse": [1, 4, 16], "fine": [2, 3, 5]})
    found = net_profiles(task)
    assert found["coarse"] == {"volume": tuple((n, 1, 9, 14, 10) for n in (1, 4, 16))}
    assert found["independent"] == {"patches": tuple((n, 4, 8, 8, 8) for n in (2, 3, 5))}
    assert found["group-mid"] == {"patches": tuple((n, 3, 8, 8, 8) for n in (2, 3, 5))}


def test_scans_of_any_size() -> None:
    profile = scan_profile(small_task())
    assert tuple(profile) == SCAN_INPUTS
    smallest, usual, largest = profile["voxels"]
    assert smallest == (1, 1, 64, 64, 64) and largest == (1, 1, *(LARGEST_SCAN,) * 3)
    assert usual == (1, 1, 64, 64, 64)  # the field of view at the patches' spacing is 30 x 46 x 32
    assert set(profile["volume"]) == {(1, 1, 9, 14, 10)}


def test_sizes_are_rounded_up() -> None:
    assert padded_size((1, 64, 65)) == (64, 64, 128)


def test_files_of_graphs_do_not_collide() -> None:
    names = ["mid", "mid.cpu", "mid.cpu.onnx", "mid.onnx", "mid-cpu", "mid_cpu"]
    plain = [graph_file(group_graph(name)) for name in names]
    assert len({*plain, *(str(Path(file).with_suffix(".cpu.onnx")) for file in plain)}) == 2 * len(names)


def test_batches_must_be_in_order() -> None:
    with pytest.raises(TaskError, match=r"batches\.coarse: smallest, usual and largest"):
        small_task(batches={"coarse": [4, 1, 8]})
