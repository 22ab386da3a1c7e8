"""What was found in scans with known truth, kept in a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.confidence_cases import TASK, observations
from trt_landmarks.confidence.observation import load_observations, save_observations
from trt_landmarks.errors import DatasetError


def test_they_read_back_as_they_were(tmp_path: Path) -> None:
    seen = observations(2)
    save_observations(tmp_path / "seen.npz", seen)
    again = load_observations(tmp_path / "seen.npz", TASK)
    assert len(again) == len(seen)
    for one, other in zip(seen, again, strict=True):
        assert (one.case, one.kind, one.range, one.strength) == (other.case, other.kind, other.range, other.strength)
        np.testing.assert_array_equal(one.errors, other.errors)
        np.testing.assert_array_equal(one.found.confidence, other.found.confidence)
        np.testing.assert_array_equal(one.found.coarse_points, other.found.coarse_points)
        assert [plane.group for plane in one.found.slices] == [plane.group for plane in other.found.slices]
        np.testing.assert_array_equal(one.found.slices[0].point, other.found.slices[0].point)


def test_errors_are_distances_to_the_truth() -> None:
    one = observations(1)[0]
    assert one.errors[2] == pytest.approx(np.sqrt(((one.found.points[2] - one.truth[2]) ** 2).sum()))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a file", b"nothing"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "seen.npz"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="is not a file of observations"):
        load_observations(path, TASK)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(DatasetError, match="is not a file of observations"):
        load_observations(path, TASK)


def test_those_of_another_task_are_refused(tmp_path: Path) -> None:
    save_observations(tmp_path / "seen.npz", observations(1))
    task = TASK.model_copy(update={"landmarks": TASK.landmarks[:-1]})
    with pytest.raises(DatasetError, match="holds 7 landmarks; the task has 6"):
        load_observations(tmp_path / "seen.npz", task)
