"""Task files proposed from annotations: from the mouse heads nearly the task that was written by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.synthetic import HEAD, blobs, head_geometry
from trt_landmarks.cli import app
from trt_landmarks.data.annotations import write_mrk_json
from trt_landmarks.data.proposal import propose_task
from trt_landmarks.errors import DatasetError, LandmarkFileError, TaskError
from trt_landmarks.scan import Scan, write_scan
from trt_landmarks.task.task import Task, load_task


def pairs_of(task: Task) -> set[frozenset[str]]:
    assert task.symmetry is not None
    return {frozenset(pair) for pair in task.symmetry.pairs}


@pytest.fixture(scope="module")
def mouse(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All annotations of the mouse heads, and three scans."""
    posed, folder = data_root / "mouse-skull-ct" / "posed", tmp_path_factory.mktemp("mouse")
    if not posed.is_dir():
        pytest.skip(f"no mouse-skull-ct in {data_root}")
    shutil.copytree(posed / "landmarks", folder / "landmarks")
    (folder / "images").mkdir()
    for path in sorted((posed / "images").iterdir())[::15]:
        shutil.copy(path, folder / "images")
    return folder


def test_the_mouse_task_is_found_again(mouse: Path, repo_root: Path) -> None:
    written = load_task(repo_root / "tasks" / "mouse-skull.yaml")
    proposal = propose_task(mouse / "landmarks", mouse / "images", "mice")
    task = proposal.task
    assert set(task.landmarks) == set(written.landmarks)
    assert [group.axis for group in task.groups] == ["left-right"]
    assert set(task.groups[0].landmarks) == set(written.groups[0].landmarks)
    assert written.symmetry is not None and task.symmetry is not None
    assert pairs_of(task) == pairs_of(written) and set(task.symmetry.midline) == set(written.symmetry.midline)
    assert task.fine.spacing_mm == written.fine.spacing_mm
    np.testing.assert_allclose(task.coarse.field_of_view_mm, written.coarse.field_of_view_mm, rtol=0.05)
    np.testing.assert_allclose(task.coarse.shape, written.coarse.shape, atol=4)
    assert any("without one: 49" in remark for remark in proposal.remarks)


def test_without_scans_the_grids_hold_the_landmarks_and_it_is_said(mouse: Path, repo_root: Path) -> None:
    proposal = propose_task(mouse / "landmarks")
    extent = load_task(repo_root / "tasks" / "mouse-skull.yaml").coarse.field_of_view_mm
    np.testing.assert_allclose(proposal.task.coarse.field_of_view_mm, extent, rtol=0.5)
    assert any("--scans" in remark for remark in proposal.remarks)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """Two cases of two landmarks, one of them annotated once, with a scan for the first."""
    for folder in ("landmarks", "images"):
        (tmp_path / folder).mkdir()
    geometry = head_geometry()
    points = HEAD[:2] + geometry.centre
    write_mrk_json(tmp_path / "landmarks" / "a.mrk.json", {"tip": points[0], "end": points[1]})
    write_mrk_json(tmp_path / "landmarks" / "b.mrk.json", {"tip": points[0] + 1})
    write_mrk_json(tmp_path / "landmarks" / "c.mrk.json", {"tip": points[0] + 2})
    write_scan(Scan("a", None, blobs(geometry, points, [1, 1], 2), geometry), tmp_path / "images" / "a.nii.gz")
    return tmp_path


def test_what_geometry_cannot_tell_is_left_out(few: Path) -> None:
    proposal = propose_task(few / "landmarks", few / "images")
    assert proposal.task.landmarks == ("tip", "end")
    assert proposal.task.groups == () and proposal.task.symmetry is None
    assert any("fewer than half" in remark and "end" in remark for remark in proposal.remarks)
    assert proposal.task.fine.spacing_mm[0] >= 0.9  # not finer than the scan


def test_nothing_to_go_by_is_an_error(few: Path) -> None:
    (few / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"empty.*no landmark file"):
        propose_task(few / "empty")
    with pytest.raises(LandmarkFileError, match="nowhere"):
        propose_task(few / "nowhere")
    (few / "images" / "a.nii.gz").rename(few / "images" / "z.nii.gz")
    with pytest.raises(DatasetError, match="no scan of an annotated case"):
        propose_task(few / "landmarks", few / "images")
    with pytest.raises(TaskError, match="name"):
        propose_task(few / "landmarks", name="two words")


def test_the_command_writes_a_task_file_and_keeps_one_that_exists(few: Path) -> None:
    out = few / "tips.yaml"
    arguments = ["init", "--from", str(few / "landmarks"), "--scans", str(few / "images"), "--out", str(out)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and str(out) in done.stdout
    assert load_task(out).name == "tips"
    assert out.read_text().startswith("# Proposed by trtlm init")
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, TaskError) and "exists already" in str(again.exception)
