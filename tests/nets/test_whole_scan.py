"""The geometry as modules does what the host's reference does, for any scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.synthetic import rotation, small_task
from trt_landmarks.geometry import STEADY, Geometry, Grid, anatomy_axes, steadiness
from trt_landmarks.localization.localizer import Frame, Localizer
from trt_landmarks.localization.whole_scan import placement
from trt_landmarks.nets.whole_scan import Landmarks, PatchViews, Pose, View, _positions
from trt_landmarks.preprocessing.reference import ReferencePreprocessor
from trt_landmarks.preprocessing.sampling import intensity_range, normalize, sample
from trt_landmarks.scan import Scan
from trt_landmarks.task.task import Task

numbers = st.integers(0, 2**31)


def task_of(frame: str = "anatomy") -> Task:
    fine = small_task().fine.model_dump() | {"frame": frame}
    return small_task(intensity={"method": "percentile"}, fine=fine)


def any_scan(rng: np.random.Generator) -> Scan:
    """Noise of any size, spacing, direction, handedness and type, somewhere far from the origin."""
    size = tuple(int(n) for n in rng.integers(1, 14, 3))
    direction = rotation(*rng.uniform(-180, 180, 3)) * rng.choice([-1, 1], 3)
    spacing, origin = tuple(rng.uniform(0.05, 3, 3)), tuple(rng.uniform(-500, 500, 3))
    dtype = ("uint8", "int16", "float32")[rng.integers(3)]
    voxels = rng.integers(0, 250, size[::-1]).astype(dtype)
    return Scan("noise", None, voxels, Geometry(size, spacing, origin, direction))  # type: ignore[arg-type]


def tensors(scan: Scan, task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded voxels and their placement."""
    intensities = intensity_range(scan.voxels, task.intensity)
    grid = Grid(task.coarse.shape, task.coarse.spacing_mm, scan.geometry.centre)
    _, voxels = ReferencePreprocessor().scan_volumes(scan, grid, intensities, None)
    return torch.from_numpy(voxels), torch.from_numpy(placement(scan, intensities))


def smooth_enough(scan: Scan, grid: Grid) -> np.ndarray:
    """Where rounding cannot decide between inside and outside."""
    positions = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1).transpose(2, 1, 0, 3)
    voxel = scan.geometry.world_to_voxel(grid.geometry.voxel_to_world(positions))
    size = np.asarray(scan.geometry.size)
    return np.all((np.abs(voxel + 0.5) > 1e-3) & (np.abs(voxel - size + 0.5) > 1e-3), axis=-1)


@given(numbers)
@settings(max_examples=60, deadline=None)
def test_a_view_is_what_the_reference_samples(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scan, task = any_scan(rng), task_of()
    ranges = intensity_range(scan.voxels, task.intensity)
    if ranges[1] <= ranges[0]:
        return
    grid = Grid(task.coarse.shape, task.coarse.spacing_mm, scan.geometry.centre)
    expected = normalize(sample(scan.voxels, scan.geometry, grid, fill=ranges[0]), *ranges)
    positions = _positions(task.coarse.shape, task.coarse.spacing_mm)
    found = View()(*tensors(scan, task), positions)[0].numpy()
    sure = smooth_enough(scan, grid)
    assert np.abs(found - expected)[sure].max(initial=0) < 2e-3  # FP32: a voxel's place to 1e-5 of its range


@given(numbers)
@settings(max_examples=100, deadline=None)
def test_a_pose_without_singular_values(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = rng.normal(size=(int(rng.integers(4, 40)), 3)) * rng.uniform(2, 40, 3)
    turned = shape @ rotation(*rng.uniform(-180, 180, 3)).T
    points = turned + rng.normal(size=shape.shape) * 0.3 + rng.uniform(-99, 99, 3)
    assume(steadiness(shape) > STEADY)  # else no pose is asked for
    found = Pose(shape)(torch.tensor(points[None], dtype=torch.float32))[0].numpy()
    np.testing.assert_allclose(found, anatomy_axes(shape, points), atol=1e-4)
    np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-5)
    assert np.linalg.det(found) > 0


@pytest.mark.parametrize("kind", ["line", "nearly a line", "one place", "mirrored"])
def test_points_that_determine_no_rotation_leave_the_world_s_axes(kind: str) -> None:
    rng = np.random.default_rng(5)
    shape = rng.normal(size=(6, 3)) * [30, 20, 1e-6]
    turned = shape @ rotation(20, 30, 40).T
    points = {
        "line": np.outer(shape[:, 0], [1, 0, 0]),
        "nearly a line": turned[:, :1] * [1, 2, 3] + rng.normal(size=shape.shape) * 1e-3,
        "one place": np.ones((6, 3)),
        "mirrored": rng.normal(size=(6, 1)) * [0, 0, 1.0],
    }[kind]
    np.testing.assert_array_equal(anatomy_axes(shape, points), np.eye(3))
    found = Pose(shape)(torch.tensor(points[None], dtype=torch.float32))[0].numpy()
    np.testing.assert_array_equal(found, np.eye(3))


@pytest.mark.parametrize("frame", ["scan", "anatomy"])
def test_patches_are_those_of_the_host(frame: str) -> None:
    rng = np.random.default_rng(3)
    task = task_of(frame)
    shape = rng.normal(size=(len(task.landmarks), 3)) * 8
    localizer = Localizer(task, shape, None)  # type: ignore[arg-type]
    for _ in range(5):
        scan = any_scan(rng)
        points = shape @ rotation(*rng.uniform(-30, 30, 3)).T + rng.normal(size=shape.shape)
        expected = localizer.patches(scan, scan.geometry.centre + points)
        inputs = tensors(scan, task)
        axes, centres, *patches = PatchViews(task, shape)(*inputs, torch.tensor(points[None], dtype=torch.float32))
        pose = localizer._pose(Frame.own(scan), scan.geometry.centre + points)
        np.testing.assert_allclose(axes[0], pose.axes, atol=1e-4)
        np.testing.assert_allclose(centres[0] + scan.geometry.centre, pose.centres, atol=1e-3)
        for (graph, array), found in zip(expected.items(), patches, strict=True):
            difference = np.abs(found[0].numpy() - array)
            assert np.quantile(difference, 0.99) < 2e-3, graph  # border samples may fall to either side


def test_landmarks_come_in_the_task_s_order() -> None:
    task = small_task()
    count = len(task.landmarks)
    module = Landmarks(task)
    axes, centres = torch.eye(3)[None], torch.arange(count * 3).reshape(1, count, 3).float()
    found: list[torch.Tensor] = []
    for rows, axis in module.parts:
        found += [torch.ones(1, len(rows), 3), torch.tensor([[float(row) for row in rows]])]
        if axis is not None and module.slices:
            found.append(torch.tensor([5.0]))
    points, confidence, *planes = module(axes, centres, *found)
    torch.testing.assert_close(points, centres + 1)
    torch.testing.assert_close(confidence[0], torch.arange(count).float())
    for n, group in enumerate(task.groups if planes else ()):
        middle = centres[0, list(task.members(group))].mean(0)
        middle[group.axis_index] += 5
        torch.testing.assert_close(planes[0][0, n], middle)
