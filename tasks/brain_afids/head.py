"""A made-up head around a brain: fluid, skull, soft tissue, face and neck, with random sizes, values and texture.

It need not look like anyone's head; it has to be as various as heads are, so that a net learns to ignore it.
Positions are those of the template (LPS mm); values are relative to bright white matter, 1.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trt_landmarks.training.warping import smooth_noise

#: Centre, half axes (LPS mm) of the face, the neck's axis, the eyes; the spinal cord goes on from the brainstem.
FACE = ((0.0, -45.0, -55.0), (66.0, 62.0, 72.0))
NECK = ((0.0, 28.0), (58.0, 62.0))
EYES = ((32.0, -60.0, -36.0), (-32.0, -60.0, -36.0))
CORD = (0.0, 42.0)


def head_around(places: Tensor, outside: Tensor, spacing: float, rng: np.random.Generator) -> Tensor:
    """Values ``[Z, Y, X]`` of everything but the brain, 0 where there is nothing.

    Args:
        places: ``[Z, Y, X, 3]``, the template's point that each voxel shows.
        outside: ``[Z, Y, X]`` mm from the brain's hull, negative inside.
        spacing: mm between voxels, about.
        rng: what is random.
    """
    shape = tuple(outside.shape)

    def varying(mean: float, relative: float, millimetres: float) -> Tensor:
        return mean * (1 + relative * smooth_noise(shape, millimetres / spacing, rng)[0, 0]).clamp(0.2, 2.5)

    fluid = varying(rng.uniform(0.5, 5), 0.3, 40)
    skull = fluid + varying(rng.uniform(3, 8), 0.25, 40)
    scalp = skull + varying(rng.uniform(3, 12), 0.3, 50)
    depth = outside - scalp  # negative inside the head
    x, y, z = places.unbind(-1)
    if rng.random() < 0.9:
        face = _ellipsoid(places, FACE, rng)
        face = torch.where(y < 10, face, face + (y - 10))
        depth = torch.minimum(depth, face)
    (middle_x, middle_y), radii = NECK[0], np.array(NECK[1]) * rng.uniform(0.85, 1.15)
    slope = rng.uniform(-0.25, 0.25)
    neck = torch.sqrt(((x - middle_x) / radii[0]) ** 2 + ((y - middle_y - slope * (z + 60)) / radii[1]) ** 2) - 1
    neck = neck * float(radii.mean())
    if rng.random() < 0.9:
        depth = torch.minimum(depth, torch.where(z < -40, neck, neck + (z + 40)))
    depth = depth + rng.uniform(0, 3) * smooth_noise(shape, 25 / spacing, rng)[0, 0]

    values = _tissues(shape, spacing, rng)
    rim = varying(rng.uniform(2, 6), 0.3, 30)
    fat = rng.uniform(0.7, 1.6) if rng.random() < 0.85 else rng.uniform(0.2, 0.7)
    values = torch.where(depth > -rim, fat * (1 + 0.15 * smooth_noise(shape, 4 / spacing, rng)[0, 0]), values)
    skin = rng.uniform(0.3, 0.9)
    values = torch.where(depth > -rng.uniform(0.5, 2.0), torch.full_like(values, skin), values)
    bone, marrow = rng.uniform(0, 0.15), rng.uniform(0.15, 0.8)
    within = (outside - fluid) / (skull - fluid)
    bony = torch.where((within > 0.3) & (within < 0.7), torch.full_like(values, marrow), torch.full_like(values, bone))
    if rng.random() < 0.5:  # compact bone only
        bony = torch.full_like(values, bone)
    values = torch.where(outside < skull, bony, values)
    for eye in EYES:
        distance = torch.linalg.vector_norm(places - torch.tensor(eye), dim=-1)
        values = torch.where(distance < rng.uniform(10, 14), torch.full_like(values, rng.uniform(0.05, 0.4)), values)
    water = rng.uniform(0.03, 0.35)
    values = torch.where(outside < fluid, torch.full_like(values, water), values)
    if rng.random() < 0.8:
        cord = torch.sqrt((x - CORD[0]) ** 2 + (y - CORD[1] - slope * (z + 70)) ** 2)
        below = z < -60
        values = torch.where(below & (cord < 10), torch.full_like(values, water), values)
        values = torch.where(below & (cord < rng.uniform(4, 7)), torch.full_like(values, rng.uniform(0.6, 1.1)), values)
    inside = (depth < 0) | (outside < skull)
    return (values * inside).clamp(0, 2)


def _ellipsoid(places: Tensor, form: tuple[tuple[float, ...], tuple[float, ...]], rng: np.random.Generator) -> Tensor:
    """About the distance (mm) to an ellipsoid whose centre and half axes vary."""
    centre = torch.as_tensor(np.array(form[0]) + rng.uniform(-8, 8, 3), dtype=torch.float32)
    radii = torch.as_tensor(np.array(form[1]) * rng.uniform(0.85, 1.15, 3), dtype=torch.float32)
    return (torch.linalg.vector_norm((places - centre) / radii, dim=-1) - 1) * float(radii.mean())


def _tissues(shape: tuple[int, ...], spacing: float, rng: np.random.Generator) -> Tensor:
    """Soft tissue, air and bone in random blobs."""
    blobs = smooth_noise(shape, rng.uniform(8, 25) / spacing, rng)[0, 0]
    blobs = blobs + 0.5 * smooth_noise(shape, rng.uniform(4, 8) / spacing, rng)[0, 0]
    kinds = torch.as_tensor(
        [rng.uniform(0, 0.1), rng.uniform(0.2, 0.6), rng.uniform(0.3, 0.7), rng.uniform(0.6, 1.4)], dtype=torch.float32
    )
    limits = torch.as_tensor([rng.uniform(-1.6, -0.6), rng.uniform(-0.2, 0.3), rng.uniform(0.5, 1.4)])
    values = kinds[torch.bucketize(blobs, limits.float())]
    return values * (1 + 0.1 * smooth_noise(shape, 3 / spacing, rng)[0, 0])
