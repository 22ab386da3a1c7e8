"""NumPy archives as scans.

A ``.npz`` scan holds ``voxels`` (or ``array``), ``[k, j, i]``; ``affine``, 4x4, taking the voxel (i, j, k, 1) to world
mm; and ``coordinate_system``, a text, ``LPS`` or ``RAS``: the world that the affine means, LPS where it is missing.
Other entries are not looked at.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.errors import ScanError
from trt_landmarks.geometry import Geometry
from trt_landmarks.scan.formats import case_id
from trt_landmarks.scan.limits import check_count
from trt_landmarks.scan.problems import COPY_AGAIN, bad_direction
from trt_landmarks.scan.volume import Scan, checked

_REMEDY = "Store voxels [k, j, i] and affine (4x4, voxel (i, j, k) to LPS mm) with numpy.savez_compressed."


def is_scan(path: Path) -> bool:
    """Whether a NumPy archive says that it is a scan: it has an affine."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "affine.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return True  # its name says so; what is wrong is said when it is read


def read_npz(path: Path) -> tuple[NDArray[Any], Geometry]:
    """Voxels ``[k, j, i]`` and geometry of a NumPy archive.

    Raises:
        ScanError: if it is damaged, holds Python objects, or lacks what a scan needs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            voxels = next((name for name in ("voxels.npy", "array.npy") if name in names), None)
            if voxels is None or "affine.npy" not in names:
                message = f"{path}: has no voxels and affine."
                raise ScanError(message, _REMEDY, code="scan_format")
            affine = _read(path, archive, "affine.npy", 16)
            system = "LPS"
            if "coordinate_system.npy" in names:
                system = str(_read(path, archive, "coordinate_system.npy", 1).ravel()[0])
            stored = _read(path, archive, voxels, None)
    # What zipfile and NumPy raise for damage, encryption and unknown compression.
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, NotImplementedError):
        raise ScanError(f"{path}: is damaged, or not an archive of numbers.", COPY_AGAIN) from None
    return np.ascontiguousarray(stored), _geometry(path, affine, system, stored.shape)


def _read(path: Path, archive: zipfile.ZipFile, name: str, most: int | None) -> NDArray[Any]:
    """An array of the archive, of ``most`` values at most, else of a scan's; never a Python object."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        # Texts may be long in one value; archive members say their true size, or zipfile refuses them.
        if dtype.hasobject or dtype.itemsize > 1024 or (most is not None and np.prod(shape, dtype=object) > most):
            raise ScanError(f"{path}: {name} is not an array of numbers.", _REMEDY, code="scan_format")
        check_count(path, shape)
    with archive.open(name) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
        file.read(1)  # the checksum is compared at the end
    return array.astype(dtype.newbyteorder("="), copy=False)


def _geometry(path: Path, affine: NDArray[Any], system: str, shape: tuple[int, ...]) -> Geometry:
    if affine.shape != (4, 4) or affine.dtype.kind not in "iuf" or not np.isfinite(affine).all():
        raise ScanError(f"{path}: its affine is not 4x4 numbers.", _REMEDY, code="scan_direction")
    if system not in ("LPS", "RAS"):
        message = f"{path}: its coordinate_system is neither LPS nor RAS."
        raise ScanError(message, "Say which world the affine means.", code="scan_direction")
    if len(shape) != 3:
        message = f"{path}: is not one 3D volume: its size is {' x '.join(map(str, shape[::-1]))}."
        raise ScanError(message, "Export a single 3D volume.", code="scan_dimensions")
    matrix = affine.astype(np.float64)
    if not np.array_equal(matrix[3], [0, 0, 0, 1]):
        raise bad_direction(path, "the last row of its affine is not 0 0 0 1")
    if system == "RAS":
        matrix[:2] *= -1
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    direction = matrix[:3, :3] / np.where(spacing > 0, spacing, 1)
    (a, b, c), (x, y, z), (k, j, i) = spacing.tolist(), matrix[:3, 3].tolist(), shape
    return Geometry((i, j, k), (a, b, c), (x, y, z), direction)


def scan_from_affine(array: NDArray[Any], affine: NDArray[Any], frame: str, path: Path | None = None) -> Scan:
    """A scan from an array ``[i, j, k]`` and the 4x4 affine from its indices to mm, as nibabel has them.

    Args:
        array: voxels; its axes are those of the affine's columns.
        affine: voxel (i, j, k, 1) to mm.
        frame: the world of the affine, ``RAS`` or ``LPS``.
        path: where it was read from, if it was.

    Raises:
        ScanError: if the affine is no scan's, or the contents cannot be used.
    """
    name = path or Path("array")
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    geometry = _geometry(name, affine, frame, array.shape[::-1])
    native = array.dtype.newbyteorder("=")
    voxels = np.ascontiguousarray(array.T.astype(native, copy=False))
    return checked(Scan(case_id(name), path, voxels, geometry))
