"""A scan in memory, and a scan that was found and not read yet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.errors import ScanError
from trt_landmarks.geometry import Geometry
from trt_landmarks.scan.names import printable_name
from trt_landmarks.scan.problems import COPY_AGAIN, FARTHEST_MM, bad_direction, check_spacing

#: How far direction cosines may be from perpendicular unit vectors: files print as few as three decimals.
DIRECTION_TOLERANCE = 2e-3


@dataclass(frozen=True)
class ScanWarning:
    """What was odd about a scan that can be used all the same.

    Attributes:
        code: stable identifier, such as ``"duplicate_slices"``.
        message: one sentence that names no file and quotes nothing from one.
    """

    code: str
    message: str


@dataclass(frozen=True)
class Scan:
    """One volume.

    Attributes:
        id: the case's name.
        path: where it was read from; None if it never was a file.
        voxels: ``[k, j, i]``, in the file's own number type, C-contiguous.
        geometry: where the voxels lie in the world (LPS mm).
        warnings: what was odd about the file.
    """

    id: str
    path: Path | None
    voxels: NDArray[Any]
    geometry: Geometry
    warnings: tuple[ScanWarning, ...] = ()


@dataclass(frozen=True)
class ScanFile:
    """A scan that was found and not read yet.

    Attributes:
        id: the case's name, unique among those found together.
        path: the file, or the folder that holds the DICOM series.
        series: which of several DICOM series: a series instance UID or number, or ``largest``; None for the only one.
        label: what results, reports and errors say instead of the path, see :mod:`trt_landmarks.scan.anonymize`;
            None for the path itself.
    """

    id: str
    path: Path
    series: str | None = None
    label: str | None = None

    @property
    def shown(self) -> str:
        """The scan in results, reports and errors: its path as the user named it, or its label."""
        return printable_name(str(self.path)) if self.label is None else self.label


def scan_from_array(voxels: NDArray[Any], geometry: Geometry, id: str = "array", path: Path | None = None) -> Scan:
    """A scan from an array ``[k, j, i]``, checked as if it had been read from a file.

    Raises:
        ScanError: as :func:`trt_landmarks.scan.read_scan` for contents that cannot be used.
    """
    return checked(Scan(id, path, np.ascontiguousarray(voxels), geometry))


def checked(scan: Scan) -> Scan:
    """The scan, if its geometry and its contents can be used.

    Raises:
        ScanError: naming what cannot.
    """
    name = scan.path or Path(scan.id)
    voxels, geometry = scan.voxels, scan.geometry
    if voxels.shape != geometry.size[::-1] or min(voxels.shape) < 2:
        message = f"{name}: voxels of shape {voxels.shape} are not a 3D volume of size {geometry.size}."
        raise ScanError(message, "Give an array [k, j, i] and its own geometry.", code="scan_dimensions")
    if voxels.dtype.kind not in "iuf" or voxels.dtype.itemsize > 8 or voxels.dtype == np.float16:
        message = f"{name}: voxels of type {voxels.dtype} are not supported."
        raise ScanError(message, "Convert them to float32.", code="scan_components")
    check_spacing(name, geometry.spacing)
    if not (np.isfinite(geometry.origin).all() and np.abs(geometry.origin).max() <= FARTHEST_MM):
        raise ScanError(f"{name}: its origin {geometry.origin} is not a position.", COPY_AGAIN, code="scan_origin")
    # Mirrored axes are orthonormal too and fine: the file then stores its columns or slices the other way round.
    if not np.abs(geometry.direction.T @ geometry.direction - np.eye(3)).max() <= DIRECTION_TOLERANCE:
        raise bad_direction(name, "its axes are not perpendicular unit vectors")
    low, high = voxels.min(), voxels.max()  # NaN wins both
    if not (np.isfinite(low) and np.isfinite(high)):
        message = f"{name}: has voxels that are NaN or infinite."
        raise ScanError(message, "Replace them by the background's value.", code="scan_nan")
    if low == high:
        message = f"{name}: is empty: every voxel is {low}."
        raise ScanError(message, "Check the export, or choose another file.", code="scan_constant")
    return scan
