"""The fine nets as they are exported: patches in, points and confidences out, never heatmaps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trt_landmarks.nets.correlated import CorrelatedNet
from trt_landmarks.nets.decoding import HeatmapDecoder, SliceDecoder
from trt_landmarks.nets.unet import UNets
from trt_landmarks.task.task import Group, Task

#: Smoothing before the maximum is sought, as a fraction of the heatmap's own sigma.
SMOOTHING = 0.5


class Millimetres(nn.Module):
    """Decode heatmaps to offsets in mm along the patch's x, y, z."""

    spacing: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__()
        fine = task.fine
        sigma = SMOOTHING * fine.heatmap_sigma_mm / min(fine.spacing_mm)
        self.decode = HeatmapDecoder(fine.shape, sigma)
        self.register_buffer("spacing", torch.tensor(fine.spacing_mm), persistent=False)

    def forward(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        offsets, confidence = self.decode(heatmaps.float())
        return offsets * self.spacing, confidence


class IndependentRefiner(nn.Module):
    """All independent landmarks.

    Input ``[B, L, Z, Y, X]`` float32 in 0..1, landmark l's patch in channel l.  Output: offsets ``[B, L, 3]``
    (mm from the patch's centre along the patch's x, y, z) and confidences ``[B, L]`` (0..1).
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.nets = UNets(len(task.independent), task.fine.width, task.fine.levels)
        self.to_millimetres = Millimetres(task)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        offsets, confidence = self.to_millimetres(self.nets(patches))
        return offsets, confidence


class CorrelatedRefiner(nn.Module):
    """One correlated group.

    Input ``[B, L, Z, Y, X]``, the patches reset to one slice.  Output as :class:`IndependentRefiner`, and with
    the slice branch the key slice ``[B]`` (mm from the patches' common centre along the group's axis).
    """

    weight: Tensor

    def __init__(self, task: Task, group: Group) -> None:
        super().__init__()
        axis, parts = group.axis_index, task.correlated
        self.net = CorrelatedNet(len(group.landmarks), task.fine.width, task.fine.levels, axis, parts)
        self.to_millimetres = Millimetres(task)
        self.has_slice = parts.slice_branch
        if self.has_slice:
            spacing = task.fine.spacing_mm[axis]
            sigma = SMOOTHING * task.fine.heatmap_sigma_mm / spacing
            self.decode_slice = SliceDecoder(task.fine.shape[axis], sigma)
            self.slice_spacing = spacing
            weight = torch.zeros(3)
            weight[axis] = {"heatmap": 0.0, "mean": 0.5, "slice": 1.0}[parts.axis_position]
            self.register_buffer("weight", weight, persistent=False)

    def forward(self, patches: Tensor) -> tuple[Tensor, ...]:
        heatmaps, slice_heatmap = self.net(patches)
        offsets, confidence = self.to_millimetres(heatmaps)
        if slice_heatmap is None:
            return offsets, confidence
        key = self.decode_slice(slice_heatmap.float()) * self.slice_spacing
        offsets = offsets + self.weight * (key.reshape(-1, 1, 1) - offsets)
        return offsets, confidence, key
