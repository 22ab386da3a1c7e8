"""DICOM series in: choose one, check that its slices are a volume, and read them with GDCM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.errors import ScanError
from trt_landmarks.geometry import Geometry
from trt_landmarks.scan.dicom_objects import DicomFolder, Series, Slice, counted, list_series
from trt_landmarks.scan.formats import KNOWN
from trt_landmarks.scan.itk import DICOM, check_kind, geometry_of, open_volume, sitk, voxels_of
from trt_landmarks.scan.problems import EXPORT_SPACING, check_spacing
from trt_landmarks.scan.slices import stack
from trt_landmarks.scan.volume import ScanWarning

Read = tuple[NDArray[Any], Geometry, tuple[ScanWarning, ...]]


def chosen(series: Sequence[Series], rule: str) -> list[Series]:
    """The series that a rule takes: ``all``, ``largest`` (most voxels), a series instance UID or a series number."""
    if rule == "all":
        return list(series)
    if rule == "largest":
        return [max(series, key=lambda one: one.voxels)] if series else []
    return [one for one in series if rule in (one.uid, one.slices[0].series, one.number)]


def read_dicom(folder: Path, rule: str | None = None) -> Read:
    """Voxels ``[k, j, i]``, geometry and warnings of a folder's DICOM series.

    Slices are ordered by position.  Every slice is rescaled by its own slope and intercept.  Of slices at the same
    position all but one are dropped if their pixels are the same.

    Args:
        folder: holds the files; not searched below.
        rule: as :func:`chosen`; None for the only one.

    Raises:
        ScanError: if there is no such series or more than one, or its slices are not a whole, even, rectangular grid.
        RuntimeError: ITK's own.
    """
    found = list_series(folder)
    if found is None:
        raise ScanError(f"{folder}: no DICOM files in this folder.", KNOWN, code="scans_none")
    series = _only(found, rule or "all")
    if found.damaged:
        first = found.damaged[0].name
        message = f"{folder}: {len(found.damaged)} DICOM file(s) cannot be read as part of the series, first {first}."
        raise ScanError(message, "Copy the series again.", code="scan_truncated")
    return _read_frames(series.slices[0]) if series.slices[0].size[2] > 1 else _read_slices(folder, series.slices)


def _only(found: DicomFolder, rule: str) -> Series:
    series = chosen(found.volumes, rule)
    if not found.volumes and found.damaged:
        message = f"{found.path}: none of its DICOM files can be read, first {found.damaged[0].name}."
        raise ScanError(message, "Copy the series again.", code="scan_truncated")
    if not found.volumes:
        message = f"{found.path}: no DICOM series of a volume in this folder, only {counted(found.others)}."
        raise ScanError(message, "Export the volume's own series.", code="scans_none")
    if not series:
        message = f"{found.path}: none of its {len(found.volumes)} DICOM series is '{rule}'."
        raise ScanError(message, "Give a series number or a SeriesInstanceUID.", code="scan_series")
    if len(series) > 1:
        numbers = ", ".join(f"number {one.number or 'unknown'}: {len(one.slices)} files" for one in series)
        message = f"{found.path}: holds {len(series)} DICOM series ({numbers})."
        raise ScanError(message, "Choose one by its number or SeriesInstanceUID (--series).", code="scan_series")
    return series[0]


def _read_frames(one: Slice) -> Read:
    """A file of many frames, whose geometry GDCM finds among them."""
    reader = open_volume(one.path)
    geometry = geometry_of(reader)
    if geometry.spacing == (1, 1, 1) and geometry.origin == (0, 0, 0):  # what GDCM says if it finds nothing
        raise ScanError(f"{one.path}: does not say its voxel size.", EXPORT_SPACING, code="scan_spacing")
    return voxels_of(reader.Execute()), geometry, ()


def _read_slices(folder: Path, slices: Sequence[Slice]) -> Read:
    first = slices[0]
    if any(one.position is None or one.axes is None or one.spacing is None for one in slices):
        message = f"{folder}: its slices do not say their position, direction and pixel spacing."
        raise ScanError(message, "Export the series again.", code="scan_spacing")
    for what, name, tolerance in (("size", "size", 0), ("axes", "direction", 1e-3), ("spacing", "pixel spacing", 0)):
        values = np.array([getattr(one, what) for one in slices])
        if not np.allclose(values, values[0], rtol=1e-3, atol=tolerance):
            message = f"{folder}: its slices differ in {name}."
            raise ScanError(message, "Export one series of equal slices.", code="scan_slices")
    check_kind(folder, first.components, first.pixel, (*first.size[:2], len(slices)))
    assert first.axes is not None and first.spacing is not None
    check_spacing(folder, first.spacing.tolist())
    positions = np.array([one.position for one in slices])
    placed = stack(folder, positions, np.cross(first.axes[:, 0], first.axes[:, 1]))

    voxels = np.empty((len(placed.groups), *first.size[1::-1]), np.result_type(*{_dtype(one.pixel) for one in slices}))
    for layer, group in zip(voxels, placed.groups, strict=True):
        layer[:] = _pixels(slices[group[0]])
        if any(not np.array_equal(layer, _pixels(slices[n])) for n in group[1:]):
            message = f"{folder}: {len(group)} different slices lie at the same position."
            raise ScanError(message, "Export one phase or echo as a series of its own.", code="scan_slices")
    warnings = placed.warnings
    if copies := len(slices) - len(placed.groups):
        text = f"{copies} slice(s) were dropped: copies of others at the same position."
        warnings = (ScanWarning("duplicate_slices", text), *warnings)

    length = float(np.linalg.norm(placed.step))
    (a, b), (x, y, z), (k, j, i) = first.spacing.tolist(), placed.origin.tolist(), voxels.shape
    direction = np.column_stack([first.axes, placed.step / length])
    return voxels, Geometry((i, j, k), (a, b, length), (x, y, z), direction), warnings


def _pixels(one: Slice) -> NDArray[Any]:
    """A slice's pixels ``[j, i]``, rescaled."""
    return voxels_of(sitk().ReadImage(str(one.path), imageIO=DICOM))[0]


def _dtype(pixel: int) -> np.dtype[Any]:
    """The number type of ITK's pixel id."""
    kinds = sitk()
    names = ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64")
    known = {getattr(kinds, f"sitk{name}"): name.lower() for name in names}
    return np.dtype(known[pixel])
