"""Random views of a training scan: rotation, scaling, shear, mirroring, translation; intensity and noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trt_landmarks.geometry import Floats
from trt_landmarks.training.appearance import any_table, monotone_table, through_table


@dataclass(frozen=True)
class Augmentation:
    """Strengths; every draw is uniform between minus and plus the value unless said otherwise.

    Attributes:
        rotation_deg: rotation about each axis.
        scaling: common relative scaling.
        stretch: further relative scaling of each axis alone.
        shear: off-diagonal terms.
        translation: shift, as a fraction of the sampled extent (coarse stage only; patches have centre noise).
        shift: intensity offset.
        gain: relative intensity scaling.
        gamma: natural logarithm of the exponent.
        noise: largest standard deviation of Gaussian noise.
        mirror: probability of a mirrored view, where the task has a symmetry.
        contrast: probability of other grey values: two thirds in the same order, the others in any.
    """

    rotation_deg: float = 15.0
    scaling: float = 0.1
    stretch: float = 0.05
    shear: float = 0.03
    translation: float = 0.08
    shift: float = 0.1
    gain: float = 0.2
    gamma: float = 0.3
    noise: float = 0.04
    mirror: float = 0.5
    contrast: float = 0.0

    def axes(self, rng: np.random.Generator) -> Floats:
        """A random 3x3: rotation times scaling and shear."""
        angles = np.deg2rad(rng.uniform(-self.rotation_deg, self.rotation_deg, 3))
        form = np.eye(3) + rng.uniform(-self.shear, self.shear, (3, 3)) * (1 - np.eye(3))
        scale = np.exp(rng.uniform(-self.scaling, self.scaling) + rng.uniform(-self.stretch, self.stretch, 3))
        return rotation_xyz(angles) @ form @ np.diag(scale)

    def intensities(self, patches: Tensor, rng: np.random.Generator) -> Tensor:
        """The same random change of intensity for all of ``patches`` (0..1), new noise for every voxel."""
        if self.contrast > 0 and rng.random() < self.contrast:
            patches = _recoloured(patches, rng)
        gain = 1 + rng.uniform(-self.gain, self.gain)
        gamma = float(np.exp(rng.uniform(-self.gamma, self.gamma)))
        shift = rng.uniform(-self.shift, self.shift)
        changed = patches.clamp(min=0).pow(gamma) * gain
        changed = torch.where(patches > 0, changed + shift, changed)  # what lies outside the scan stays 0
        level = rng.uniform(0, self.noise)
        noise = torch.from_numpy(rng.standard_normal(tuple(patches.shape), dtype=np.float32))
        return (changed + level * noise.to(patches.device)).clamp(0, 1)


def _recoloured(patches: Tensor, rng: np.random.Generator) -> Tensor:
    """``patches`` (0..1) through a random table of grey values; 0 stays 0."""
    values = np.linspace(0, 1, 65)
    table = any_table(values, rng) if rng.random() < 1 / 3 else monotone_table(values, rng, rng.uniform(0.1, 0.7))
    return torch.where(patches > 0, through_table(patches, table), 0)


def rotation_xyz(angles: Floats) -> Floats:
    """Rotation about x, then y, then z by ``angles`` (radians)."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def mirrored_points(points: Floats, partner: Sequence[int]) -> Floats:
    """Points ``[N, 3]`` under the names they have in a mirror; NaN where a landmark has no mirror image."""
    index = np.asarray(partner)
    return np.where((index >= 0)[:, None], points[index], np.nan)


def mirroring(axis: int | None, mirrored: bool) -> Floats:
    """3x3 reflection along ``axis``, or the identity."""
    matrix = np.eye(3)
    if mirrored and axis is not None:
        matrix[axis, axis] = -1
    return matrix
