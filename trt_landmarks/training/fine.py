"""Training of the fine nets: patches about noisy centres, heatmaps as targets (Pang et al. 2023, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trt_landmarks.geometry import AXES, Floats, anatomy_axes, same_slice
from trt_landmarks.nets.correlated import CorrelatedNet
from trt_landmarks.nets.unet import stack
from trt_landmarks.task.task import Task
from trt_landmarks.training.augmentation import Augmentation, mirroring
from trt_landmarks.training.loop import State, batches, mean_loss
from trt_landmarks.training.scans import TrainingScan


@dataclass(frozen=True)
class Patches:
    """A batch of patches and where their landmarks are.

    Attributes:
        images: ``[B, L, Z, Y, X]`` float32.
        offsets: ``[B, L, 3]`` mm from the patch's centre along the patch's axes; NaN where not annotated.
    """

    images: Tensor
    offsets: Tensor


def patch_axes(points: Floats, shape: Floats, task: Task) -> Floats:
    """3x3 axes of a scan's patches: the world's, or the anatomy's as fitted to ``points`` (``[N, 3]`` LPS mm)."""
    return np.eye(3) if task.fine.frame == "scan" else anatomy_axes(shape, points)


def random_patches(
    scans: Sequence[TrainingScan],
    task: Task,
    landmarks: Sequence[int],
    shape: Floats,
    noise_mm: Floats,
    augmentation: Augmentation,
    rng: np.random.Generator,
    batch: int,
    axis: int | None = None,
) -> Patches:
    """Random views of ``landmarks`` in ``batch`` scans.

    Args:
        shape: the mean shape ``[N, 3]``, for the anatomy's frame.
        noise_mm: standard deviation of the centres' noise along x, y, z.
        axis: for a correlated group, the axis along which all centres are reset to one slice.
    """
    mirror_axis = None if task.symmetry is None else AXES[task.symmetry.axis]
    limit = np.asarray(task.fine.extent_mm) / 2 - 2 * np.asarray(task.fine.spacing_mm)
    images, offsets = [], []
    for index in batches(rng, len(scans), batch):
        scan = scans[index]
        partners = None if task.mirror is None else [task.mirror[n] for n in landmarks]
        mirrored = partners is not None and rng.random() < augmentation.mirror and min(partners) >= 0
        rows = partners if mirrored and partners is not None else list(landmarks)
        axes = patch_axes(scan.points, shape, task) @ mirroring(mirror_axis, mirrored) @ augmentation.axes(rng)
        truth = scan.points[rows] @ np.linalg.inv(axes).T  # in the patches' own coordinates
        noise = np.clip(rng.standard_normal(truth.shape) * noise_mm, -limit, limit)
        annotated = truth if (~np.isnan(truth)).any() else scan.points @ np.linalg.inv(axes).T
        centres = np.where(np.isnan(truth), np.nanmean(annotated, axis=0), truth) - noise
        if axis is not None:
            centres[:, axis] = centres[:, axis].mean()
        views = [scan.sample(axes @ c, axes, task.fine.shape, task.fine.spacing_mm) for c in centres]
        images.append(augmentation.intensities(torch.cat(views, dim=1), rng))
        offsets.append(torch.as_tensor(truth - centres, dtype=torch.float32))
    batched = torch.cat(images).contiguous(memory_format=torch.channels_last_3d)
    return Patches(batched, torch.stack(offsets).to(batched.device))


def centred_patches(
    scan: TrainingScan,
    task: Task,
    landmarks: Sequence[int],
    shape: Floats,
    coarse: Floats,
    axis: int | None = None,
) -> Patches:
    """Patches of ``landmarks`` about given coarse points ``[N, 3]`` (LPS mm), as at inference."""
    axes = patch_axes(coarse, shape, task)
    rows = list(landmarks)
    centres = coarse if axis is None else same_slice(coarse, rows, axis, axes)
    views = [scan.sample(centres[row], axes, task.fine.shape, task.fine.spacing_mm) for row in rows]
    offsets = torch.as_tensor((scan.points[rows] - centres[rows]) @ axes, dtype=torch.float32)
    images = torch.cat(views, dim=1)
    return Patches(images, offsets[None].to(images.device))


def shared_loss(
    net: nn.Module,
    scans: Sequence[TrainingScan],
    task: Task,
    shape: Floats,
    noise_mm: Floats,
    augmentation: Augmentation,
    rng: np.random.Generator,
    batch: int,
) -> Tensor:
    """Loss of one U-Net with a head for every landmark: each patch shows, and asks for, one random landmark."""
    landmarks = rng.integers(len(task.landmarks), size=batch)
    parts = [random_patches(scans, task, [int(n)], shape, noise_mm, augmentation, rng, 1) for n in landmarks]
    heatmaps = net(torch.cat([part.images for part in parts]))
    asked = heatmaps[torch.arange(batch), torch.as_tensor(landmarks)].unsqueeze(1)
    return heatmap_loss(asked, torch.cat([part.offsets for part in parts]), task)


def single_from_shared(shared: State, landmark: int) -> State:
    """Initial weights of one landmark's U-Net: the shared net with that landmark's head."""
    heads = ("decoder.head.weight", "decoder.head.bias")
    return {
        name: (value[landmark : landmark + 1] if name in heads else value).clone().cpu()
        for name, value in shared.items()
    }


def grow(net: CorrelatedNet, singles: Sequence[State]) -> None:
    """Initialize a correlated net from single U-Nets; what they do not have keeps its own initial weights.

    The first decoder unit also sees the group's fused features: those weights begin small, so that training
    starts from what the single nets know.
    """
    weights = net.state_dict()
    for name, value in stack(singles).items():
        mine = weights[name]
        if mine.shape == value.shape:
            weights[name] = value
        else:
            mine[:, value.shape[1] :] *= 0.1
            mine[:, : value.shape[1]] = value
    net.load_state_dict(weights)


def heatmap_loss(heatmaps: Tensor, offsets: Tensor, task: Task) -> Tensor:
    """MSE to Gaussian heatmaps, relative to the Gaussian's own energy; landmarks not annotated are left out."""
    target, known = gaussians(offsets, task)
    squared = (heatmaps - target).square().flatten(2).sum(dim=2)
    energy = (np.sqrt(np.pi) * task.fine.heatmap_sigma_mm) ** 3 / float(np.prod(task.fine.spacing_mm))
    return mean_loss((squared / energy)[known])


def gaussians(offsets: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Heatmaps ``[B, L, Z, Y, X]`` of height 1 at ``offsets`` (mm), and which landmarks are known ``[B, L]``."""
    known = ~torch.isnan(offsets).any(dim=2)
    place = torch.nan_to_num(offsets, nan=1e6)
    profiles = []
    for axis, (count, spacing) in enumerate(zip(task.fine.shape, task.fine.spacing_mm, strict=True)):
        position = (torch.arange(count, device=offsets.device) - (count - 1) / 2) * spacing
        distance = position - place[:, :, axis, None]
        profiles.append(torch.exp(-0.5 * (distance / task.fine.heatmap_sigma_mm).square()))
    x, y, z = profiles
    return z[:, :, :, None, None] * y[:, :, None, :, None] * x[:, :, None, None, :], known


def slice_loss(heatmap: Tensor, offsets: Tensor, axis: int, task: Task) -> Tensor:
    """MSE of the key slice's 1D heatmap, relative to its energy.

    The key slice is at the landmarks' mean along ``axis``.
    """
    spacing, count = task.fine.spacing_mm[axis], task.fine.shape[axis]
    key = torch.nanmean(offsets[:, :, axis], dim=1, keepdim=True)
    known = ~torch.isnan(key[:, 0])
    position = (torch.arange(count, device=offsets.device) - (count - 1) / 2) * spacing
    target = torch.exp(-0.5 * ((position - torch.nan_to_num(key)) / task.fine.heatmap_sigma_mm).square())
    energy = np.sqrt(np.pi) * task.fine.heatmap_sigma_mm / spacing
    return mean_loss(functional.mse_loss(heatmap, target, reduction="none").sum(dim=1)[known]) / energy
