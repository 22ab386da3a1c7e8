"""Files in: find scans, read one into voxels and geometry, and say plainly what is wrong with it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.errors import ScanError
from trt_landmarks.geometry import Geometry
from trt_landmarks.scan_headers import (
    COPY_AGAIN,
    bad_components,
    bad_direction,
    check_meta,
    check_nrrd,
    check_slices,
    check_spacing,
    dicom_files,
    gunzip,
    nifti_header,
    truncated,
)

#: Known extensions and ITK's name for what reads them; a folder may also hold one DICOM series.
EXTENSIONS: dict[str, str] = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".dcm": "GDCMImageIO",
}
KNOWN = f"Known are {', '.join(EXTENSIONS)} and folders with one DICOM series."

#: How far direction cosines may be from perpendicular unit vectors: files print as few as three decimals.
DIRECTION_TOLERANCE = 2e-3


@dataclass(frozen=True)
class Scan:
    """One volume.

    Attributes:
        id: the case's name.
        path: where it was read from; None if it never was a file.
        voxels: ``[k, j, i]``, in the file's own number type, C-contiguous.
        geometry: where the voxels lie in the world (LPS mm).
    """

    id: str
    path: Path | None
    voxels: NDArray[Any]
    geometry: Geometry


@dataclass(frozen=True)
class ScanFile:
    """A scan that was found and not read yet; ``id`` is unique among those found together."""

    id: str
    path: Path


def extension(path: str | Path) -> str:
    """The scan extension of a file name, in lower case; empty if it has none of :data:`EXTENSIONS`."""
    name = Path(path).name.lower()
    return next((e for e in EXTENSIONS if name.endswith(e) and name != e), "")


def case_id(path: str | Path) -> str:
    """A file's name without its scan extension, a folder's name: ``LG.J_.nii.gz`` is ``LG.J_``."""
    name = Path(os.path.abspath(path)).name
    known = "" if Path(path).is_dir() else extension(path)
    return name[: len(name) - len(known)] or "scan"


def find_scans(paths: Iterable[str | Path]) -> list[ScanFile]:
    """List the scans that files and folders name.

    A folder stands for every scan file in it and below, in order of path, and for each of its folders that
    holds DICOM files (``.dcm``), which is one scan.  Hidden files are skipped; what is named twice counts once.

    Raises:
        ScanError: if a path does not exist or a folder has no scans.
    """
    found: dict[str, tuple[Path, tuple[str, str, str]]] = {}
    for root in map(Path, paths):
        if not root.exists():
            raise ScanError(f"{root}: no such file or folder.", KNOWN, code="scan_missing")
        below = _scans_below(root) if root.is_dir() else [root]
        if not below:
            raise ScanError(f"{root}: no scans in this folder.", KNOWN, code="scans_none")
        home = Path(os.path.abspath(root))
        top = home.name if root.is_dir() else home.parent.name
        for path in below:
            inside = path.relative_to(root).parent.parts if path != root else ()
            name = case_id(path)
            names = name, "_".join((*inside, name)), "_".join((top, *inside, name))
            found.setdefault(os.path.abspath(path), (path, names))
    ids = _unique([names for _, names in found.values()])
    return [ScanFile(id, path) for id, (path, _) in zip(ids, found.values(), strict=True)]


def _scans_below(root: Path) -> list[Path]:
    scans: list[Path] = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = [Path(folder, name) for name in files if not name.startswith(".") and extension(name)]
        scans += [path for path in here if extension(path) != ".dcm"]
        if any(extension(path) == ".dcm" for path in here):
            scans.append(Path(folder))
    return sorted(scans)


def _unique(choices: list[tuple[str, str, str]]) -> list[str]:
    """For each scan the shortest of its names that no other scan has; numbered where even the longest clashes."""
    level = [0] * len(choices)
    for _ in range(2):
        # Case is ignored, because files named by these ids may land on a disk that ignores it too.
        count = Counter(names[n].casefold() for names, n in zip(choices, level, strict=True))
        clash = [count[names[n].casefold()] > 1 for names, n in zip(choices, level, strict=True)]
        level = [min(n + c, 2) for n, c in zip(level, clash, strict=True)]
    taken: set[str] = set()
    ids: list[str] = []
    for names, n in zip(choices, level, strict=True):
        id, number = names[n], 1
        while id.casefold() in taken:
            number += 1
            id = f"{names[n]}_{number}"
        taken.add(id.casefold())
        ids.append(id)
    return ids


def read_scan(path: str | Path) -> Scan:
    """Read a scan file, or a folder that holds one DICOM series.

    Raises:
        ScanError: if it is missing, damaged, incomplete, not one 3D grey-value volume, or without a usable
            geometry; the message names the file and the remedy.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise ScanError(f"{path}: no such scan.", "Check the path.", code="scan_missing")
        voxels, geometry = _read_series(path) if path.is_dir() else _read_file(path)
    except OSError as error:
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}.", "Check its permissions.") from None
    except RuntimeError as error:  # all that ITK raises
        raise _explain(path, str(error)) from None
    except MemoryError:
        raise ScanError(f"{path}: does not fit into memory.", "Crop it or free memory.", code="scan_memory") from None
    return _checked(Scan(case_id(path), path, voxels, geometry))


def scan_from_array(voxels: NDArray[Any], geometry: Geometry, id: str = "array", path: Path | None = None) -> Scan:
    """A scan from an array ``[k, j, i]``, checked as if it had been read from a file.

    Raises:
        ScanError: as :func:`read_scan` for contents that cannot be used.
    """
    return _checked(Scan(id, path, np.ascontiguousarray(voxels), geometry))


def write_scan(scan: Scan, path: str | Path) -> None:
    """Store a scan in the format that ``path``'s extension names.

    Raises:
        ScanError: if the extension is unknown or the file cannot be written.
    """
    path = Path(path)
    if extension(path) in ("", ".dcm"):
        raise ScanError(f"{path}: scans are not written in this format.", "Use .nii.gz.", code="scan_format")
    sitk = _sitk()
    image = sitk.GetImageFromArray(scan.voxels)
    image.SetSpacing(scan.geometry.spacing)
    image.SetOrigin(scan.geometry.origin)
    image.SetDirection(scan.geometry.direction.ravel().tolist())
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
    except RuntimeError:
        raise ScanError(f"{path}: cannot be written.", "Check that its folder exists.", code="scan_write") from None


def _read_file(path: Path) -> tuple[NDArray[Any], Geometry]:
    known = extension(path)
    if not known:
        raise ScanError(f"{path}: is not of a known scan format.", KNOWN, code="scan_format")
    if path.stat().st_size == 0:
        raise truncated(path, "it is empty")
    if known in (".nii", ".nii.gz"):
        return _read_nifti(path)
    if known in (".nrrd", ".nhdr"):
        check_nrrd(path)
    elif known in (".mha", ".mhd"):
        check_meta(path)
    reader = _open(path)
    return _from_image(reader.Execute())


def _read_nifti(path: Path) -> tuple[NDArray[Any], Geometry]:
    """NIfTI: the geometry is ITK's business; plain voxels are taken from the decompressed bytes directly.

    ITK decompresses a second time, more slowly, and never looks whether the data is complete.
    """
    suffix = path.name[-len(extension(path)) :]
    if suffix not in (suffix.lower(), suffix.upper()):
        message = f"{path}: the NIfTI reader refuses an extension in mixed case."
        raise ScanError(message, f"Rename it to end in {suffix.lower()}.", code="scan_format")
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        if suffix.lower() == ".nii":
            message = f"{path}: is compressed, but its name says that it is not."
            raise ScanError(message, "Rename it to end in .nii.gz.", code="scan_format")
        content = gunzip(path, content)
    header = nifti_header(path, content)
    reader = _open(path)
    geometry = _geometry(reader)
    if header.scaled:
        return _from_image(reader.Execute())
    stored = np.frombuffer(content, header.dtype, header.count, header.offset)
    return stored.astype(header.dtype.newbyteorder("=")).reshape(geometry.size[::-1]), geometry


def _read_series(folder: Path) -> tuple[NDArray[Any], Geometry]:
    sitk = _sitk()
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise ScanError(f"{folder}: no readable DICOM series in this folder.", KNOWN, code="scans_none")
    if len(series) > 1:
        message = f"{folder}: holds {len(series)} DICOM series."
        raise ScanError(message, "Put each series into a folder of its own.", code="scan_series")
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0])
    left_out = sorted(dicom_files(folder) - {Path(name).name for name in names})
    if left_out:  # GDCM passes over slices that it cannot read
        message = f"{folder}: {len(left_out)} DICOM file(s) cannot be read as part of the series, first {left_out[0]}."
        raise ScanError(message, "Copy the series again.", code="scan_truncated")
    if len(names) == 1:
        return _from_image(_open(Path(names[0])).Execute())
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames(names)
    reader.MetaDataDictionaryArrayUpdateOn()
    image = reader.Execute()
    _check_kind(folder, image.GetNumberOfComponentsPerPixel(), image.GetPixelID(), image.GetSize())
    check_slices(folder, reader, len(names))
    return _from_image(image)


def _sitk() -> Any:
    """SimpleITK, imported on first use and told to keep its warnings to itself."""
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def _open(path: Path) -> Any:
    """A reader that has seen the header and found it to be of one 3D grey-value volume."""
    reader = _sitk().ImageFileReader()
    reader.SetImageIO(EXTENSIONS.get(extension(path), "GDCMImageIO"))
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    _check_kind(path, reader.GetNumberOfComponents(), reader.GetPixelID(), reader.GetSize())
    return reader


def _check_kind(path: Path, components: int, pixel: int, size: Sequence[int]) -> None:
    sitk = _sitk()
    if components != 1 or pixel in (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64):
        raise bad_components(path)
    if len(size) < 3 or any(n < 2 for n in size[:3]) or any(n != 1 for n in size[3:]):
        message = f"{path}: is not one 3D volume: its size is {' x '.join(map(str, size))}."
        remedy = "Name the folder of the series." if extension(path) == ".dcm" else "Export a single 3D volume."
        raise ScanError(message, remedy, code="scan_dimensions")


def _geometry(image: Any) -> Geometry:
    """The geometry of an ITK image, or of a reader that has seen a header; a single time frame is dropped."""
    dim = len(image.GetSize())
    (i, j, k), (a, b, c), (x, y, z) = image.GetSize()[:3], image.GetSpacing()[:3], image.GetOrigin()[:3]
    direction = np.reshape(image.GetDirection(), (dim, dim))[:3, :3]
    return Geometry((i, j, k), (a, b, c), (x, y, z), direction)


def _from_image(image: Any) -> tuple[NDArray[Any], Geometry]:
    geometry = _geometry(image)
    return _sitk().GetArrayFromImage(image).reshape(geometry.size[::-1]), geometry


def _checked(scan: Scan) -> Scan:
    """The scan, if its geometry and its contents can be used."""
    name = scan.path or Path(scan.id)
    voxels, geometry = scan.voxels, scan.geometry
    if voxels.shape != geometry.size[::-1] or min(voxels.shape) < 2:
        message = f"{name}: voxels of shape {voxels.shape} are not a 3D volume of size {geometry.size}."
        raise ScanError(message, "Give an array [k, j, i] and its own geometry.", code="scan_dimensions")
    if voxels.dtype.kind not in "iuf" or voxels.dtype.itemsize > 8 or voxels.dtype == np.float16:
        message = f"{name}: voxels of type {voxels.dtype} are not supported."
        raise ScanError(message, "Convert them to float32.", code="scan_components")
    check_spacing(name, geometry.spacing)
    if not np.isfinite(geometry.origin).all():
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


def _explain(path: Path, text: str) -> ScanError:
    """ITK's report, which is full of its own source paths, as one sentence."""
    if re.search(r"orthonormal|Bad direction", text):
        return bad_direction(path, "its axes are not perpendicular unit vectors")
    if found := re.search(r"""couldn't open "([^"]+)" \(data file""", text):
        message = f"{path}: its voxels should be in '{found[1]}', which cannot be read."
        return ScanError(message, "Copy both files to the same folder.", code="scan_missing")
    if re.search(r"expected \d+ bytes|fread got only|hit end of header", text):
        return truncated(path, "it has fewer bytes than its header promises")
    if "memory" in text:
        return ScanError(f"{path}: does not fit into memory.", "Crop it or free memory.", code="scan_memory")
    return ScanError(f"{path}: cannot be read as {extension(path) or 'DICOM'}: it is damaged.", COPY_AGAIN)
