"""Patches for the fine nets: the offsets point at the landmarks that the patches show; heatmaps and losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.synthetic import HEAD, STILL, blobs, head_geometry, rotation, scramble, small_task, training_scan
from trt_landmarks.geometry import Floats, rigid_rotation
from trt_landmarks.nets.correlated import CorrelatedNet
from trt_landmarks.nets.unet import UNets
from trt_landmarks.task.task import Correlated, Task
from trt_landmarks.training.augmentation import Augmentation
from trt_landmarks.training.fine import (
    Patches,
    centred_patches,
    gaussians,
    grow,
    heatmap_loss,
    patch_axes,
    random_patches,
    shared_loss,
    single_from_shared,
    slice_loss,
)
from trt_landmarks.training.scans import TrainingScan

HEIGHTS = [0.35, 0.9, 0.4, 1.0, 0.6, 0.65, 0.7]  # left and right well apart
STRONG = replace(Augmentation(rotation_deg=10), shift=0, gain=0, gamma=0, noise=0)
POSE = rotation(10, -15, 25)


def task_of(frame: str) -> Task:
    fine = {
        "shape": [16, 14, 18], "spacing_mm": [0.6, 0.7, 0.5], "frame": frame, "width": 2, "levels": 2,
        "heatmap_sigma_mm": 1.2,
    }  # fmt: skip
    return small_task(fine=fine)


TASKS = {frame: task_of(frame) for frame in ("scan", "anatomy")}


def head(turn: Floats = POSE) -> TrainingScan:
    geometry = head_geometry(rotation(4, -8, 12), mirrored=True)
    points = HEAD @ turn.T + geometry.centre + [0.3, -0.2, 0.1]
    return training_scan(geometry, points, blobs(geometry, points, HEIGHTS, width=1.2))


def shown(task: Task, patches: Patches, rows: Sequence[int], tolerance: float = 0.35) -> None:
    """Each patch has a blob of its landmark's brightness at its offset."""
    n = [(np.arange(count) - (count - 1) / 2) * s for count, s in
         zip(task.fine.shape, task.fine.spacing_mm, strict=True)]  # fmt: skip
    z, y, x = np.meshgrid(n[2], n[1], n[0], indexing="ij")
    place = np.stack([x, y, z], axis=-1)
    for images, offsets in zip(patches.images.numpy(), patches.offsets.double().numpy(), strict=True):
        for image, offset, row in zip(images, offsets, rows, strict=True):
            near = image * (np.linalg.norm(place - offset, axis=-1) < 2)
            found = (near[..., None] * place).sum(axis=(0, 1, 2)) / near.sum()
            assert np.linalg.norm(found - offset) < tolerance, task.landmarks[row]
            assert near.max() == pytest.approx(HEIGHTS[row], rel=0.35)


# Little noise keeps the blobs whole in their patches.
NOISE = np.array([0.8, 0.8, 0.7])


@pytest.mark.parametrize("frame", TASKS)
@pytest.mark.parametrize("mirror", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_offsets_point_at_the_landmarks(frame: str, mirror: float, seed: int) -> None:
    task, rng = TASKS[frame], np.random.default_rng(seed)
    assert task.mirror is not None
    landmarks = [3, 0, 1, 4]
    patches = random_patches([head()], task, landmarks, HEAD, NOISE, replace(STRONG, mirror=mirror), rng, 2)
    assert patches.images.shape == (2, 4, 18, 14, 16) and patches.offsets.shape == (2, 4, 3)
    shown(task, patches, [task.mirror[n] if mirror else n for n in landmarks])
    assert np.ptp(patches.offsets.numpy(), axis=(0, 1)).min() > 0.3  # the noise of every centre is its own


@pytest.mark.parametrize("frame", TASKS)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("mirror", [0.0, 1.0])
def test_a_groups_patches_share_a_slice(frame: str, axis: int, mirror: float) -> None:
    """Shifted and turned alike, their landmarks lie at their true distances along the axis."""
    task = TASKS[frame]
    members = [5, 4, 6]
    turn = np.eye(3) if axis == 0 else POSE  # resetting along other axes moves far: keep the blobs inside
    scan = head(turn)
    if axis:
        scan.points[members, axis] = scan.points[5, axis] + [0, 0.6, -0.8]
        scan = training_scan(scan.geometry, scan.points, blobs(scan.geometry, scan.points, HEIGHTS, 1.2))
    still = replace(STILL, mirror=mirror)
    patches = random_patches([scan], task, members, HEAD, NOISE, still, np.random.default_rng(1), 2, axis)
    axes = patch_axes(scan.points, HEAD, task)
    along = scan.points[members] @ axes[:, axis] * (-1 if mirror and axis == 0 else 1)
    for offsets in patches.offsets.double().numpy():
        np.testing.assert_allclose(offsets[:, axis] - offsets[0, axis], along - along[0], atol=1e-4)
    if frame == "scan" or axis == 0:
        shown(task, patches, members)


def test_a_mirrored_patch_is_the_partners_mirror_image() -> None:
    task = TASKS["scan"]
    nothing = np.zeros(3)
    plain = random_patches([head()], task, [1, 0], HEAD, nothing, STILL, np.random.default_rng(0), 1)
    mirrored = random_patches(
        [head()], task, [0, 1], HEAD, nothing, replace(STILL, mirror=1.0), np.random.default_rng(0), 1
    )
    torch.testing.assert_close(mirrored.images, plain.images.flip(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(mirrored.offsets, torch.zeros(1, 2, 3), atol=1e-5, rtol=0)


def test_what_has_no_mirror_image_is_not_shown_mirrored() -> None:
    fine = TASKS["scan"].fine.model_dump()
    task = small_task(fine=fine, symmetry={"axis": "left-right", "pairs": [["ear-l", "ear-r"]], "midline": ["nose"]})
    mirror = replace(STILL, mirror=1.0)
    for landmarks in ([3], [0, 3]):
        plain = random_patches([head()], task, landmarks, HEAD, NOISE, STILL, np.random.default_rng(0), 1)
        again = random_patches([head()], task, landmarks, HEAD, NOISE, mirror, np.random.default_rng(0), 1)
        torch.testing.assert_close(again.images, plain.images)
        torch.testing.assert_close(again.offsets, plain.offsets)


@pytest.mark.parametrize("frame", TASKS)
@pytest.mark.parametrize("axis", [None, 0])
def test_centred_patches_are_those_of_inference(frame: str, axis: int | None) -> None:
    task, scan = TASKS[frame], head()
    coarse = scan.points + np.random.default_rng(0).uniform(-0.7, 0.7, scan.points.shape)
    members = [5, 4, 6]
    patches = centred_patches(scan, task, members, HEAD, coarse, axis)
    assert patches.images.shape == (1, 3, 18, 14, 16)
    axes = np.eye(3) if frame == "scan" else rigid_rotation(HEAD, coarse)
    offsets = patches.offsets[0].double().numpy()
    centres = scan.points[members] - offsets @ axes.T
    if axis is None:
        np.testing.assert_allclose(centres, coarse[members], atol=1e-4)
        shown(task, patches, members)
    else:
        assert np.ptp(centres @ axes[:, axis]) < 1e-4
        if frame == "anatomy":
            shown(task, patches, members)


def test_axes_of_patches() -> None:
    scan = head()
    np.testing.assert_array_equal(patch_axes(scan.points, HEAD, TASKS["scan"]), np.eye(3))
    np.testing.assert_allclose(patch_axes(scan.points, HEAD, TASKS["anatomy"]), POSE, atol=1e-9)
    partly = scan.points.copy()
    partly[:4] = np.nan
    partly[4:] += np.random.default_rng(0).normal(size=(3, 3)) * 1e-6
    np.testing.assert_allclose(patch_axes(partly, HEAD, TASKS["anatomy"]), POSE, atol=1e-4)
    partly[4] = np.nan
    np.testing.assert_array_equal(patch_axes(partly, HEAD, TASKS["anatomy"]), np.eye(3))


def test_noise_leaves_the_landmark_in_its_patch() -> None:
    task = TASKS["scan"]
    patches = random_patches([head()], task, [0, 1], HEAD, np.full(3, 1000.0), STILL, np.random.default_rng(0), 4)
    limit = (np.array(task.fine.shape) / 2 - 2) * task.fine.spacing_mm
    np.testing.assert_allclose(patches.offsets.abs().numpy(), np.broadcast_to(limit, (4, 2, 3)), rtol=1e-4)


# --- what is not annotated ----------------------------------------------------------------------------------


def partly(*missing: int) -> TrainingScan:
    scan = head()
    scan.points[list(missing)] = np.nan
    return scan


def test_a_missing_landmark_is_left_out_of_the_loss() -> None:
    task = TASKS["anatomy"]
    patches = random_patches([partly(4)], task, [5, 4, 6], HEAD, NOISE, STILL, np.random.default_rng(0), 1, 0)
    assert torch.isnan(patches.offsets[0, 1]).all() and torch.isfinite(patches.offsets[0, [0, 2]]).all()
    assert torch.isfinite(patches.images).all()
    heatmaps = torch.zeros(1, 3, 18, 14, 16, requires_grad=True)
    loss = heatmap_loss(heatmaps, patches.offsets, task) + slice_loss(heatmaps[:, 0, 0, 0], patches.offsets, 0, task)
    loss.backward()
    assert torch.isfinite(loss) and heatmaps.grad is not None and torch.isfinite(heatmaps.grad).all()
    assert (heatmaps.grad[0, 1] == 0).all() and (heatmaps.grad[0, 0] != 0).any()


@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_in_which_nothing_is_annotated_teaches_nothing(batch: int) -> None:
    """Not NaN, which would ruin the weights for good."""
    task = TASKS["anatomy"]
    scans = [partly(4, 5, 6)] * batch
    patches = random_patches(scans, task, [5, 4, 6], HEAD, NOISE, STILL, np.random.default_rng(0), batch, 0)
    assert torch.isfinite(patches.images).all() and torch.isnan(patches.offsets).all()
    net = scramble(CorrelatedNet(3, 2, 2, 0, Correlated()))
    heatmaps, slices = net(patches.images)
    loss = heatmap_loss(heatmaps, patches.offsets, task) + slice_loss(slices, patches.offsets, 0, task)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and (p.grad == 0).all() for p in net.parameters())


def test_a_scan_without_the_group_does_not_disturb_the_others() -> None:
    task = TASKS["scan"]
    offsets = torch.tensor([[[0.5, 0, 0], [0.1, 0, 0]], [[float("nan")] * 3] * 2])
    line = torch.rand(2, 16, requires_grad=True)
    loss = slice_loss(line, offsets, 0, task)
    assert loss.item() == pytest.approx(slice_loss(line[:1], offsets[:1], 0, task).item())
    loss.backward()
    assert line.grad is not None and torch.isfinite(line.grad).all() and (line.grad[1] == 0).all()


# --- heatmaps and losses ------------------------------------------------------------------------------------


def test_gaussians_by_hand() -> None:
    task = TASKS["scan"]
    offsets = torch.tensor([[[0.3, -0.35, 1.25], [float("nan"), 0, 0]]])  # a voxel's own centre
    heatmaps, known = gaussians(offsets, task)
    assert heatmaps.shape == (1, 2, 18, 14, 16) and known.tolist() == [[True, False]]
    z, y, x = np.unravel_index(int(heatmaps[0, 0].argmax()), (18, 14, 16))
    assert [int(x), int(y), int(z)] == [8, 6, 11] and heatmaps[0, 0].max().item() == pytest.approx(1)
    assert heatmaps[0, 0, 11, 6, 10].item() == pytest.approx(np.exp(-0.5 * (2 * 0.6 / 1.2) ** 2), abs=1e-6)
    assert heatmaps[0, 0, 11, 4, 8].item() == pytest.approx(np.exp(-0.5 * (2 * 0.7 / 1.2) ** 2), abs=1e-6)
    assert heatmaps[0, 0, 9, 6, 8].item() == pytest.approx(np.exp(-0.5 * (2 * 0.5 / 1.2) ** 2), abs=1e-6)


def test_losses_by_hand() -> None:
    task = TASKS["scan"]
    offsets = torch.tensor([[[0.3, -0.35, 0.25], [0.9, 0.35, -0.25]]])
    target, _ = gaussians(offsets, task)
    assert heatmap_loss(target, offsets, task).item() == 0
    # Saying nothing costs the Gaussian's own energy, which is the unit (but for what the patch cuts off).
    assert heatmap_loss(torch.zeros_like(target), offsets, task).item() == pytest.approx(1, abs=0.01)
    assert heatmap_loss(torch.stack([target[:, 0], 0 * target[:, 1]], 1), offsets, task).item() == pytest.approx(
        0.5, abs=0.01
    )
    position = (torch.arange(14) - 6.5) * 0.7
    line = torch.exp(-0.5 * (position / 1.2).square())[None]  # the two landmarks' mean y is 0
    assert slice_loss(line, offsets, 1, task).item() == pytest.approx(0, abs=1e-9)
    assert slice_loss(0 * line, offsets, 1, task).item() == pytest.approx(1, abs=0.01)


class Sees(nn.Module):
    """Head n answers with n + 1 everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[1] == 1
        return torch.arange(1.0, 8.0).reshape(1, 7, 1, 1, 1) * torch.ones_like(images)


def test_the_shared_net_is_asked_for_the_landmark_it_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from trt_landmarks.training import fine

    asked: list[tuple[Tensor, Tensor]] = []

    def listen(heatmaps: Tensor, offsets: Tensor, task: Task) -> Tensor:
        asked.append((heatmaps, offsets))
        return heatmaps.sum()

    monkeypatch.setattr(fine, "heatmap_loss", listen)
    wanted = np.random.default_rng(3).integers(7, size=6)
    shared_loss(Sees(), [head()], TASKS["scan"], HEAD, NOISE, STILL, np.random.default_rng(3), 6)
    ((heatmaps, offsets),) = asked
    assert heatmaps.shape == (6, 1, 18, 14, 16) and offsets.shape == (6, 1, 3)
    assert (heatmaps[:, 0, 0, 0, 0] - 1).tolist() == wanted.tolist()


# --- nets that start from the shared one --------------------------------------------------------------------


def test_single_nets_start_from_the_shared_one() -> None:
    shared = scramble(UNets(1, 2, 2, heads=7)).eval()
    x = torch.rand(1, 1, 8, 8, 8)
    for landmark in (0, 4):
        single = UNets(1, 2, 2).eval()
        single.load_state_dict(single_from_shared(shared.state_dict(), landmark))
        torch.testing.assert_close(single(x), shared(x)[:, landmark : landmark + 1])
    single_from_shared(shared.state_dict(), 1)["decoder.head.bias"].zero_()
    assert (shared.state_dict()["decoder.head.bias"] != 0).all()


def test_a_group_grows_from_single_nets() -> None:
    singles = [scramble(UNets(1, 2, 3), seed).eval() for seed in range(3)]
    x = torch.rand(1, 3, 8, 8, 8)
    expected = torch.cat([net(x[:, n : n + 1]) for n, net in enumerate(singles)], dim=1)
    plain = CorrelatedNet(3, 2, 3, 0, Correlated(
        fusion=False, channel_attention=False, spatial_attention=False, slice_branch=False
    )).eval()  # fmt: skip
    grow(plain, [net.state_dict() for net in singles])
    torch.testing.assert_close(plain(x)[0], expected)
    whole = CorrelatedNet(3, 2, 3, 0, Correlated()).eval()
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    grow(whole, [net.state_dict() for net in singles])
    name = "decoder.reduce.0.conv.weight"
    torch.testing.assert_close(whole.state_dict()[name][:, 8:], before[name][:, 8:] * 0.1)
    torch.testing.assert_close(whole.state_dict()["fuse.0.weight"], before["fuse.0.weight"])
    with torch.no_grad():
        whole.get_parameter(name)[:, 8:] = 0
    torch.testing.assert_close(whole(x)[0], expected)
