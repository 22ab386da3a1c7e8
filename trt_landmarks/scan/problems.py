"""What is said in the same words about scans of any format."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from trt_landmarks.errors import ScanError

COPY_AGAIN = "Copy or export the file again."
EXPORT_SPACING = "Export the scan again with its true voxel size."
#: Voxel edges and positions of a scan lie within these bounds: what lies beyond is damaged, not a scan.
SMALLEST_SPACING_MM, LARGEST_SPACING_MM = 1e-6, 1e3
FARTHEST_MM = 1e6
TRUE_EXTENSION = "Give it the extension of its true format."


def truncated(path: Path, why: str) -> ScanError:
    """The error for a file that is not complete."""
    return ScanError(f"{path}: is incomplete: {why}.", COPY_AGAIN, code="scan_truncated")


def bad_direction(path: Path, why: str) -> ScanError:
    """The error for axes that do not make a rectangular grid."""
    return ScanError(f"{path}: {why}.", "Resample it to a rectangular grid.", code="scan_direction")


def bad_components(path: Path) -> ScanError:
    """The error for voxels that are more than one number."""
    message = f"{path}: its voxels are colours, vectors or complex numbers."
    return ScanError(message, "Export one grey value per voxel.", code="scan_components")


def no_memory(path: Path) -> ScanError:
    """The error for a scan that this machine cannot hold."""
    return ScanError(f"{path}: does not fit into memory.", "Crop it or free memory.", code="scan_memory")


def not_there(path: Path, name: str) -> ScanError:
    """The error for a header whose file of voxels is gone."""
    message = f"{path}: its voxels should be in '{name}', which cannot be read."
    return ScanError(message, "Copy both files to the same folder.", code="scan_missing")


def check_spacing(path: Path, spacing: Sequence[float]) -> None:
    """Raise ScanError unless every spacing is a possible voxel edge in mm."""
    if not all(math.isfinite(s) and SMALLEST_SPACING_MM <= s <= LARGEST_SPACING_MM for s in spacing):
        shown = " x ".join(f"{s:g}" for s in spacing)
        raise ScanError(f"{path}: invalid voxel spacing {shown} mm.", EXPORT_SPACING, code="scan_spacing")
