"""The net for a correlated group: landmarks of one key slice, refined together (Pang et al. 2023, section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from trt_landmarks.nets.unet import Decoder, Encoder, concatenate
from trt_landmarks.task.task import Correlated


class AxisAttention(nn.Module):
    """Weights along the axis perpendicular to the key slice: per channel (M_c), per slice (M_s), or both.

    Input ``[B, C, Z, Y, X]``; ``axis`` is 0, 1, 2 for x, y, z.
    """

    def __init__(self, channels: int, axis: int, channel: bool, spatial: bool) -> None:
        super().__init__()
        self.axis = axis
        self.channel = nn.Conv1d(channels, channels, 1) if channel else None
        self.spatial = nn.Conv1d(2, 1, 3, padding=1) if spatial else None

    def forward(self, features: Tensor) -> Tensor:
        average, maximum = pool_to_axis(features, self.axis)
        view = [1, 1, 1]
        view[2 - self.axis] = features.shape[4 - self.axis]
        if self.channel is not None:
            weights = torch.sigmoid(self.channel(average) + self.channel(maximum))  # [B, C, D]
            features = features * weights.reshape(-1, weights.shape[1], *view)
        if self.spatial is not None:
            both = torch.cat([average, maximum], dim=1)
            profile = torch.stack([both.mean(dim=1), both.amax(dim=1)], dim=1)  # [B, 2, D]
            weights = torch.sigmoid(self.spatial(profile))
            features = features * weights.reshape(-1, 1, *view)
        return features


def pool_to_axis(features: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Average and maximum over the two directions within a slice: ``[B, C, Z, Y, X]`` to two ``[B, C, D]``."""
    dims = [dim for dim in (2, 3, 4) if dim != 4 - axis]
    return features.mean(dim=dims), features.amax(dim=dims)


class SliceBranch(nn.Module):
    """The key slice as a 1D heatmap along the axis, at the patches' resolution: ``[B, D]``."""

    def __init__(self, channels: int, axis: int, levels: int) -> None:
        super().__init__()
        self.axis = axis
        self.entry = nn.Conv1d(2 * channels, channels, 3, padding=1)
        self.finer = nn.ModuleList(nn.Conv1d(channels, channels, 3, padding=1) for _ in range(levels - 1))
        self.head = nn.Conv1d(channels, 1, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        x = torch.relu(self.entry(torch.cat(pool_to_axis(features, self.axis), dim=1)))
        for conv in self.finer:
            x = torch.relu(conv(functional.interpolate(x, scale_factor=2.0, mode="nearest")))
        heatmap: Tensor = self.head(x).squeeze(1)
        return heatmap


class CorrelatedNet(nn.Module):
    """Encoders per landmark, fusion, axis attention, decoders per landmark, key-slice branch.

    Input ``[B, L, Z, Y, X]`` float32 in 0..1, the patches reset to one slice along ``axis``.  Output: heatmaps
    ``[B, L, Z, Y, X]`` and the key slice's heatmap ``[B, D]`` (None without the slice branch).
    """

    def __init__(self, landmarks: int, width: int, levels: int, axis: int, parts: Correlated) -> None:
        super().__init__()
        self.landmarks = landmarks
        channels = width * 2 ** (levels - 1)
        self.encoder = Encoder(landmarks, width, levels)
        self.fuse: nn.Module | None = None
        self.attention: nn.Module | None = None
        self.slice_branch: nn.Module | None = None
        if parts.fusion:
            self.fuse = nn.Sequential(
                nn.Conv3d(landmarks * channels, channels, 3, padding=1, bias=False),
                nn.BatchNorm3d(channels),
                nn.ReLU(),
            )
        if parts.channel_attention or parts.spatial_attention:
            self.attention = AxisAttention(channels, axis, parts.channel_attention, parts.spatial_attention)
        if parts.slice_branch:
            self.slice_branch = SliceBranch(channels, axis, levels)
        self.decoder = Decoder(landmarks, width, levels, shared=channels if parts.fusion else 0)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.encoder(patches)
        if self.fuse is None:
            return self.decoder(features), None
        fused = self.fuse(features[-1])
        if self.attention is not None:
            fused = self.attention(fused)
        own = features[-1]
        copies = fused.repeat(1, self.landmarks, 1, 1, 1)
        heatmaps = self.decoder([*features[:-1], concatenate([own, copies], self.landmarks)])
        return heatmaps, None if self.slice_branch is None else self.slice_branch(fused)
