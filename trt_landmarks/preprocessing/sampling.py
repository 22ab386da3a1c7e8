"""Sampling physical grids straight from a scan's own voxels: the reference (NumPy) implementation.

No full-resolution resampled copy is ever made: every grid position is carried to voxel coordinates and
interpolated trilinearly.  The border follows ITK: positions up to half a voxel outside take the nearest
voxel's value, further outside they take ``fill``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.geometry import Floats, Geometry, Grid
from trt_landmarks.task.task import Intensity

#: A grid whose axes leave the voxel axes by less than this over its whole extent (voxels) counts as aligned.
ALIGNED_TOLERANCE = 1e-5
#: Positions this close (voxels) to the half-voxel border count as inside, so that rounding decides nothing.
BORDER_TOLERANCE = 1e-6
#: Integers whose values lie in a range of at most so many are counted; others are partitioned.
_VALUES = 1 << 16
#: Voxels that are counted together: as integers of 8 bytes, which NumPy counts, they stay in the processor's cache.
_COUNTED = 1 << 17


def grid_to_voxel(grid: Grid, geometry: Geometry) -> Floats:
    """3x4 matrix taking a grid index (x, y, z, 1) to voxel coordinates (i, j, k)."""
    return (geometry.world_to_voxel_matrix @ grid.geometry.voxel_to_world_matrix)[:3]


def sample(voxels: NDArray[np.generic], geometry: Geometry, grid: Grid, fill: float = 0.0) -> NDArray[np.float32]:
    """Trilinear samples of a scan on a physical grid.

    Args:
        voxels: ``[k, j, i]``, any real dtype.
        geometry: where the voxels lie (LPS mm).
        grid: where to sample (LPS mm).
        fill: value outside the scan.

    Returns:
        float32 ``[z, y, x]``, the grid's axes.
    """
    matrix = grid_to_voxel(grid, geometry)
    order = _aligned_axes(matrix, grid.shape)
    if order is not None:
        return _sample_separable(voxels, matrix, order, grid.shape, fill)
    return _sample_points(voxels, matrix, grid.shape, fill)


def _aligned_axes(matrix: Floats, shape: Sequence[int]) -> tuple[int, int, int] | None:
    """For each voxel axis (i, j, k) the grid axis that alone moves it; None if the grid lies oblique."""
    order = tuple(int(n) for n in np.argmax(np.abs(matrix[:, :3]), axis=1))
    if sorted(order) != [0, 1, 2]:
        return None
    drift = np.abs(matrix[:, :3]) @ np.diag(np.asarray(shape, dtype=np.float64))
    drift[np.arange(3), order] = 0
    return (order[0], order[1], order[2]) if drift.sum() < ALIGNED_TOLERANCE else None


def _corners(position: Floats, size: int) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.bool_]]:
    """Lower neighbour, weight of the upper neighbour and inside-ness of positions along one voxel axis."""
    inside = (position >= -0.5 - BORDER_TOLERANCE) & (position <= size - 0.5 + BORDER_TOLERANCE)
    clamped = np.clip(position, 0, size - 1)
    lower = np.minimum(clamped.astype(np.intp), max(size - 2, 0))
    return lower, (clamped - lower).astype(np.float32), inside


def _sample_separable(
    voxels: NDArray[np.generic], matrix: Floats, order: tuple[int, int, int], shape: Sequence[int], fill: float
) -> NDArray[np.float32]:
    """Axis-aligned case: one-dimensional interpolation along each voxel axis in turn."""
    block: NDArray[np.generic] = voxels
    masks: list[NDArray[np.bool_]] = []
    plans = []
    for axis, grid_axis in enumerate(order):
        position = matrix[axis, 3] + matrix[axis, grid_axis] * np.arange(shape[grid_axis])
        lower, weight, inside = _corners(position, voxels.shape[2 - axis])
        masks.append(inside)
        plans.append((axis, lower, weight))
    # Cut out what is needed, then reduce the slowest (array axis 0 = k) first: whole slabs, contiguous memory.
    for axis, lower, weight in reversed(plans):
        array_axis = 2 - axis
        upper = np.minimum(lower + 1, block.shape[array_axis] - 1)
        low = np.take(block, lower, axis=array_axis).astype(np.float32)
        if np.any(weight):
            high = np.take(block, upper, axis=array_axis).astype(np.float32)
            high -= low
            high *= weight.reshape([-1 if n == array_axis else 1 for n in range(3)])
            low += high
        block = low
    outside = ~(masks[2][:, None, None] & masks[1][None, :, None] & masks[0][None, None, :])
    result = np.asarray(block, dtype=np.float32)
    result[outside] = fill
    # result is [k, j, i]; array axis n must become the grid axis 2 - n.
    source_of = {grid_axis: 2 - axis for axis, grid_axis in enumerate(order)}
    return np.ascontiguousarray(result.transpose(source_of[2], source_of[1], source_of[0]))


def _sample_points(
    voxels: NDArray[np.generic], matrix: Floats, shape: Sequence[int], fill: float
) -> NDArray[np.float32]:
    """Oblique case: eight neighbours gathered for every position."""
    nx, ny, nz = shape
    x, y, z = (np.arange(n, dtype=np.float64) for n in (nx, ny, nz))
    lowers, weights, inside = [], [], np.ones((nz, ny, nx), dtype=bool)
    for axis in range(3):
        ax, ay, az, offset = matrix[axis]
        position = (az * z + offset)[:, None, None] + (ay * y)[None, :, None] + (ax * x)[None, None, :]
        lower, weight, within = _corners(position, voxels.shape[2 - axis])
        lowers.append(lower)
        weights.append(weight)
        inside &= within
    size_k, size_j, size_i = voxels.shape
    flat = voxels.reshape(-1)
    base = (lowers[2] * size_j + lowers[1]) * size_i + lowers[0]
    step_i, step_j, step_k = int(size_i > 1), size_i * int(size_j > 1), size_j * size_i * int(size_k > 1)
    wi, wj, wk = weights

    def row(offset: int) -> NDArray[np.float32]:
        low = flat[base + offset].astype(np.float32)
        return low + wi * (flat[base + offset + step_i].astype(np.float32) - low)

    def plane(offset: int) -> NDArray[np.float32]:
        low = row(offset)
        return low + wj * (row(offset + step_j) - low)

    low = plane(0)
    result = low + wk * (plane(step_k) - low)
    result[~inside] = fill
    return result


def intensity_range(voxels: NDArray[np.generic], intensity: Intensity) -> tuple[float, float]:
    """The two voxel values that become 0 and 1 (see :class:`~trt_landmarks.task.task.Intensity`).

    Percentiles are those of all voxels (nearest rank), so they do not depend on how the axes are stored.
    """
    if intensity.method == "window":
        return intensity.low, intensity.high
    flat = voxels.reshape(-1)
    first, last = flat.min(), flat.max()
    ranks = [round(p / 100 * (flat.size - 1)) for p in (intensity.low, intensity.high)]
    if flat.dtype.kind in "iu" and int(last) - int(first) < _VALUES:
        cumulated = np.cumsum(_histogram(flat, first, int(last) - int(first) + 1))
        low, high = (float(int(first) + int(np.searchsorted(cumulated, rank, side="right"))) for rank in ranks)
    else:
        low, high = (float(value) for value in np.partition(flat, ranks)[ranks])
    if high <= low:  # nearly constant: all but a few voxels have one value
        low, high = float(first), float(last)
    return low, high


def _histogram(flat: NDArray[np.generic], first: np.generic, values: int) -> NDArray[np.intp]:
    """How often each of the ``values`` integers from ``first`` on comes in ``flat``."""
    counts = np.zeros(values, dtype=np.intp)
    for start in range(0, flat.size, _COUNTED):
        part = np.subtract(flat[start : start + _COUNTED], first, dtype=np.intp, casting="unsafe")
        counts += np.bincount(part, minlength=values)
    return counts


def normalize(samples: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """Voxel values to 0..1, clipped; in place."""
    samples -= np.float32(low)
    samples *= np.float32(1.0 / (high - low))
    return np.clip(samples, 0, 1, out=samples)
