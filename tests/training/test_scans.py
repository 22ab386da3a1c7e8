"""Training scans: sampled as at inference, and averaged to a shape that is the anatomy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.synthetic import HEAD, about, field, head_geometry, rotation, small_task, training_scan, voxel_positions
from trt_landmarks.data.dataset import Case
from trt_landmarks.geometry import Floats, Geometry, Grid
from trt_landmarks.preprocessing.sampling import intensity_range, normalize, sample
from trt_landmarks.scan import Scan, read_scan, write_scan
from trt_landmarks.training.scans import TrainingScan, load_training_scan, load_training_scans, mean_shape

GEOMETRIES = [
    head_geometry(),
    head_geometry(mirrored=True),
    head_geometry(rotation(20, 30, -50)),
    about((-400, 300, 900), (9, 30, 17), (3, 0.9, 1.6), rotation(-70, 10, 25) @ np.diag([1, 1, -1])),
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("axes", [np.eye(3), rotation(15, -35, 80)], ids=["world", "turned"])
def test_it_samples_as_inference_does(geometry: Geometry, axes: Floats) -> None:
    voxels = np.random.default_rng(1).random(geometry.size[::-1]).astype(np.float32)
    scan = training_scan(geometry, HEAD, voxels)
    centre = geometry.centre + np.array([4, -7, 3])
    shape, spacing = (20, 18, 22), (1.3, 1.1, 0.7)
    found = scan.sample(centre, axes, shape, spacing)
    assert found.shape == (1, 1, 22, 18, 20)
    expected = sample(voxels, geometry, Grid(shape, spacing, centre, axes))
    assert 0.05 < (expected == 0).mean() < 0.95  # partly outside
    at_border = (found[0, 0].numpy() == 0) != (expected == 0)  # float32 decides the half voxel otherwise
    assert at_border.mean() < 0.002
    np.testing.assert_allclose(np.where(at_border, 0, found[0, 0].numpy()), np.where(at_border, 0, expected), atol=1e-3)


def test_axes_may_scale_and_mirror() -> None:
    """Sample (x, y, z) lies at centre + axes @ offset whatever the axes are."""
    geometry = head_geometry(rotation(5, 6, 7))
    axes = rotation(10, 0, 30) @ np.array([[-1.2, 0.1, 0], [0, 0.8, 0.05], [0.02, 0, 1.1]])
    scan = training_scan(geometry, HEAD, field(voxel_positions(geometry)).astype(np.float32))
    found = scan.sample(geometry.centre, axes, (7, 8, 9), (0.5, 0.6, 0.7))[0, 0].numpy()
    for x, y, z in ((0, 0, 0), (6, 7, 8), (5, 0, 3)):
        offset = (np.array([x, y, z]) - [3, 3.5, 4]) * [0.5, 0.6, 0.7]
        assert found[z, y, x] == pytest.approx(field(geometry.centre + axes @ offset), abs=0.02)


def test_loading_normalizes(tmp_path: Path) -> None:
    geometry = head_geometry()
    voxels = (field(voxel_positions(geometry)) * 3000 - 1000).astype(np.int16)
    write_scan(Scan("a", None, voxels, geometry), tmp_path / "a.mha")
    task = small_task(intensity={"low": 5, "high": 95})
    scan = load_training_scan(Case("a", tmp_path / "a.mha", HEAD), task, torch.device("cpu"))
    expected = normalize(voxels.astype(np.float32), *intensity_range(voxels, task.intensity))
    np.testing.assert_allclose(scan.volume[0, 0].numpy(), expected, atol=1e-6)
    assert scan.volume.dtype == torch.float32 and scan.id == "a"
    np.testing.assert_array_equal(scan.points, HEAD)


def test_a_real_scan_is_sampled_as_at_inference(mouse_scans: list[Path]) -> None:
    task = small_task(intensity={}, coarse={"shape": [20, 30, 18], "field_of_view_mm": [20.8, 31.2, 18.4]})
    case = Case("x", mouse_scans[5], HEAD)
    training = load_training_scan(case, task, torch.device("cpu"))
    scan = read_scan(mouse_scans[5])
    grid = Grid(task.coarse.shape, task.coarse.spacing_mm, scan.geometry.centre + 0.01)
    low, high = intensity_range(scan.voxels, task.intensity)
    # Here clipping comes after interpolation, there before: bright noise differs a little.
    expected = normalize(sample(np.clip(scan.voxels, low, high), scan.geometry, grid, low), low, high)
    found = training.sample(grid.centre, np.eye(3), grid.shape, grid.spacing)
    np.testing.assert_allclose(found[0, 0].numpy(), expected, atol=1e-3)


# --- the mean shape -----------------------------------------------------------------------------------------


def posed(turn: Floats, shift: Floats, points: Floats = HEAD) -> TrainingScan:
    geometry = head_geometry()
    return TrainingScan("x", torch.zeros(1), geometry, points @ turn.T + shift + geometry.centre)


def test_poses_are_averaged_out() -> None:
    rng = np.random.default_rng(0)
    scans = [posed(rotation(*rng.uniform(-20, 20, 3)), rng.normal(size=3)) for _ in range(8)]
    mean = mean_shape(scans, None, None)
    distances = np.linalg.norm(mean[:, None] - mean[None], axis=-1)
    np.testing.assert_allclose(distances, np.linalg.norm(HEAD[:, None] - HEAD[None], axis=-1), atol=0.02)


def test_the_mean_shape_is_symmetric() -> None:
    task = small_task()
    rng = np.random.default_rng(3)
    scans = [posed(rotation(*rng.uniform(-9, 9, 3)), rng.normal(size=3), HEAD + rng.normal(size=HEAD.shape) * 0.3)
             for _ in range(6)]  # fmt: skip
    assert task.mirror is not None
    mean = mean_shape(scans, task.mirror, 0)
    mirrored = mean[list(task.mirror)]
    np.testing.assert_allclose(mean[:, 1:], mirrored[:, 1:], atol=1e-12)
    middle = mean[:, 0].mean()
    np.testing.assert_allclose(mean[:, 0] - middle, middle - mirrored[:, 0], atol=1e-12)
    np.testing.assert_allclose(mean[[4, 5, 6], 0], middle, atol=1e-12)
    # Where the heads were in their scans is kept.
    places = [scan.points - scan.geometry.centre for scan in scans]
    np.testing.assert_allclose(mean.mean(0), np.mean(places, axis=(0, 1)), atol=0.1)


def test_what_has_no_mirror_image_stays_on_its_side() -> None:
    midline = ["nose", "top", "neck"]
    task = small_task(symmetry={"axis": "left-right", "pairs": [["ear-l", "ear-r"]], "midline": midline})
    mean = mean_shape([posed(np.eye(3), np.zeros(3))] * 2, task.mirror, 0)
    np.testing.assert_allclose(mean, HEAD, atol=1e-9)


def test_the_mean_shape_of_partly_annotated_scans() -> None:
    scans = [posed(rotation(0, 0, 5 * n), np.zeros(3)) for n in range(4)]
    for n, scan in enumerate(scans):
        scan.points[n] = np.nan
    few = posed(np.eye(3), np.zeros(3))
    few.points[2:] = np.nan
    mean = mean_shape([*scans, few], small_task().mirror, 0)
    assert np.isfinite(mean).all()
    distances = np.linalg.norm(mean[:, None] - mean[None], axis=-1)
    np.testing.assert_allclose(distances, np.linalg.norm(HEAD[:, None] - HEAD[None], axis=-1), atol=0.3)


def test_large_sets_are_mapped_from_files_and_sample_the_same(tmp_path: Path) -> None:
    cases = []
    for n in range(3):
        geometry = head_geometry(rotation(10 * n, 5, 0))
        voxels = field(voxel_positions(geometry), n).astype(np.float32)
        write_scan(Scan(str(n), None, voxels, geometry), tmp_path / f"{n}.mha")
        cases.append(Case(str(n), tmp_path / f"{n}.mha", HEAD + geometry.centre))
    task, cpu = small_task(), torch.device("cpu")
    plain = load_training_scans(cases, task, cpu, tmp_path)
    assert all(scan.volume.dtype == torch.float32 for scan in plain)
    folder = tmp_path / "mapped"
    folder.mkdir()
    mapped = load_training_scans(cases, task, cpu, folder, room=plain[0].volume.nbytes)
    assert [scan.volume.dtype for scan in mapped] == [torch.float32, torch.float16, torch.float16]
    assert len(list(folder.iterdir())) == 2
    rng = np.random.default_rng(0)
    for a, b in zip(plain, mapped, strict=True):
        for reach in (0.0, 10.0, 100.0):
            centre = a.geometry.centre + rng.uniform(-reach, reach, 3)
            arguments = (centre, rotation(*rng.uniform(-90, 90, 3)), (9, 8, 10), (1.1, 0.9, 1.3))
            torch.testing.assert_close(b.sample(*arguments), a.sample(*arguments), atol=2e-3, rtol=0)


def test_a_single_slice_is_sampled(tmp_path: Path) -> None:
    geometry = about((1, 2, 3), (30, 34, 1), (0.9, 1.0, 6), np.eye(3))
    voxels = np.random.default_rng(1).random(geometry.size[::-1]).astype(np.float32)
    scan = training_scan(geometry, HEAD, voxels)
    found = scan.sample(geometry.centre, np.eye(3), (20, 18, 8), (1.3, 1.1, 1.0))[0, 0].numpy()
    expected = sample(voxels, geometry, Grid((20, 18, 8), (1.3, 1.1, 1.0), geometry.centre))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (found[1:7] > 0).any() and not found[0].any() and not found[7].any()
