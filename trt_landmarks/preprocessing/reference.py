"""What every preprocessor is, and the reference: NumPy, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.engines.base import Input
from trt_landmarks.geometry import Grid
from trt_landmarks.preprocessing.sampling import normalize, sample
from trt_landmarks.scan import Scan
from trt_landmarks.task.graphs import padded_size

#: The two voxel values that become 0 and 1 (:func:`trt_landmarks.preprocessing.sampling.intensity_range`).
Range = tuple[float, float]


class Preprocessor(Protocol):
    """Makes the coarse net's input of scans of any size, spacing, direction and real number type.

    Attributes:
        name: ``reference`` or ``dali``.
    """

    name: str

    def coarse_volumes(
        self, scans: Sequence[Scan], grids: Sequence[Grid], ranges: Sequence[Range]
    ) -> NDArray[np.float32]:
        """Sample every scan on its grid and bring its voxel values to 0..1; outside the scan is 0.

        Args:
            scans: at least one.
            grids: for each scan where to sample it (LPS mm); all of one shape.
            ranges: for each scan the voxel values that become 0 and 1.

        Returns:
            float32 ``[B, 1, Z, Y, X]``, 0..1.
        """
        ...

    def scan_volumes(self, scan: Scan, grid: Grid, intensities: Range, stream: int | None) -> tuple[Input, Input]:
        """What the graph of the whole method takes of one scan.

        Args:
            scan: the scan.
            grid: the coarse one (LPS mm).
            intensities: the voxel values that become 0 and 1.
            stream: handle of the CUDA stream (``cudaStream_t``) on which an engine reads them; None: on the host.

        Returns:
            The coarse volume ``[1, 1, Z, Y, X]`` in 0..1, and the voxels ``[1, 1, K, J, I]``, behind which there are
            zeros up to the sizes of :func:`~trt_landmarks.task.graphs.padded_size`.  Both float32; on the GPU, if this
            preprocessor computes there.
        """
        ...


def view(scan: Scan, grid: Grid, intensities: Range) -> NDArray[np.float32]:
    """One scan on one grid: float32 ``[Z, Y, X]`` in 0..1, 0 outside the scan (grid in LPS mm)."""
    return normalize(sample(scan.voxels, scan.geometry, grid, fill=intensities[0]), *intensities)


class ReferencePreprocessor:
    """NumPy, one scan after the other: the numbers every other preprocessor has to match."""

    name = "reference"

    def coarse_volumes(
        self, scans: Sequence[Scan], grids: Sequence[Grid], ranges: Sequence[Range]
    ) -> NDArray[np.float32]:
        return np.stack([view(*one)[None] for one in zip(scans, grids, ranges, strict=True)])

    def scan_volumes(self, scan: Scan, grid: Grid, intensities: Range, stream: int | None) -> tuple[Input, Input]:
        padded = np.zeros((1, 1, *padded_size(scan.voxels.shape)), np.float32)
        padded[0, 0, : scan.voxels.shape[0], : scan.voxels.shape[1], : scan.voxels.shape[2]] = scan.voxels
        return view(scan, grid, intensities)[None, None], padded
