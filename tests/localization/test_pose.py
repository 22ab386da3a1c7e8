"""The search for a scan's pose, and averaged views, with nets that know the truth and see it only near upright."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.synthetic import HEAD, about, rotation, single, small_task
from trt_landmarks.engines.base import Arrays
from trt_landmarks.errors import TrtlmError
from trt_landmarks.geometry import Floats, Grid, rigid_rotation, turned_by
from trt_landmarks.localization.case import NOT_THIS_ANATOMY, POSE_SEARCHED, case_result
from trt_landmarks.localization.confidence import ConfidenceModel, Score, Table
from trt_landmarks.localization.localizer import Frame, Localizer, coarse_grid
from trt_landmarks.localization.pose import CUBE, UPRIGHT_DEG, PosingLocalizer, Search
from trt_landmarks.localization.shape_model import ShapeModel
from trt_landmarks.preprocessing.reference import Range, ReferencePreprocessor
from trt_landmarks.scan import Scan, ScanFile
from trt_landmarks.task.graphs import COARSE
from trt_landmarks.task.task import Task

CENTRE = np.array([40, -25, 130.0])
#: How far from upright the nets still see the head, degrees.
REACH = 50


class Places(ReferencePreprocessor):
    """A preprocessor whose volumes ``[B, 3, Z, Y, X]`` say where in the world they lie."""

    name = "places"

    def coarse_volumes(
        self, scans: Sequence[Scan], grids: Sequence[Grid], ranges: Sequence[Range]
    ) -> NDArray[np.float32]:
        return np.stack([self._places(grid) for grid in grids])

    @staticmethod
    def _places(grid: Grid) -> NDArray[np.float32]:
        index = np.stack(list(np.indices(grid.shape)), axis=-1).transpose(2, 1, 0, 3)
        return single(np.moveaxis(grid.geometry.voxel_to_world(index), -1, 0))


@dataclass
class Seer:
    """Nets that find the truth if it lies near enough to upright, a little off along the view's own x.

    Args:
        truth: ``[N, 3]`` LPS mm; None: there is nothing to be seen.
    """

    task: Task
    truth: Floats | None
    off: float = 0.0
    name: str = "seer"
    precision: str = "fp32"
    provider: str = "none"
    batches: list[int] = field(default_factory=list)
    sees: bool = False

    def run(self, graph: str, *arrays: NDArray[np.float32]) -> Arrays:
        (array,) = arrays
        if graph == COARSE:
            self.batches.append(len(array))
            return (single([self._coarse(volume.astype(np.float64)) for volume in array]),)
        count = array.shape[1]
        outputs: list[Floats] = [np.zeros((1, count, 3)), np.full((1, count), 0.9 if self.sees else 0.05)]
        return tuple(map(single, outputs if graph == "independent" else [*outputs, np.zeros(1)]))

    def _coarse(self, places: Floats) -> Floats:
        edges = [places[:, -1, -1, -1] - places[:, -1, -1, 0], places[:, -1, -1, -1] - places[:, -1, 0, -1],
                 places[:, -1, -1, -1] - places[:, 0, -1, -1]]  # fmt: skip
        axes = np.stack([edge / np.linalg.norm(edge) for edge in edges], axis=1)
        nothing = np.random.default_rng(1).normal(size=HEAD.shape) * 4
        if self.truth is None:
            return nothing
        seen = (self.truth - places.mean(axis=(1, 2, 3))) @ axes
        if np.linalg.det(axes) < 0:  # who looks into a mirror takes left for right
            seen = seen[list(self.task.mirror or ())]
        self.sees = turned_by(rigid_rotation(HEAD, seen)) < REACH
        return seen + np.array([self.off, 0, 0]) if self.sees else nothing


@pytest.fixture
def confidence(shape: ShapeModel) -> ConfidenceModel:
    """Scores are small for high heat maps and usual shapes."""
    score = Score(np.zeros(2), np.ones(2), np.ones(2), np.zeros(len(HEAD)))
    table = Table(np.array([0.0, 4]), np.array([0.1, 5]), np.array([0.2, 9]))
    return ConfidenceModel(small_task().landmarks, shape, score, table, 1.0, 2.0, 1.5, 0.5, 2.0)


@pytest.fixture
def scan() -> Scan:
    voxels = np.random.default_rng(0).random((30, 34, 32), np.float32)
    return Scan("s", None, voxels, about(CENTRE, (32, 34, 30), (1.0, 1.0, 1.0), rotation(10, 20, 5)))


def localizer(truth: Floats | None, confidence: ConfidenceModel | None, **more: object) -> PosingLocalizer:
    task = small_task()
    return PosingLocalizer(task, HEAD, Seer(task, truth, **more), Places(), confidence)  # type: ignore[arg-type]


def seer(localizer: PosingLocalizer) -> Seer:
    assert isinstance(localizer.engine, Seer)
    return localizer.engine


def test_the_turns_are_those_of_the_cube() -> None:
    assert len({tuple(np.round(turn).astype(int).ravel()) for turn in CUBE}) == 24
    for turn in CUBE:
        np.testing.assert_allclose(turn @ turn.T, np.eye(3))
        assert np.linalg.det(turn) == pytest.approx(1) and np.isin(np.round(turn), (-1, 0, 1)).all()


@pytest.mark.parametrize("name", ["scan's own", "unequal steps"])
def test_flipped_volumes_are_those_of_the_turned_grids(scan: Scan, confidence: ConfidenceModel, name: str) -> None:
    sizes = {"shape": [10, 13, 8], "field_of_view_mm": [24, 20, 27], "width": 2}
    task = small_task() if name == "scan's own" else small_task(coarse=sizes)
    seen: list[NDArray[np.float32]] = []

    class Keeper(Seer):
        def run(self, graph: str, *arrays: NDArray[np.float32]) -> Arrays:
            seen.extend(arrays[0])
            return (np.zeros((len(arrays[0]), len(HEAD), 3), np.float32),)

    keeping = PosingLocalizer(task, HEAD, Keeper(task, None), None, confidence)
    frames, _ = Search(keeping, confidence)._turned(scan, (0.0, 1.0))
    assert len(seen) == 24
    for frame, volume in zip(frames, seen, strict=True):
        grid = coarse_grid(task, scan, frame)
        expected = keeping.preprocessor.coarse_volumes([scan], [grid], [(0.0, 1.0)])[0]
        np.testing.assert_allclose(volume, expected, atol=1e-5)


@pytest.mark.parametrize("angles", [(90, 0, 0), (180, 0, 0), (0, 140, 0), (75, -60, 130), (-100, 50, 20)])
def test_landmarks_of_a_scan_that_lies_anyhow_are_found_in_its_own_world(
    scan: Scan, confidence: ConfidenceModel, angles: tuple[float, ...]
) -> None:
    pose = rotation(*angles)
    truth = HEAD @ pose.T + CENTRE + [3, -2, 1]
    any_pose = localizer(truth, confidence)
    (as_is,) = any_pose.localize_batch([scan], "as-is")
    assert as_is.wrong_anatomy and as_is.pose is None
    seer(any_pose).batches.clear()
    (found,) = any_pose.localize_batch([scan])
    assert not found.wrong_anatomy and "pose_search" in found.timing_ms
    np.testing.assert_allclose(found.points, truth, atol=1e-3)
    np.testing.assert_allclose(found.slices[0].point, truth[[5, 4, 6]].mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(np.abs(found.slices[0].normal), np.abs(pose[:, 0]), atol=1e-3)
    assert found.pose is not None and found.pose.rotation is not None and found.pose.turns == 24
    np.testing.assert_allclose(found.pose.rotation, pose, atol=1e-3)
    assert max(seer(any_pose).batches) == any_pose.task.batches.coarse[2]  # the turns go through the net together
    case = case_result(ScanFile("s", Path("s.nii")), scan, found, any_pose.task)
    assert [one.code for one in case.warnings] == [POSE_SEARCHED]
    assert case.pose is not None and np.allclose(case.pose.rotation_lps or (), pose, atol=1e-3)


def test_scans_near_upright_are_not_searched(scan: Scan, confidence: ConfidenceModel) -> None:
    truth = HEAD @ rotation(0, 12, 10).T + CENTRE
    any_pose = localizer(truth, confidence)
    (found,) = any_pose.localize_batch([scan])
    assert found.pose is None and len(seer(any_pose).batches) == 1
    (as_asked,) = any_pose.localize_batch([scan], "search")
    assert as_asked.pose is not None and as_asked.pose.turns == 24
    np.testing.assert_allclose(as_asked.points, truth, atol=1e-3)


def test_a_credible_scan_that_lies_further_off_is_posed_by_its_own_landmarks(
    scan: Scan, confidence: ConfidenceModel
) -> None:
    any_pose = localizer(HEAD @ rotation(0, 0, UPRIGHT_DEG + 10).T + CENTRE, confidence)
    (found,) = any_pose.localize_batch([scan])
    assert found.pose is not None and (found.pose.turns, found.pose.runs) == (0, 1)
    assert len(seer(any_pose).batches) == 2


def test_what_is_in_no_pose_stays_flagged_and_as_it_is(scan: Scan, confidence: ConfidenceModel) -> None:
    any_pose = localizer(None, confidence)
    (as_is,), (found,) = any_pose.localize_batch([scan], "as-is"), any_pose.localize_batch([scan])
    assert found.wrong_anatomy and found.pose is not None and found.pose.rotation is None
    np.testing.assert_array_equal(found.points, as_is.points)
    case = case_result(ScanFile("s", Path("s.nii")), scan, found, any_pose.task)
    assert [one.code for one in case.warnings] == [NOT_THIS_ANATOMY, POSE_SEARCHED]
    assert case.to_dict()["pose"]["rotation_lps"] is None


def test_without_a_fitted_confidence_scans_are_taken_as_they_lie(scan: Scan) -> None:
    plain = localizer(HEAD @ rotation(180, 0, 0).T + CENTRE, None)
    assert plain.localize_batch([scan])[0].pose is None
    for pose, code in (("search", "pose_unknown"), ("any", "usage")):
        with pytest.raises(TrtlmError) as caught:
            plain.localize_batch([scan], pose)
        assert caught.value.code == code


def test_averaged_views_take_out_what_is_off_to_one_side(scan: Scan, confidence: ConfidenceModel) -> None:
    truth = HEAD + CENTRE
    off = localizer(truth, confidence, off=0.3)
    (single_view,) = off.localize_batch([scan])
    (found,) = off.localize_batch([scan], tta=True)
    np.testing.assert_allclose(single_view.points - truth, np.broadcast_to([0.3, 0, 0], truth.shape), atol=1e-3)
    # Two of the three views are off by 0.3 one way, along axes 8 degrees apart, and one the other way.
    np.testing.assert_allclose((found.points - truth)[:, 0], 0.1, atol=2e-3)
    assert found.mirrored_mm is not None
    np.testing.assert_allclose(found.mirrored_mm, 0.6, atol=1e-3)
    assert single_view.mirrored_mm is None
    assert found.timing_ms.keys() == single_view.timing_ms.keys()


def test_averaged_views_need_a_symmetry(scan: Scan) -> None:
    task = small_task(symmetry=None)
    with pytest.raises(TrtlmError) as caught:
        PosingLocalizer(task, HEAD, Seer(task, None), Places(), tta=True)
    assert caught.value.code == "no_symmetry"


def test_a_landmark_without_a_mirror_image_is_averaged_over_the_other_views(scan: Scan) -> None:
    symmetry = {"axis": "left-right", "pairs": [["ear-l", "ear-r"], ["jaw-l", "jaw-r"]], "midline": ["nose", "top"]}
    task = small_task(symmetry=symmetry)
    truth = HEAD + CENTRE
    (found,) = PosingLocalizer(task, HEAD, Seer(task, truth, off=0.3), Places()).localize_batch([scan], tta=True)
    assert found.mirrored_mm is not None and np.isnan(found.mirrored_mm).tolist() == [False] * 6 + [True]
    assert (found.points - truth)[-1, 0] == pytest.approx(0.3, abs=5e-3) and np.isfinite(found.points).all()


def test_a_frame_is_the_scan_turned_the_other_way(scan: Scan) -> None:
    """Places in the world are the same whatever the frame; only what the nets see differs."""
    task = small_task()
    truth = HEAD + CENTRE
    frame = Frame(rotation(20, -10, 15), CENTRE + np.array([1, 2, -1]))
    (found,) = Localizer(task, HEAD, Seer(task, truth), Places()).localize_in([scan], [frame])
    np.testing.assert_allclose(found.points, truth, atol=1e-3)
