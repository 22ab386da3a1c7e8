"""Voxel <-> world, for any direction matrix, spacing and origin; and the physical grids that are sampled.

Conventions, everywhere in the toolkit:

* World points are ``(x, y, z)`` in **LPS mm** (x to the patient's left, y to the back, z up), float64.
* Voxel points are ``(i, j, k)``, the index of the file's first, second and third axis; a voxel's centre has
  integer coordinates.
* Arrays are ``[k, j, i]`` (slowest axis first), as SimpleITK hands them to NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

#: See :func:`steadiness`: errors of 5 % of a shape's size must not turn it by more than 8 degrees.
STEADY = (0.05 / np.radians(8)) ** 2
#: Points of a scan may be this much less steady than the mean shape: whether a task's frame is the anatomy's is decided
#: by the mean shape, for all scans alike, and only points that are of no use at all are an exception.
LENIENCE = 0.25

#: LPS world axes by their anatomical name: index into ``(x, y, z)``.
AXES: dict[str, int] = {"left-right": 0, "anterior-posterior": 1, "superior-inferior": 2}


@dataclass(frozen=True)
class Geometry:
    """Where a voxel array lies in the world.

    Attributes:
        size: voxels along i, j, k.
        spacing: mm along i, j, k.
        origin: LPS mm of the centre of voxel (0, 0, 0).
        direction: 3x3; column n is the world direction of voxel axis n.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: Floats

    def __post_init__(self) -> None:
        direction = np.asarray(self.direction, dtype=np.float64).reshape(3, 3)
        object.__setattr__(self, "direction", direction)

    @property
    def voxel_to_world_matrix(self) -> Floats:
        """4x4 affine taking (i, j, k, 1) to LPS mm."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.direction * np.asarray(self.spacing, dtype=np.float64)
        matrix[:3, 3] = self.origin
        return matrix

    @property
    def world_to_voxel_matrix(self) -> Floats:
        """4x4 affine taking LPS mm to (i, j, k, 1)."""
        return np.asarray(np.linalg.inv(self.voxel_to_world_matrix), dtype=np.float64)

    def voxel_to_world(self, points: ArrayLike) -> Floats:
        """Points ``[..., 3]`` in voxels (i, j, k) to LPS mm."""
        return transform(self.voxel_to_world_matrix, points)

    def world_to_voxel(self, points: ArrayLike) -> Floats:
        """Points ``[..., 3]`` in LPS mm to voxels (i, j, k)."""
        # Solving, not multiplying with the inverse, keeps the origin's digits: (p - origin) is exact first.
        linear = self.voxel_to_world_matrix[:3, :3]
        offset = np.asarray(points, dtype=np.float64) - np.asarray(self.origin, dtype=np.float64)
        return offset @ np.linalg.inv(linear).T

    @property
    def centre(self) -> Floats:
        """The middle of the volume, LPS mm; the same point however the scan's axes are stored."""
        return self.voxel_to_world((np.asarray(self.size, dtype=np.float64) - 1) / 2)

    def contains(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Whether points ``[..., 3]`` (LPS mm) lie in the volume, voxels counted to their faces."""
        voxel = self.world_to_voxel(points)
        size = np.asarray(self.size, dtype=np.float64)
        return np.all((voxel >= -0.5) & (voxel <= size - 0.5), axis=-1)


def transform(matrix: Floats, points: ArrayLike) -> Floats:
    """Apply a 4x4 affine to points ``[..., 3]``."""
    return np.asarray(points, dtype=np.float64) @ matrix[:3, :3].T + matrix[:3, 3]


@dataclass(frozen=True)
class Grid:
    """A regular box of physical sampling positions around a centre.

    With the default ``axes`` the grid's x, y, z run along the world's; the grid of a pose-normalized patch
    carries the anatomy's axes instead.

    Attributes:
        shape: samples along the grid's x, y, z.
        spacing: mm along x, y, z.
        centre: LPS mm of the middle of the grid.
        axes: 3x3 rotation; column n is the world direction of the grid's axis n.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    centre: Floats
    axes: Floats = field(default_factory=lambda: np.eye(3))

    @property
    def geometry(self) -> Geometry:
        """The same grid as a :class:`Geometry`: its "voxels" (x, y, z) in the world."""
        half = (np.asarray(self.shape, dtype=np.float64) - 1) / 2 * np.asarray(self.spacing)
        origin = np.asarray(self.centre, dtype=np.float64) - self.axes @ half
        return Geometry(self.shape, self.spacing, (origin[0], origin[1], origin[2]), self.axes)


def same_slice(centres: ArrayLike, members: Sequence[int], axis: int, axes: Floats | None = None) -> Floats:
    """Reset a group's centres to one slice: their mean coordinate along ``axis`` (Pang et al. 2023, section 2.2).

    Args:
        centres: ``[N, 3]`` LPS mm, all landmarks.
        members: indices of the group's landmarks.
        axis: 0, 1 or 2, perpendicular to the key slice.
        axes: 3x3 rotation whose columns are the axes meant; None for the world's.

    Returns:
        A copy of ``centres`` with the group's rows moved along that one axis.
    """
    moved = np.array(centres, dtype=np.float64)
    normal = np.eye(3)[axis] if axes is None else axes[:, axis]
    along = moved[list(members)] @ normal
    moved[list(members)] += (along.mean() - along)[:, None] * normal
    return moved


def rigid_rotation(source: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Rotation R (3x3) that best turns the shape ``source`` into ``target`` (both ``[N, 3]``, mm): R @ s ~ t.

    Least squares over rotations about the centroids (Kabsch 1976), points weighted by ``weights`` ``[N]`` if there are
    any.  Columns of R are the source frame's axes as seen in the target frame.
    """
    return _fit(source, target, weights)[0]


def steadiness(source: ArrayLike, target: ArrayLike | None = None) -> float:
    """How well points determine the rotation from ``source`` to ``target`` (both ``[N, 3]``, mm; None: to itself).

    The singular values d1, d2, d3 of the matrix that :func:`rigid_rotation` takes its rotation from say how far it
    resists: turning about the longest direction, the easiest, costs d2 + d3 (d2 - d3 for a mirrored target).  Errors of
    a share e of the shape's size turn it by about e / sqrt(steadiness), in radians.

    Returns:
        N (d2 + d3) / d1: 0 for points on a line, in one place, or fewer than three.
    """
    count = len(np.asarray(source))
    if count < 3:
        return 0.0
    _, (first, second, third) = _fit(source, source if target is None else target)
    return float(count * (second + third) / first) if first > 0 else 0.0


def anatomy_axes(shape: ArrayLike, points: ArrayLike) -> Floats:
    """Axes of the anatomy (3x3, columns) in a scan: the mean ``shape``'s, turned to the ``points`` (both ``[N, 3]``).

    They are the world's if the points do not determine a rotation: nearly in a line, or in one place.  Rows with NaN in
    either are left out.
    """
    shape, points = np.asarray(shape, dtype=np.float64), np.asarray(points, dtype=np.float64)
    known = ~np.isnan(shape + points).any(axis=1)
    shape, points = shape[known], points[known]
    if steadiness(shape) < STEADY or steadiness(shape, points) < LENIENCE * STEADY:
        return np.eye(3)
    return rigid_rotation(shape, points)


def _fit(source: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None) -> tuple[Floats, Floats]:
    """The rotation, and the singular values it comes from; the last is negative for a mirrored target."""
    s = np.asarray(source, dtype=np.float64)
    t = np.asarray(target, dtype=np.float64)
    w = np.ones(len(s)) if weights is None else np.asarray(weights, dtype=np.float64)
    share = (w / w.sum())[:, None]
    u, values, vt = np.linalg.svd((share * (t - (share * t).sum(0))).T @ (s - (share * s).sum(0)))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    return u @ np.diag(signs) @ vt, values * signs


def turned_by(rotation: Floats) -> float:
    """The angle of a rotation (3x3), degrees, 0 to 180."""
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))
