"""Views for the coarse net: the targets lie where the landmarks are seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.synthetic import HEAD, STILL, blobs, head_geometry, rotation, small_task, training_scan
from trt_landmarks.geometry import Floats
from trt_landmarks.training.augmentation import Augmentation
from trt_landmarks.training.coarse import coarse_batch, coarse_loss, mean_radial_error, predict_coarse
from trt_landmarks.training.scans import TrainingScan

TASK = small_task(coarse={"shape": [30, 36, 28], "field_of_view_mm": [30, 36, 28], "width": 2})
HEIGHTS = [0.35, 0.9, 0.4, 1.0, 0.6, 0.65, 0.7]  # left and right well apart


def head(turn: Floats | None = None) -> TrainingScan:
    turn = np.eye(3) if turn is None else turn
    geometry = head_geometry(rotation(4, -8, 12))
    points = HEAD @ turn.T + geometry.centre
    return training_scan(geometry, points, blobs(geometry, points, HEIGHTS, width=1.3))


def seen(volume: Tensor, target: Floats) -> tuple[Floats, float]:
    """Centre of mass about ``target`` (mm from the middle), and the brightness there."""
    z, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in volume.shape), indexing="ij")
    place = np.stack([x, y, z], axis=-1) * TASK.coarse.spacing_mm
    weights = volume.numpy() * (np.linalg.norm(place - target, axis=-1) < 2.5)
    return (weights[..., None] * place).sum(axis=(0, 1, 2)) / weights.sum(), float(weights.max())


STRONG = replace(Augmentation(), shift=0, gain=0, gamma=0, noise=0, translation=0.05)


@pytest.mark.parametrize("mirror", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_targets_are_where_the_landmarks_are(mirror: float, seed: int) -> None:
    scan = head()
    volumes, targets = coarse_batch([scan], TASK, replace(STRONG, mirror=mirror), np.random.default_rng(seed), 2)
    assert volumes.shape == (2, 1, 28, 36, 30) and targets.shape == (2, 7, 3)
    assert TASK.mirror is not None
    for volume, target in zip(volumes[:, 0], targets.double().numpy(), strict=True):
        for n, point in enumerate(target):
            found, height = seen(volume, point)
            assert np.linalg.norm(found - point) < 0.35, TASK.landmarks[n]
            # In a mirrored view the left ear is the one that was the right ear.
            assert height == pytest.approx(HEIGHTS[TASK.mirror[n] if mirror else n], rel=0.35)


def test_without_augmentation_the_view_is_that_of_inference() -> None:
    scan = head(rotation(0, 0, 10))
    volumes, targets = coarse_batch([scan], TASK, STILL, np.random.default_rng(0), 1)
    torch.testing.assert_close(
        volumes, scan.sample(scan.geometry.centre, np.eye(3), TASK.coarse.shape, TASK.coarse.spacing_mm)
    )
    np.testing.assert_allclose(targets[0].numpy(), scan.points - scan.geometry.centre, atol=1e-5)


def test_a_mirrored_view_is_the_mirror_image() -> None:
    plain, points = coarse_batch([head()], TASK, STILL, np.random.default_rng(0), 1)
    mirrored, mirrored_points = coarse_batch([head()], TASK, replace(STILL, mirror=1.0), np.random.default_rng(0), 1)
    torch.testing.assert_close(mirrored, plain.flip(4), atol=1e-4, rtol=0)
    assert TASK.mirror is not None
    expected = points[:, list(TASK.mirror)] * torch.tensor([-1.0, 1, 1])
    torch.testing.assert_close(mirrored_points, expected, atol=1e-4, rtol=0)


def test_a_mirrored_view_does_not_ask_for_what_has_no_mirror_image() -> None:
    task = small_task(
        symmetry={"axis": "left-right", "pairs": [["ear-l", "ear-r"]], "midline": ["nose"]},
        coarse=TASK.coarse.model_dump(),
    )
    _, plain = coarse_batch([head()], task, STILL, np.random.default_rng(0), 1)
    _, targets = coarse_batch([head()], task, replace(STILL, mirror=1.0), np.random.default_rng(0), 1)
    asked = ~torch.isnan(targets).any(dim=2)
    assert asked.tolist() == [[True, True, False, False, True, False, False]]
    expected = plain[:, [1, 0, 4]] * torch.tensor([-1.0, 1, 1])
    torch.testing.assert_close(targets[:, [0, 1, 4]], expected, atol=1e-4, rtol=0)


def test_a_batch_that_asks_for_nothing_teaches_nothing() -> None:
    net = Says(torch.zeros(3, 3))
    loss = coarse_loss(net, torch.zeros(2, 1), torch.full((2, 3, 3), float("nan")))
    loss.backward()
    assert loss.item() == 0 and net.points.grad is not None and (net.points.grad == 0).all()


def test_a_task_without_symmetry_is_never_mirrored() -> None:
    task = small_task(symmetry=None, coarse=TASK.coarse.model_dump())
    plain, _ = coarse_batch([head()], task, STILL, np.random.default_rng(0), 1)
    mirrored, _ = coarse_batch([head()], task, replace(STILL, mirror=1.0), np.random.default_rng(0), 1)
    torch.testing.assert_close(mirrored, plain)


def test_every_scan_has_its_turn() -> None:
    scans = [head(rotation(0, 0, 3 * n)) for n in range(4)]
    _, targets = coarse_batch(scans, TASK, STILL, np.random.default_rng(0), 4)
    expected = sorted(float(scan.points[0, 0] - scan.geometry.centre[0]) for scan in scans)
    np.testing.assert_allclose(sorted(targets[:, 0, 0].tolist()), expected, atol=1e-4)


class Says(nn.Module):
    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.points = nn.Parameter(points)

    def forward(self, volumes: Tensor) -> Tensor:
        return self.points.expand(len(volumes), -1, -1)


def test_the_loss_by_hand() -> None:
    net = Says(torch.tensor([[1.0, 2, 3], [0, 0, 0], [5, 5, 5]]))
    nan = float("nan")
    targets = torch.tensor([[[0.0, 0, 0], [1, -1, 0], [nan] * 3], [[1, 2, 3], [nan] * 3, [nan] * 3]])
    loss = coarse_loss(net, torch.zeros(2, 1), targets)
    assert loss.item() == pytest.approx((6 + 2 + 0) / 3)
    loss.backward()
    assert net.points.grad is not None and torch.isfinite(net.points.grad).all()
    assert (net.points.grad[2] == 0).all()  # nowhere annotated


def test_predictions_and_their_error() -> None:
    scans = [head(), head(rotation(0, 0, 20))]
    found = predict_coarse(Says(torch.from_numpy(HEAD.astype(np.float32))), scans, TASK)
    np.testing.assert_allclose(found[0], scans[0].points, atol=1e-5)
    assert mean_radial_error(found[:1], scans[:1]) < 1e-5
    scans[0].points[0] = np.nan
    distances = np.linalg.norm(found[1] - scans[1].points, axis=1)
    assert mean_radial_error(found, scans) == pytest.approx(distances.sum() / 13, abs=1e-5)
