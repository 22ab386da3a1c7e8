"""Occipital horns as people have them: long, short, or collapsed to a seam that hardly shows.

The fiducial is where the horn ends, and that has little to do with the cortex about it: among people who are otherwise
alike it lies centimetres further in front or behind.  So the horns take no part in the warp of the template, which
would move the whole lobe with them; they are drawn to where a person's end.  The template itself, an average of many,
shows them as one faint streak.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trt_landmarks.geometry import Floats, Grid
from trt_landmarks.training.warping import positions, smooth_noise

#: Landmarks at the horns' ends.
TIPS = ("RVOH", "LVOH")
#: Where the left horn leaves the ventricle: the template's LPS mm.
ATRIUM = np.array([29.5, 54.0, 5.0])
#: How far sideways of the straight way to its end a horn bends, mm.
BEND = np.array([4.0, 0.0, -1.0])
#: The template's grey values of fluid and of white matter.
FLUID, WHITE = 0.3, 0.84
#: How far from the way voxels are looked at, mm.
REACH = 9.0


def draw_horn(image: Tensor, grid: Grid, before: Floats, tip: Floats, rng: np.random.Generator) -> None:
    """Make one of the template's horns end at ``tip``, in place.

    Args:
        image: ``[1, 1, Z, Y, X]``, the template's grey values.
        grid: where it lies, along the world's axes.
        before: ``[3]`` where the template's horn ends, LPS mm.
        tip: ``[3]`` where it is to end.
        rng: what is random.
    """
    side = np.array([np.sign(before[0]), 1, 1])
    start = ATRIUM * side
    old, new = _way(start, before, BEND * side), _way(start, tip, BEND * side + rng.uniform(-1.5, 1.5, 3))
    both = np.concatenate([old, new])
    corners = (np.stack([both.min(0) - REACH, both.max(0) + REACH]) - grid.geometry.origin) / grid.spacing
    (x0, y0, z0), (x1, y1, z1) = np.clip(np.round(corners).astype(int), 0, np.array(grid.shape) - 1)
    box = image[0, 0, z0:z1, y0:y1, x0:x1]
    first, last = np.array([x0, y0, z0]), np.array([x1, y1, z1]) - 1
    middle = grid.geometry.origin + (first + last) / 2 * grid.spacing
    places = positions(Grid((x1 - x0, y1 - y0, z1 - z0), grid.spacing, middle))
    shape, brain = tuple(box.shape), box > 0
    uneven = smooth_noise(shape, 4, rng)[0, 0]

    # What the template shows behind the new end becomes white matter; in front of it the lumen is drawn anyway.
    distance, _ = _nearest(places, old)
    behind = torch.sigmoid((places[..., 1] - float(tip[1])) / 0.5)
    closed = torch.sigmoid((rng.uniform(3.5, 5.5) - distance) / 0.7) * behind * brain
    box += closed * (torch.maximum(box, WHITE * (1 + 0.04 * uneven)) - box)
    if tip[1] <= start[1]:  # it ends within the ventricle
        return
    # The lumen, and from where its walls touch a seam.
    distance, share = _nearest(places, new)
    opened = 1.0 if rng.random() < 0.6 else rng.uniform(0, 1)
    wide, narrow = rng.uniform(1.5, 5.0), rng.uniform(0.6, 2.5)
    radius = (wide + (narrow - wide) * share) * (1 + 0.25 * uneven)
    radius = radius * ((opened - share) / 0.12).clamp(0, 1).sqrt()
    lumen = torch.sigmoid((radius - distance) / 0.4) * (share < opened) * brain
    box -= lumen * (box - FLUID).clamp(min=0)
    seam = torch.exp(-0.5 * (distance / rng.uniform(0.5, 1.0)) ** 2) * (share < 1) * brain
    box -= rng.uniform(0.08, 0.35) * seam * (box - FLUID).clamp(min=0)


def _way(start: Floats, end: Floats, bend: Floats) -> Floats:
    """``[60, 3]`` points of a bent way."""
    along = np.linspace(0, 1, 60)[:, None]
    return start + along * (end - start) + 4 * along * (1 - along) * bend


def _nearest(places: Tensor, way: Floats) -> tuple[Tensor, Tensor]:
    """Distance of each place ``[..., 3]`` from a way, and the share of the way at its nearest point."""
    apart = torch.cdist(places.reshape(-1, 3), torch.from_numpy(way).float())
    distance, index = apart.min(dim=1)
    return distance.reshape(places.shape[:-1]), (index / (len(way) - 1)).reshape(places.shape[:-1])
