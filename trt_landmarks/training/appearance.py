"""Random appearance of a scan: other contrasts, uneven fields, blur, texture and noise of a magnitude image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trt_landmarks.geometry import Floats
from trt_landmarks.training.warping import smooth_noise


def monotone_table(values: Floats, rng: np.random.Generator, strength: float) -> Floats:
    """Random increasing grey values at ``values`` (increasing, 0..1): steps stretched by up to ``exp(strength)``."""
    knots = np.linspace(0, 1, 7)
    steps = np.diff(knots) * np.exp(rng.uniform(-strength, strength, len(knots) - 1))
    heights = np.concatenate([[0.0], np.cumsum(steps) / steps.sum()])
    return np.interp(values, knots, heights) ** np.exp(rng.uniform(-strength, strength) / 2)


def any_table(values: Floats, rng: np.random.Generator) -> Floats:
    """Random grey values at ``values`` (0..1), neither increasing nor decreasing: another kind of contrast."""
    knots = np.linspace(0, 1, int(rng.integers(4, 9)))
    return np.interp(values, knots, rng.uniform(0.05, 1, len(knots)))


def through_table(values: Tensor, table: Floats) -> Tensor:
    """Grey values (0..1, any shape) looked up in a table of evenly spaced heights, linear in between."""
    heights = torch.as_tensor(table, dtype=torch.float32, device=values.device)
    place = (values * (len(table) - 1)).clamp(0, len(table) - 1)
    below = place.long().clamp(max=len(table) - 2)
    return heights[below] + (place - below) * (heights[below + 1] - heights[below])


def bias_field(shape: tuple[int, ...], spacing: Floats, rng: np.random.Generator, strength: float) -> Tensor:
    """Factor ``[Z, Y, X]`` that changes over 60 to 160 mm; ``strength`` is the standard deviation of its logarithm."""
    cells = rng.uniform(60, 160) / float(np.mean(spacing))
    return torch.exp(strength * smooth_noise(shape, cells, rng)[0, 0])


def blur(volume: Tensor, sigmas: Floats) -> Tensor:
    """Gaussian blur of ``[Z, Y, X]`` by ``sigmas`` (samples along x, y, z); axes below a quarter sample are left."""
    result = volume[None, None]
    for axis, sigma in enumerate(sigmas[::-1]):
        if sigma < 0.25:
            continue
        reach = max(1, int(np.ceil(2.5 * sigma)))
        profile = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float32) / float(sigma)) ** 2)
        kernel = (profile / profile.sum()).reshape([1, 1] + [-1 if n == axis else 1 for n in range(3)])
        padding = [reach if 2 - n == axis else 0 for n in range(3) for _ in range(2)]
        result = functional.conv3d(functional.pad(result, padding, mode="replicate"), kernel)
    return result[0, 0]


def magnitude_noise(volume: Tensor, rng: np.random.Generator, level: float) -> Tensor:
    """Noise of a magnitude image (Rician) of standard deviation ``level``: the background is never quite dark."""
    real, imaginary = (
        torch.from_numpy(rng.standard_normal(tuple(volume.shape), dtype=np.float32)) * level for _ in range(2)
    )
    return torch.sqrt((volume + real) ** 2 + imaginary**2)
