"""DICOM series in: choose one, check that its slices are a volume, and read them with GDCM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.errors import ScanError
from trt_landmarks.geometry import Floats, Geometry
from trt_landmarks.scan.dicom_frames import read_frames
from trt_landmarks.scan.dicom_objects import DicomFolder, Series, Slice, counted, is_dicom, list_series, read_header
from trt_landmarks.scan.formats import KNOWN, extension
from trt_landmarks.scan.itk import DICOM, check_kind, open_volume, quiet, read_voxels, sitk, voxels_of
from trt_landmarks.scan.names import readable_path
from trt_landmarks.scan.problems import COPY_AGAIN, check_spacing
from trt_landmarks.scan.slices import Stack, stack
from trt_landmarks.scan.volume import ScanFile, ScanWarning

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
    found, series = _series_of(folder, rule)
    if found.damaged:
        first = found.damaged[0].name
        message = f"{folder}: {len(found.damaged)} DICOM file(s) cannot be read as part of the series, first {first}."
        raise ScanError(message, "Copy the series again.", code="scan_truncated")
    top = series.slices[0]
    voxels, geometry, warnings = _read_frames(top.path) if top.size[2] > 1 else _read_slices(folder, series.slices)
    if series.localizers:
        text = f"{series.localizers} localizer(s) of the same series were left out."
        warnings = (ScanWarning("localizer_left_out", text), *warnings)
    return voxels, geometry, warnings


def read_dicom_file(path: Path) -> Read:
    """Voxels ``[k, j, i]``, geometry and warnings of one file that holds a volume.

    Raises:
        ScanError: if it holds something else, or its frames are not a whole, even, rectangular grid.
        RuntimeError: ITK's own.
    """
    header = read_header(path)
    if header is None:
        raise ScanError(f"{path}: cannot be read as DICOM: it is damaged.", COPY_AGAIN)
    if isinstance(header, str):
        what = header or "no DICOM object"
        raise ScanError(f"{path}: is not a volume but a {what}.", "Name the volume's own series.", code="scan_format")
    if header.size[2] > 1:
        return _read_frames(path)
    check_kind(path, header.components, header.pixel, header.size)
    raise AssertionError("a single slice is refused above")


def series_files(file: ScanFile) -> list[Path]:
    """The files of a scan that is a DICOM series in a folder, or one file of many frames.

    Raises:
        ScanError: if it is neither, with code ``scan_not_dicom``; an archive is neither.
    """
    if file.path.is_dir():
        _, series = _series_of(file.path, file.series)
        return [one.path for one in series.slices]
    if extension(file.path) in ("", ".dcm") and file.path.is_file() and is_dicom(file.path):
        return [file.path]
    raise ScanError(f"{file.path}: is no DICOM series.", "Name the folder of one.", code="scan_not_dicom")


def _series_of(folder: Path, rule: str | None) -> tuple[DicomFolder, Series]:
    found = list_series(folder)
    if rule is not None and (found is None or not chosen(found.volumes, rule)):
        found = list_series(folder, deep=True) or found  # one series in several folders
    if found is None:
        raise ScanError(f"{folder}: no DICOM files in this folder.", KNOWN, code="scans_none")
    return found, _only(found, rule or "all")


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


def _read_frames(path: Path) -> Read:
    """A file of many frames, each placed and scaled by its own functional groups."""
    reader = open_volume(path)
    frames = read_frames(path)
    for values, name, tolerance in ((frames.axes, "direction", 1e-3), (frames.spacing, "pixel spacing", 0)):
        if not np.allclose(values, values[0], rtol=1e-3, atol=tolerance):
            raise ScanError(
                f"{path}: its frames differ in {name}.", "Export one stack of equal slices.", code="scan_slices"
            )
    check_spacing(path, frames.spacing[0].tolist())
    stored = read_voxels(reader)
    if len(stored) != len(frames.positions):
        raise ScanError(f"{path}: its frames and their functional groups differ in number.", COPY_AGAIN)
    if (frames.scale != frames.scale[0]).any():  # the reader has scaled all frames as the first
        slope, intercept = frames.scale[0]
        if slope == 0:
            raise ScanError(f"{path}: its rescale slope is 0.", COPY_AGAIN)
        raw = np.rint((stored.astype(np.float64) - intercept) / slope)
        stored = (raw * frames.scale[:, :1, None] + frames.scale[:, 1:, None]).astype(np.float32)
    axes = frames.axes[0]
    placed = stack(path, frames.positions, np.cross(axes[:, 0], axes[:, 1]))
    return _assembled(path, placed, axes, frames.spacing[0], stored.dtype, stored.__getitem__)


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

    dtype = np.result_type(*{_dtype(one.pixel) for one in slices})
    return _assembled(folder, placed, first.axes, first.spacing, dtype, lambda n: _pixels(slices[n]))


def _assembled(
    path: Path, placed: Stack, axes: Floats, spacing: Floats, dtype: Any, pixels: Callable[[int], NDArray[Any]]
) -> Read:
    """The volume of ordered slices; ``pixels`` gives a slice's pixels ``[j, i]``."""
    layers = []
    for group in placed.groups:
        layer = pixels(group[0])
        if any(not np.array_equal(layer, pixels(n)) for n in group[1:]):
            message = f"{path}: {len(group)} different slices lie at the same position."
            raise ScanError(message, "Export one phase or echo as a series of its own.", code="scan_slices")
        layers.append(layer)
    voxels = np.stack(layers).astype(dtype, copy=False)
    warnings = placed.warnings
    if copies := sum(len(group) - 1 for group in placed.groups):
        text = f"{copies} slice(s) were dropped: copies of others at the same position."
        warnings = (ScanWarning("duplicate_slices", text), *warnings)
    length = float(np.linalg.norm(placed.step))
    (a, b), (x, y, z), (k, j, i) = spacing.tolist(), placed.origin.tolist(), voxels.shape
    direction = np.column_stack([axes, placed.step / length])
    return voxels, Geometry((i, j, k), (a, b, length), (x, y, z), direction), warnings


def _pixels(one: Slice) -> NDArray[Any]:
    """A slice's pixels ``[j, i]``, rescaled."""
    with quiet() as kit:
        return voxels_of(kit.ReadImage(str(readable_path(one.path)), imageIO=DICOM))[0]


def _dtype(pixel: int) -> np.dtype[Any]:
    """The number type of ITK's pixel id."""
    kinds = sitk()
    names = ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Float32", "Float64")
    known = {getattr(kinds, f"sitk{name}"): name.lower() for name in names}
    return np.dtype(known[pixel])
