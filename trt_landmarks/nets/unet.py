"""Many small U-Nets with their own weights, executed as one: grouped convolutions, one group per landmark.

Every tensor keeps its landmarks side by side in the channel dimension (landmark-major), and every weight
keeps them side by side in dimension 0.  So the batched net of L landmarks *is* the concatenation of L single
nets (:func:`stack`), and a single net is the same class with one landmark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Weights = Mapping[str, Tensor]


class ConvUnit(nn.Module):
    """3x3x3 convolution, batch normalization, ReLU; separately for each landmark."""

    def __init__(self, landmarks: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            landmarks * channels_in, landmarks * channels_out, 3, padding=1, groups=landmarks, bias=False
        )
        self.norm = nn.BatchNorm3d(landmarks * channels_out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


class Encoder(nn.Module):
    """The way down: features of every level, finest first.

    Input ``[B, L, Z, Y, X]`` (one patch per landmark); output of level n ``[B, L * width * 2**n, ...]`` at
    ``1 / 2**n`` of the resolution.
    """

    def __init__(self, landmarks: int, width: int, levels: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        channels = 1
        for level in range(levels):
            out = width * 2**level
            units = [ConvUnit(landmarks, channels, out)]
            if level:  # the finest level is the dear one: one unit there
                units.append(ConvUnit(landmarks, out, out))
            self.levels.append(nn.Sequential(*units))
            channels = out

    def forward(self, patches: Tensor) -> list[Tensor]:
        features = []
        x = patches
        for level, units in enumerate(self.levels):
            x = units(functional.max_pool3d(x, 2) if level else x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """The way up, and the heatmap of each landmark: ``[B, L, Z, Y, X]``.

    ``shared`` counts channels that come with the deepest features of every landmark (a group's fused features);
    ``heads`` is the number of heatmaps if it is not one per landmark.
    """

    def __init__(self, landmarks: int, width: int, levels: int, shared: int = 0, heads: int | None = None) -> None:
        super().__init__()
        self.landmarks = landmarks
        self.reduce = nn.ModuleList()
        self.merge = nn.ModuleList()
        for level in reversed(range(levels - 1)):
            channels = width * 2**level
            deepest = level == levels - 2
            self.reduce.append(ConvUnit(landmarks, 2 * channels + (shared if deepest else 0), channels))
            self.merge.append(ConvUnit(landmarks, 2 * channels, channels))
        self.head = nn.Conv3d(landmarks * width, heads or landmarks, 1, groups=landmarks)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = features[-1]
        for reduce, merge, skip in zip(self.reduce, self.merge, reversed(features[:-1]), strict=True):
            up = functional.interpolate(reduce(x), scale_factor=2.0, mode="nearest")
            x = merge(concatenate([skip, up], self.landmarks))
        heatmaps: Tensor = self.head(x)
        return heatmaps


class UNets(nn.Module):
    """L independent U-Nets as one net (Pang et al. 2023, section 2.2, independent landmarks).

    Input ``[B, L, Z, Y, X]`` float32 in 0..1, landmark l's patch in channel l; output ``[B, L, Z, Y, X]``
    heatmaps.  ``heads`` other than the landmarks' number: see :class:`Decoder`.
    """

    def __init__(self, landmarks: int, width: int, levels: int, heads: int | None = None) -> None:
        super().__init__()
        self.encoder = Encoder(landmarks, width, levels)
        self.decoder = Decoder(landmarks, width, levels, heads=heads)

    def forward(self, patches: Tensor) -> Tensor:
        heatmaps: Tensor = self.decoder(self.encoder(patches))
        return heatmaps


def concatenate(parts: Sequence[Tensor], landmarks: int) -> Tensor:
    """Concatenate channels landmark by landmark.

    ``[B, L * Ca, ...]`` and ``[B, L * Cb, ...]`` become ``[B, L * (Ca + Cb), ...]``.
    """
    if landmarks == 1:
        return torch.cat(list(parts), dim=1)
    size = parts[0].shape[2:]
    split = [part.reshape(-1, landmarks, part.shape[1] // landmarks, *size) for part in parts]
    return torch.cat(split, dim=2).flatten(1, 2)


def stack(singles: Sequence[Weights]) -> dict[str, Tensor]:
    """Weights of L single nets as the weights of the batched net."""
    first = singles[0]
    return {
        name: torch.cat([single[name] for single in singles]) if value.dim() else value.clone()
        for name, value in first.items()
    }


def unstack(weights: Weights, landmarks: int, index: int) -> dict[str, Tensor]:
    """Weights of single net ``index`` out of a batched net of ``landmarks``."""
    return {
        name: value.chunk(landmarks)[index].clone() if value.dim() else value.clone() for name, value in weights.items()
    }
