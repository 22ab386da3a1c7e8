"""The method's geometry as modules, for a scan on the device: from coarse points to the fine nets' inputs, and back.

These do what :mod:`trt_landmarks.preprocessing.sampling` and
:class:`trt_landmarks.localization.localizer.Localizer` do on the host.  Positions are in mm from the scan's centre
(LPS), so that FP32 keeps their digits.  A scan is described by its voxels and their placement
(:func:`trt_landmarks.localization.whole_scan.placement`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as nn_functional
from torch import Tensor, nn

from trt_landmarks.geometry import LENIENCE, STEADY, Floats, Grid, steadiness
from trt_landmarks.task.graphs import fine_graphs
from trt_landmarks.task.task import Task

#: Doublings of the exponent in the search for the largest eigenvector: the others fade with the power 2^12.
SQUARINGS = 12


class View(nn.Module):
    """Trilinear samples of a scan, normalized to 0..1 (0 outside), as
    :func:`trt_landmarks.preprocessing.sampling.sample` gives them.

    Input: voxels ``[1, 1, K, J, I]``, of which the scan is the first part along each axis, placement ``[1, 6, 3]`` and
    positions ``[1, A, B, C, 3]`` (mm from the scan's centre, LPS).  Output ``[1, A, B, C]``.
    """

    def forward(self, voxels: Tensor, placement: Tensor, positions: Tensor) -> Tensor:
        to_grid, limit, share, intensity = placement[:, :3], placement[:, 3], placement[:, 4], placement[:, 5]
        grid = positions @ to_grid.transpose(1, 2).reshape(1, 1, 1, 3, 3)
        inside = (grid.abs() <= limit.reshape(1, 1, 1, 1, 3)).all(dim=-1)
        padded = (grid.clamp(-1, 1) + 1) * share.reshape(1, 1, 1, 1, 3) - 1
        samples = nn_functional.grid_sample(voxels, padded, "bilinear", "border", align_corners=True)[:, 0]
        low, scale = intensity[:, 0].reshape(1, 1, 1, 1), intensity[:, 1].reshape(1, 1, 1, 1)
        return ((samples - low) * scale).clamp(0, 1) * inside


class PatchViews(nn.Module):
    """The fine nets' inputs from a scan and its coarse points ``[1, N, 3]`` (mm from the scan's centre, LPS).

    Output: the patches' axes ``[1, 3, 3]`` (columns) and centres ``[1, N, 3]``, and for each fine graph in turn its
    patches ``[1, L, Z, Y, X]``.  Centres of each correlated group are reset to one slice (Pang et al. 2023,
    section 2.2).
    """

    positions: Tensor

    def __init__(self, task: Task, mean_shape: Floats) -> None:
        super().__init__()
        self.view = View()
        self.turned = task.fine.frame == "anatomy" and steadiness(mean_shape) >= STEADY
        self.pose = Pose(mean_shape)
        self.shape = task.fine.shape[::-1]
        self.groups = [(list(task.members(group)), group.axis_index) for group in task.groups]
        self.members = [list(rows) for rows in fine_graphs(task).values()]
        self.register_buffer("positions", _positions(task.fine.shape, task.fine.spacing_mm).reshape(1, -1, 3))

    def forward(self, voxels: Tensor, placement: Tensor, points: Tensor) -> tuple[Tensor, ...]:
        axes = self.pose(points) if self.turned else torch.eye(3)[None]
        centres = points
        for rows, axis in self.groups:
            centres = _one_slice(centres, rows, axes[:, :, axis])
        offsets = self.positions @ axes.transpose(1, 2)
        depth, height, width = self.shape
        patches = []
        for rows in self.members:
            where = centres[:, rows, None, :] + offsets[:, None]
            where = where.reshape(1, len(rows) * depth, height, width, 3)
            samples = self.view(voxels, placement, where)
            patches.append(samples.reshape(1, len(rows), depth, height, width))
        return axes, centres, *patches


class Pose(nn.Module):
    """Axes ``[1, 3, 3]`` of the anatomy from the mean shape, which is steady, and points ``[1, N, 3]``: as
    :func:`trt_landmarks.geometry.anatomy_axes`, without a singular value decomposition, which graphs do not have.

    The rotation's quaternion is the eigenvector of the largest eigenvalue of a 4x4 matrix (Horn 1987); it is what is
    left of a matrix that is squared again and again.  The two largest eigenvalues are d1 + d2 + d3 and d1 - d2 - d3.
    """

    shape: Tensor
    quaternion_matrix: Tensor
    rotation: Tensor

    def __init__(self, mean_shape: Floats) -> None:
        super().__init__()
        centred = np.asarray(mean_shape, dtype=np.float64) - np.mean(mean_shape, axis=0)
        self.register_buffer("shape", torch.tensor(centred, dtype=torch.float32)[None])
        self.register_buffer("quaternion_matrix", _horn())
        self.register_buffer("rotation", _rotation_of_products())

    def forward(self, points: Tensor) -> Tensor:
        centred = points - points.mean(dim=1, keepdim=True)
        covariance = self.shape.transpose(1, 2) @ centred
        matrix = (covariance.reshape(1, 9) @ self.quaternion_matrix).reshape(1, 4, 4)
        # Made positive, so that the largest eigenvalue is the largest in magnitude too.
        size = matrix.square().sum(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-12)
        positive = matrix / size + torch.eye(4, device=matrix.device)
        products, largest = _largest_eigenvector(positive)
        # Without the largest eigenvalue, the second is the largest.
        _, second = _largest_eigenvector(positive - largest.reshape(1, 1, 1) * products)
        rotation = (products.reshape(1, 16) @ self.rotation).reshape(1, 3, 3)
        # N (d2 + d3) / d1, of eigenvalues that have 1 added.
        steady = self.shape.shape[1] * (largest - second) >= LENIENCE * STEADY * (largest + second - 2)
        return torch.where(steady.reshape(1, 1, 1), rotation, torch.eye(3, device=matrix.device)[None])


class Landmarks(nn.Module):
    """What the fine nets give, brought together: all points in the task's order, in mm from the scan's centre (LPS).

    Input: axes ``[1, 3, 3]``, centres ``[1, N, 3]``, and for each fine graph in turn offsets ``[1, L, 3]``,
    confidence ``[1, L]`` and, with the slice branch, key_slice ``[1]``.  Output: points ``[1, N, 3]``, confidence
    ``[1, N]`` and, with the slice branch, a point on each group's key slice ``[1, G, 3]``.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        members = fine_graphs(task)
        axis = {rows: group.axis_index for group in task.groups for rows in [task.members(group)]}
        self.parts = [(list(rows), axis.get(rows)) for rows in members.values()]
        order = [row for rows in members.values() for row in rows]
        self.order = [order.index(row) for row in range(len(task.landmarks))]
        self.slices = task.correlated.slice_branch and bool(task.groups)

    def forward(self, axes: Tensor, centres: Tensor, *found: Tensor) -> tuple[Tensor, ...]:
        points, confidences, planes = [], [], []
        rest = list(found)
        for rows, axis in self.parts:
            middle = centres[:, rows]
            points.append(middle + rest.pop(0) @ axes.transpose(1, 2))
            confidences.append(rest.pop(0))
            if axis is not None and self.slices:
                key = rest.pop(0).reshape(-1, 1)
                planes.append(middle.mean(dim=1) + key * axes[:, :, axis])
        together = torch.cat(points, dim=1)[:, self.order], torch.cat(confidences, dim=1)[:, self.order]
        return (*together, torch.stack(planes, dim=1)) if planes else together


def _largest_eigenvector(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Of a positive ``[1, 4, 4]``: the products ``[1, 4, 4]`` of a unit eigenvector q, q q^T, and its eigenvalue.

    If several eigenvalues are the largest, it is one of their eigenvectors.
    """
    power = matrix
    for _ in range(SQUARINGS):
        power = power @ power
        power = power / power.abs().amax(dim=(1, 2), keepdim=True)
    # All columns are now multiples of q, the one with the largest diagonal the longest.
    longest = power.diagonal(dim1=1, dim2=2).argmax(dim=1).reshape(1, 1, 1).expand(1, 4, 1)
    column = power.gather(2, longest)
    products = column @ column.transpose(1, 2) / column.square().sum(dim=1, keepdim=True)
    return products, (products * matrix).sum(dim=(1, 2))


def _one_slice(centres: Tensor, rows: Sequence[int], normal: Tensor) -> Tensor:
    """Move a group's centres ``[1, N, 3]`` along a normal ``[1, 3]`` to their mean."""
    mask = torch.zeros(centres.shape[1], dtype=centres.dtype)
    mask[list(rows)] = 1
    along = (centres * normal[:, None]).sum(dim=-1)
    mean = (along * mask).sum(dim=1, keepdim=True) / len(rows)
    return centres + ((mean - along) * mask)[..., None] * normal[:, None]


def _positions(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Tensor:
    """Positions of a grid about zero, ``[1, Z, Y, X, 3]`` mm."""
    geometry = Grid(shape, spacing, np.zeros(3)).geometry
    x, y, z = (np.arange(n) * s + o for n, s, o in zip(shape, spacing, geometry.origin, strict=True))
    zz, yy, xx = np.meshgrid(z, y, x, indexing="ij")
    return torch.tensor(np.stack([xx, yy, zz], axis=-1), dtype=torch.float32)[None]


def _horn() -> Tensor:
    """``[9, 16]``: takes the products S_ij = sum of source_i target_j to Horn's symmetric 4x4 matrix."""
    rows = torch.zeros(4, 4, 3, 3)
    for a, b, terms in (
        (0, 0, ((0, 0, 1), (1, 1, 1), (2, 2, 1))),
        (1, 1, ((0, 0, 1), (1, 1, -1), (2, 2, -1))),
        (2, 2, ((0, 0, -1), (1, 1, 1), (2, 2, -1))),
        (3, 3, ((0, 0, -1), (1, 1, -1), (2, 2, 1))),
        (0, 1, ((1, 2, 1), (2, 1, -1))),
        (0, 2, ((2, 0, 1), (0, 2, -1))),
        (0, 3, ((0, 1, 1), (1, 0, -1))),
        (1, 2, ((0, 1, 1), (1, 0, 1))),
        (1, 3, ((2, 0, 1), (0, 2, 1))),
        (2, 3, ((1, 2, 1), (2, 1, 1))),
    ):
        for i, j, sign in terms:
            rows[a, b, i, j] = rows[b, a, i, j] = sign
    return rows.reshape(16, 9).T.contiguous()


def _rotation_of_products() -> Tensor:
    """``[16, 9]``: takes the products q_a q_b of a unit quaternion (w, x, y, z) to its rotation matrix."""
    rotation = torch.zeros(3, 3, 4, 4)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        w, a, b, c = 0, i + 1, j + 1, k + 1
        rotation[i, i, w, w] = rotation[i, i, a, a] = 1
        rotation[i, i, b, b] = rotation[i, i, c, c] = -1
        rotation[i, j, a, b] = rotation[j, i, a, b] = 2
        rotation[i, j, w, c], rotation[j, i, w, c] = -2, 2
    return rotation.reshape(9, 16).T.contiguous()
