"""The plain script is right: its patches lie where it says, and its points are those of the nets on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch

from benchmarks.pytorch.script import Script, _cut, script_nets
from tests.synthetic import about, field, rotation, voxel_positions
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.geometry import Grid
from trt_landmarks.localization.localizer import Frame, Localizer
from trt_landmarks.nets.folding import folded
from trt_landmarks.preprocessing.reference import view
from trt_landmarks.preprocessing.sampling import intensity_range
from trt_landmarks.scan import Scan, read_scan, write_scan
from trt_landmarks.training.checkpoint import Checkpoint


@pytest.fixture(scope="module")
def oblique(tmp_path_factory: pytest.TempPathFactory) -> Path:
    geometry = about((20, -30, 60), (40, 36, 30), (0.6, 0.7, 0.9), rotation(11, -7, 23))
    voxels = (200 * field(voxel_positions(geometry))).astype(np.int16)
    path = tmp_path_factory.mktemp("script") / "oblique.nii.gz"
    write_scan(Scan("oblique", path, voxels, geometry), path)
    return path


@pytest.fixture(scope="module")
def script(tiny_checkpoint: Checkpoint) -> Script:
    nets = script_nets(tiny_checkpoint.task, tiny_checkpoint.nets)
    return Script(tiny_checkpoint.task, tiny_checkpoint.mean_shape, nets)


def test_patches_are_those_of_the_reference_about_the_centres_it_gives(script: Script, oblique: Path) -> None:
    scan, fine = read_scan(oblique), script.task.fine
    low, high = intensity_range(scan.voxels, script.task.intensity)
    axes, random = rotation(-4, 9, 15), np.random.default_rng(0)
    centres = scan.geometry.centre + random.uniform(-12, 12, (6, 3))  # some patches reach out
    moved, patches = script._patches(sitk.ReadImage(str(oblique)), centres, axes, low, high)
    assert np.abs((moved - centres) @ axes).max() <= fine.spacing_mm[0] / 2 + 1e-9
    for centre, patch in zip(moved, patches, strict=True):
        expected = view(scan, Grid(fine.shape, fine.spacing_mm, centre, axes), (low, high))
        apart = np.abs(patch - expected)
        assert np.quantile(apart, 0.99) < 1e-4  # at the very face of the scan, ITK rounds otherwise
        assert 0 < patch.mean() < 1


def test_blocks_that_reach_out_are_filled_with_zeros() -> None:
    volume = np.arange(1, 28, dtype=np.float32).reshape(3, 3, 3)
    np.testing.assert_array_equal(_cut(volume, np.array([0, 0, 0]), np.array([3, 3, 3])), volume)
    shifted = _cut(volume, np.array([-1, 1, 2]), np.array([2, 3, 3]))
    np.testing.assert_array_equal(shifted[1, :2, 0], volume[0, 1:, 2])
    assert shifted.sum() == volume[0, 1:, 2].sum()
    for far in ([5, 0, 0], [0, -9, 0]):
        assert not _cut(volume, np.array(far), np.array([2, 2, 2])).any()


def test_its_points_are_those_of_the_batched_nets(
    script: Script, tiny_checkpoint: Checkpoint, oblique: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tiny_checkpoint.task
    seen: list[np.ndarray] = []
    cut = script._patches

    def recorded(*arguments):
        moved, patches = cut(*arguments)
        seen.extend([moved, np.stack(patches), arguments[2]])
        return moved, patches

    monkeypatch.setattr(script, "_patches", recorded)
    points, stages = script.localize(oblique, tmp_path / "out.json")
    moved, patches, axes = seen
    engine = TorchEngine({graph: folded(net) for graph, net in tiny_checkpoint.nets.items()})
    localizer = Localizer(task, tiny_checkpoint.mean_shape, engine)
    for graph, rows in localizer.members.items():
        offsets = engine.run(graph, patches[list(rows)][None])[0][0]
        np.testing.assert_allclose(points[list(rows)], moved[list(rows)] + offsets @ axes.T, atol=1e-4)
    scan = read_scan(oblique)
    coarse = localizer.localize(scan).coarse_points
    pose = localizer._pose(Frame.own(scan), coarse)
    np.testing.assert_allclose(axes, pose.axes, atol=1e-4)
    assert np.abs((moved - pose.centres) @ axes).max() <= task.fine.spacing_mm[0] / 2 + 1e-3
    written = json.loads((tmp_path / "out.json").read_text())["landmarks"]
    np.testing.assert_allclose([written[name] for name in task.landmarks], points)
    assert list(stages) == [
        "read", "normalize", "coarse_resample", "coarse", "patch_sampling", "fine_independent", "fine_correlated",
        "write",
    ]  # fmt: skip


def test_single_nets_are_the_batched_net_taken_apart(script: Script, tiny_checkpoint: Checkpoint) -> None:
    patches = torch.rand(1, 3, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    batched = tiny_checkpoint.nets["independent"]
    with torch.no_grad():
        expected = batched.nets(patches)  # type: ignore[operator]
        single = [net(patches[:, n : n + 1]) for n, net in enumerate(script.nets.independent)]
    torch.testing.assert_close(torch.cat(single, dim=1), expected, rtol=1e-4, atol=1e-5)
