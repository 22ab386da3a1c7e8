"""The sweep over random tasks: what it draws is legal, and its data belong to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.chain.tasks import CASES, draw, write_data
from trt_landmarks.data.dataset import load_dataset


def test_random_tasks_are_legal_and_of_all_kinds() -> None:
    drawn = [draw(np.random.default_rng([0, n])) for n in range(150)]
    counts = [len(one.task.landmarks) for one in drawn]
    assert min(counts) == 1 and max(counts) > 100
    assert {len(one.task.groups) for one in drawn} == {0, 1, 2, 3}
    assert {group.axis_index for one in drawn for group in one.task.groups} == {0, 1, 2}


def test_their_data_are_read_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng([0, 1])
    drawn = draw(rng)
    write_data(drawn, tmp_path, rng)
    dataset = load_dataset(tmp_path, drawn.task)
    assert len(dataset) == CASES and not dataset.warnings
    assert np.isfinite(dataset.points).all()
