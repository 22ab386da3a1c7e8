"""Training of the coarse net: L1 on all landmark positions (Pang et al. 2023, section 2.1)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from trt_landmarks.geometry import AXES, Floats
from trt_landmarks.task.task import Task
from trt_landmarks.training.augmentation import Augmentation, mirrored_points, mirroring
from trt_landmarks.training.loop import batches, mean_loss
from trt_landmarks.training.scans import TrainingScan


def coarse_batch(
    scans: list[TrainingScan], task: Task, augmentation: Augmentation, rng: np.random.Generator, batch: int
) -> tuple[Tensor, Tensor]:
    """Random views of ``batch`` scans: volumes ``[B, 1, Z, Y, X]`` and points ``[B, N, 3]`` (mm from the centre)."""
    extent = np.asarray(task.coarse.field_of_view_mm)
    axis = None if task.symmetry is None else AXES[task.symmetry.axis]
    volumes, targets = [], []
    for index in batches(rng, len(scans), batch):
        scan = scans[index]
        mirrored = task.mirror is not None and rng.random() < augmentation.mirror
        axes = mirroring(axis, mirrored) @ augmentation.axes(rng)
        shift = rng.uniform(-augmentation.translation, augmentation.translation, 3) * extent
        centre = scan.geometry.centre + shift
        points = (scan.points - centre) @ np.linalg.inv(axes).T
        if mirrored and task.mirror is not None:
            points = mirrored_points(points, task.mirror)
        view = scan.sample(centre, axes, task.coarse.shape, task.coarse.spacing_mm)
        volumes.append(augmentation.intensities(view, rng))
        targets.append(torch.as_tensor(points, dtype=torch.float32))
    return torch.cat(volumes), torch.stack(targets).to(volumes[0].device)


def coarse_loss(net: nn.Module, volumes: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute difference in mm over annotated landmarks, summed over x, y, z."""
    difference = (net(volumes) - targets).abs().sum(dim=2)
    known = ~torch.isnan(difference)
    return mean_loss(difference[known])


@torch.inference_mode()
def predict_coarse(net: nn.Module, scans: list[TrainingScan], task: Task) -> list[Floats]:
    """Coarse points ``[N, 3]`` (LPS mm) of every scan, not augmented."""
    points = []
    for scan in scans:
        centre = scan.geometry.centre
        volume = scan.sample(centre, np.eye(3), task.coarse.shape, task.coarse.spacing_mm)
        offsets = net(volume)[0].cpu().numpy().astype(np.float64)
        points.append(offsets + centre)
    return points


def mean_radial_error(predictions: list[Floats], scans: list[TrainingScan]) -> float:
    """MRE in mm over all annotated landmarks."""
    errors = [np.linalg.norm(p - scan.points, axis=1) for p, scan in zip(predictions, scans, strict=True)]
    return float(np.nanmean(np.concatenate(errors)))
