"""Smooth, invertible deformations of a scan, and where its landmarks then are.

A warp takes a point of the new scan to the point of the original that it shows, because that is the way a scan is
resampled.  Its landmarks are found by inverting that very map, not a second one fitted the other way round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trt_landmarks.geometry import Floats, Grid

#: Largest distance (mm) that a landmark may be off after the map has been inverted.
ROUND_TRIP_MM = 1e-3


class FoldedWarpError(ValueError):
    """A deformation that is not invertible: it folds, or a landmark cannot be traced back."""


@dataclass(frozen=True)
class Warp:
    """Displacements on a grid, trilinear between its points: ``x -> x + displacement(x)``.

    Attributes:
        grid: the control points; outside, the displacement is that of the nearest point of the border.
        displacement: ``[1, 3, Z, Y, X]`` float32, mm along x, y, z.
    """

    grid: Grid
    displacement: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        """Points of the new scan ``[..., 3]`` (mm) to points of the original."""
        moved = resample(self.displacement, self.grid, points, border=True)
        return points + moved.movedim(0, -1)

    def smallest_jacobian(self) -> float:
        """Smallest determinant of the map's derivative, over the corners of all cells; it folds at 0 and below."""
        field = self.displacement[0].permute(3, 2, 1, 0).double()  # [X, Y, Z, 3]
        steps = [field.diff(dim=axis) / step for axis, step in enumerate(self.grid.spacing)]
        x, y, z = (n - 1 for n in self.grid.shape)
        smallest = float("inf")
        for corner in np.ndindex(2, 2, 2):
            a, b, c = corner
            columns = [
                steps[0][:, b : b + y, c : c + z],
                steps[1][a : a + x, :, c : c + z],
                steps[2][a : a + x, b : b + y, :],
            ]
            derivative = torch.stack(columns, dim=-1) + torch.eye(3, dtype=torch.float64)
            smallest = min(smallest, float(torch.linalg.det(derivative).min()))
        return smallest

    def preimage(self, points: Floats) -> Floats:
        """The points ``[N, 3]`` of the new scan that show ``points`` of the original.

        Raises:
            FoldedWarpError: if one cannot be traced back to within :data:`ROUND_TRIP_MM`.
        """
        target = torch.as_tensor(points, dtype=torch.float64)
        found = target.clone()
        for _ in range(200):
            missing = target - self(found)
            if float(missing.abs().max()) < ROUND_TRIP_MM / 10:
                break
            found = found + 0.7 * missing
        if float(torch.linalg.vector_norm(target - self(found), dim=-1).max()) > ROUND_TRIP_MM:
            raise FoldedWarpError("a landmark cannot be traced back through the warp.")
        return found.numpy()


def warp_between(
    new: Floats, original: Floats, grid: Grid, smoothing: float = 0.0, extra: Tensor | None = None
) -> Warp:
    """A warp that shows the ``original`` landmarks at about ``new`` (both ``[N, 3]`` mm).

    Args:
        new: landmarks of the shape that the scan is to take.
        original: landmarks of the scan.
        grid: control points.
        smoothing: how much the spline may miss the landmarks to stay smooth; 0 meets them.
        extra: further displacement ``[1, 3, Z, Y, X]`` at the control points, mm.

    Raises:
        FoldedWarpError: if it folds anywhere.
    """
    spline = thin_plate_spline(new, original, smoothing)
    places = positions(grid).double().numpy()
    moved = spline(places.reshape(-1, 3)).reshape(places.shape) - places
    field = torch.from_numpy(moved).movedim(-1, 0)[None].float()
    warp = Warp(grid, (field if extra is None else field + extra).contiguous())
    if warp.smallest_jacobian() <= 0:
        raise FoldedWarpError("the warp folds.")
    return warp


def thin_plate_spline(source: Floats, target: Floats, smoothing: float = 0.0) -> Callable[[Floats], Floats]:
    """The smoothest map taking ``source`` to ``target`` (both ``[N, 3]``): kernel r, affine part free.

    With ``smoothing`` it is the minimum of misfit and bending (Wahba 1990, Spline Models for Observational Data).
    """
    count = len(source)
    affine = np.hstack([np.ones((count, 1)), source])
    kernel = -np.linalg.norm(source[:, None] - source[None], axis=-1) + smoothing * np.eye(count)
    system = np.block([[kernel, affine], [affine.T, np.zeros((4, 4))]])
    weights = np.linalg.solve(system, np.vstack([target, np.zeros((4, 3))]))

    def spline(points: Floats) -> Floats:
        bent: Floats = -np.linalg.norm(points[:, None] - source[None], axis=-1) @ weights[:count]
        return bent + weights[count] + points @ weights[count + 1 :]

    return spline


def positions(grid: Grid) -> Tensor:
    """Positions ``[Z, Y, X, 3]`` (mm) of a grid's samples, float32."""
    matrix = torch.as_tensor(grid.geometry.voxel_to_world_matrix, dtype=torch.float32)
    x, y, z = (torch.arange(n, dtype=torch.float32) for n in grid.shape)
    place = matrix[:3, 0] * x[None, None, :, None] + matrix[:3, 1] * y[None, :, None, None]
    return place + matrix[:3, 2] * z[:, None, None, None] + matrix[:3, 3]


def resample(volume: Tensor, grid: Grid, points: Tensor, border: bool = False) -> Tensor:
    """Trilinear values ``[C, ...]`` of ``volume`` (``[1, C, Z, Y, X]`` on ``grid``) at ``points`` (``[..., 3]``).

    Outside the grid it is 0, or with ``border`` the nearest value.
    """
    inverse = torch.as_tensor(grid.geometry.world_to_voxel_matrix, dtype=points.dtype)
    scale = torch.as_tensor([2 / (n - 1) for n in grid.shape], dtype=points.dtype)
    place = (points @ (inverse[:3, :3] * scale[:, None]).T + inverse[:3, 3] * scale - 1).reshape(1, 1, 1, -1, 3)
    padding = "border" if border else "zeros"
    values = functional.grid_sample(volume.to(points.dtype), place, padding_mode=padding, align_corners=True)
    return values.reshape(volume.shape[1], *points.shape[:-1])


def smooth_noise(shape: tuple[int, ...], cells: float, rng: np.random.Generator, channels: int = 1) -> Tensor:
    """Random smooth field ``[1, channels, Z, Y, X]`` of mean 0 and standard deviation 1.

    ``cells`` is the distance, in samples, over which it changes.
    """
    small = [max(2, round(n / cells) + 1) for n in shape]
    noise = torch.from_numpy(rng.standard_normal((1, channels, *small), dtype=np.float32))
    field = functional.interpolate(noise, size=shape, mode="trilinear", align_corners=True)
    return field / field.std().clamp(min=1e-6)
