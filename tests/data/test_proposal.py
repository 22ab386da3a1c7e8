"""Task files proposed from annotations: from the mouse heads nearly the task that was written by hand."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.synthetic import HEAD, blobs, head_geometry
from trt_landmarks.cli import app
from trt_landmarks.data.annotations import write_mrk_json
from trt_landmarks.data.proposal import propose_task
from trt_landmarks.errors import DatasetError, LandmarkFileError, TaskError
from trt_landmarks.geometry import Floats
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


def test_the_command_writes_a_task_file_and_keeps_one_that_exists(few: Path) -> None:
    out = few / "tips.yaml"
    arguments = ["init", "--from", str(few / "landmarks"), "--scans", str(few / "images"), "--out", str(out)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and str(out) in done.stdout
    assert load_task(out).name == "tips"
    assert out.read_text().startswith("# Proposed by trtlm init")
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, TaskError) and "exists already" in str(again.exception)


def write_cases(folder: Path, names: list[str], shape: Floats, cases: int = 4, noise: float = 0.01) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for case in range(cases):
        points = shape + rng.normal(size=shape.shape) * noise
        write_mrk_json(folder / f"c{case}.mrk.json", dict(zip(names, points, strict=True)))
    return folder


def test_parallel_planes_and_names_of_any_kind(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    names = [f"{'Zähne' if n < 8 else 'front edge'} {n}" for n in range(16)]
    shape = rng.uniform(-40, 40, (16, 3))
    shape[:8, 0], shape[8:, 0] = -30, 30
    proposal = propose_task(write_cases(tmp_path / "sides", names, shape), name="my täsk")
    assert proposal.task.name == "my-task"
    assert [group.name for group in proposal.task.groups] == ["midsagittal", "midsagittal-2"]
    assert {group.landmarks for group in proposal.task.groups} == {tuple(names[:8]), tuple(names[8:])}
    fronts = shape[:, [1, 0, 2]]
    task = propose_task(write_cases(tmp_path / "fronts", names, fronts)).task
    assert {group.name for group in task.groups} == {"coronal-Zahne-0", "coronal-front-edge-8"}


@pytest.mark.parametrize("shape", [np.zeros((1, 3)), np.zeros((4, 3)), np.outer(np.arange(5), [10, 1, 2])])
def test_landmarks_without_extent_or_in_a_line(tmp_path: Path, shape: Floats) -> None:
    names = [f"p{n}" for n in range(len(shape))]
    for noise in (0.0, 0.3):
        folder = write_cases(tmp_path / f"cases-{noise}", names, shape, noise=noise)
        task = propose_task(folder).task
        assert task.fine.frame == "scan" or noise > 0  # coincident points with noise have a shape of noise
    if np.ptp(shape) > 0:
        assert task.fine.frame == "scan"


def test_many_landmarks_take_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    shape = rng.normal(size=(600, 3)) * 50
    shape[:200, 2] = 5
    started = time.process_time()
    task = propose_task(write_cases(tmp_path / "many", [f"n{k}" for k in range(600)], shape, cases=2)).task
    assert time.process_time() - started < 60
    assert {f"n{k}" for k in range(200)} <= set(task.groups[0].landmarks)


def test_a_landmark_that_occurs_only_beside_one_other(tmp_path: Path) -> None:
    folder = write_cases(tmp_path / "cases", ["a", "b", "c", "d"], HEAD[:4])
    write_mrk_json(folder / "z.mrk.json", {"a": HEAD[0], "rare": HEAD[4]})
    (folder / "empty.csv").write_text("name,x,y,z\n")
    assert propose_task(folder).task.landmarks == ("a", "b", "c", "d", "rare")
