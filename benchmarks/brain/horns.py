"""Occipital horns as people have them: long or short, wide, or collapsed to a seam that hardly shows.

An average of many brains shows them as one faint streak.  A net that has only seen that streak looks for it, and in
a person whose horn is closed it is a centimetre or two off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trt_landmarks.geometry import Floats, Grid
from trt_landmarks.training.warping import positions, smooth_noise

#: Landmarks at the horns' tips.
TIPS = ("RVOH", "LVOH")
#: Where the left horn leaves the ventricle, and what its way to the tip bends towards: the template's LPS mm.
ATRIUM, BEND = np.array([29.5, 54.0, 5.0]), np.array([29.0, 70.0, 3.0])
#: The template's grey values of fluid and of white matter.
FLUID, WHITE = 0.3, 0.84
#: How far from the way voxels are looked at, mm.
REACH = 9.0


def vary_horns(image: Tensor, grid: Grid, points: Floats, names: Sequence[str], rng: np.random.Generator) -> Tensor:
    """The template with other occipital horns; the landmarks stay at their tips.

    Args:
        image: ``[1, 1, Z, Y, X]``, the template's grey values.
        grid: where it lies.
        points: ``[N, 3]`` its landmarks, LPS mm.
        names: theirs.
        rng: what is random.
    """
    image = image.clone()
    for name in TIPS:
        if rng.random() < 0.75:
            _vary_horn(image, grid, points[list(names).index(name)], rng)
    return image


def _vary_horn(image: Tensor, grid: Grid, tip: Floats, rng: np.random.Generator) -> None:
    side = np.array([np.sign(tip[0]), 1, 1])
    start, bend = ATRIUM * side, BEND * side + rng.uniform(-2, 2, 3)
    along = np.linspace(0, 1, 60)[:, None]
    way = (1 - along) ** 2 * start + 2 * along * (1 - along) * bend + along**2 * tip
    lower, upper = way.min(0) - REACH, way.max(0) + REACH
    voxels = (np.stack([lower, upper]) - grid.geometry.origin) / grid.spacing  # the grid runs along the world's axes
    (x0, y0, z0), (x1, y1, z1) = np.clip(np.round(voxels).astype(int), 0, np.array(grid.shape) - 1)
    box = image[0, 0, z0:z1, y0:y1, x0:x1]
    places = positions(grid)[z0:z1, y0:y1, x0:x1]
    apart = torch.cdist(places.reshape(-1, 3), torch.from_numpy(way).float())
    nearest, index = (values.reshape(box.shape) for values in apart.min(1))
    share = index / (len(way) - 1)  # of the way to the tip

    shape = tuple(box.shape)
    uneven = smooth_noise(shape, 4, rng)[0, 0]
    white = WHITE * (1 + 0.04 * uneven)
    closing = torch.sigmoid((rng.uniform(2.0, 4.5) - nearest) / 0.7) * (share > 0.05)
    box.copy_(torch.where(box > 0, torch.maximum(box, box + closing * (white - box)), box))
    if rng.random() < 0.6:  # the seam where the walls touch
        seam = rng.uniform(0.05, 0.2) * torch.exp(-0.5 * (nearest / rng.uniform(0.5, 0.9)) ** 2) * (share < 0.99)
        box.sub_(seam * (box > 0))
    kind = rng.random()
    opened = 0.0 if kind < 0.2 else 1.0 if kind < 0.6 else rng.uniform(0.1, 0.95)
    wide, narrow = rng.uniform(1.5, 5.5), rng.uniform(0.5, 2.5)
    radius = (wide + (narrow - wide) * share) * (1 + 0.25 * uneven)
    radius = radius * ((opened - share) / 0.12).clamp(0, 1).sqrt()
    lumen = torch.sigmoid((radius - nearest) / 0.4) * (share < opened)
    box.copy_(torch.where(box > 0, box + lumen * (torch.minimum(box, torch.full_like(box, FLUID)) - box), box))
