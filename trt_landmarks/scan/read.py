"""Read one scan of any format into voxels and geometry, and write one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from trt_landmarks.errors import ScanError
from trt_landmarks.geometry import Geometry
from trt_landmarks.scan.archive import unpacked
from trt_landmarks.scan.arrays import read_npz
from trt_landmarks.scan.dicom import read_dicom, read_dicom_file
from trt_landmarks.scan.dicom_objects import is_dicom
from trt_landmarks.scan.find import find_scans
from trt_landmarks.scan.formats import KNOWN, case_id, extension
from trt_landmarks.scan.itk import explain, geometry_of, open_volume, read_voxels, sitk
from trt_landmarks.scan.nifti import read_nifti
from trt_landmarks.scan.problems import no_memory, truncated
from trt_landmarks.scan.text_headers import TextFrame, check_meta, check_nrrd, confined
from trt_landmarks.scan.volume import Scan, ScanFile, ScanWarning, checked


def read_scan(scan: str | Path | ScanFile) -> Scan:
    """Read a scan file, or a folder that holds a DICOM series.

    Args:
        scan: a path; or what :func:`trt_landmarks.scan.find_scans` found, which also says the case's id and which of
            several DICOM series is meant.

    Raises:
        ScanError: if it is missing, damaged, incomplete, too large, not one 3D grey-value volume, or without a usable
            geometry; the message names the file and the remedy.
    """
    file = scan if isinstance(scan, ScanFile) else ScanFile(case_id(scan), Path(scan))
    path = file.path
    try:
        if not path.exists():
            raise ScanError(f"{path}: no such scan.", "Check the path.", code="scan_missing")
        return _read(file)
    except OSError as error:
        raise ScanError(f"{path}: cannot be read: {error.strerror or error}.", "Check its permissions.") from None
    except RuntimeError as error:  # all that ITK raises
        raise explain(path, str(error)) from None
    except MemoryError:
        raise no_memory(path) from None


def write_scan(scan: Scan, path: str | Path) -> None:
    """Store a scan in the format that ``path``'s extension names.

    Raises:
        ScanError: if the extension is unknown or the file cannot be written.
    """
    path = Path(path)
    if extension(path) in ("", ".dcm", ".npz", ".zip"):
        raise ScanError(f"{path}: scans are not written in this format.", "Use .nii.gz.", code="scan_format")
    kit = sitk()
    image = kit.GetImageFromArray(scan.voxels)
    image.SetSpacing(scan.geometry.spacing)
    image.SetOrigin(scan.geometry.origin)
    image.SetDirection(scan.geometry.direction.ravel().tolist())
    try:
        kit.WriteImage(image, str(path), useCompression=True)
    except RuntimeError:
        raise ScanError(f"{path}: cannot be written.", "Check that its folder exists.", code="scan_write") from None


def _read(file: ScanFile) -> Scan:
    path, known = file.path, extension(file.path)
    if path.is_dir():
        return checked(Scan(file.id, path, *read_dicom(path, file.series)))
    if not path.is_file():  # a pipe or a device may have no end
        raise ScanError(f"{path}: is not a file.", KNOWN, code="scan_format")
    if not known and not is_dicom(path):
        raise ScanError(f"{path}: is not of a known scan format.", KNOWN, code="scan_format")
    if path.stat().st_size == 0:
        raise truncated(path, "it is empty")
    if known == ".zip":
        return _read_archive(file)
    if known in (".nii", ".nii.gz"):
        return checked(Scan(file.id, path, *read_nifti(path)))
    if known == ".npz":
        return checked(Scan(file.id, path, *read_npz(path)))
    if known in ("", ".dcm"):
        return checked(Scan(file.id, path, *read_dicom_file(path)))
    frame = check_nrrd(path) if known in (".nrrd", ".nhdr") else check_meta(path)
    reader = open_volume(path)
    geometry, warnings = _in_mm(path, geometry_of(reader), frame)
    return checked(Scan(file.id, path, read_voxels(reader), geometry, warnings))


def _in_mm(path: Path, geometry: Geometry, frame: TextFrame) -> tuple[Geometry, tuple[ScanWarning, ...]]:
    """The geometry in mm, compared with what the header says in plain text."""
    if frame.spacing and not np.allclose(geometry.spacing, frame.spacing, rtol=1e-3, atol=0):
        read, said = (" x ".join(f"{s:g}" for s in spacing) for spacing in (geometry.spacing, frame.spacing))
        raise ScanError(
            f"{path}: its header says a voxel size of {said}, and the reader took {read}.",
            "A library has set a locale with decimal commas: call locale.setlocale(locale.LC_NUMERIC, 'C').",
            code="scan_spacing",
        )
    if frame.millimetres != 1:
        spacing = [s * frame.millimetres for s in geometry.spacing]
        origin = [o * frame.millimetres for o in geometry.origin]
        (a, b, c), (x, y, z) = spacing, origin
        geometry = replace(geometry, spacing=(a, b, c), origin=(x, y, z))
    if frame.oriented:
        return geometry, ()
    text = "The file states no orientation: left and right, front and back may be exchanged."
    return geometry, (ScanWarning("no_orientation", text),)


def _read_archive(file: ScanFile) -> Scan:
    """The one scan in an archive; errors name the archive, not the temporary folder."""
    path = file.path
    with unpacked(path) as folder, confined():
        try:
            inside = find_scans([folder], series=file.series or "all")
            if len(inside) > 1:
                message = f"{path}: holds {len(inside)} scans."
                remedy = "Unpack it and name the folder, or choose a DICOM series with --series."
                raise ScanError(message, remedy, code="scan_series")
            return replace(read_scan(inside[0]), id=file.id, path=path)
        except ScanError as error:
            message = error.message.replace(str(folder), str(path))
            raise ScanError(message, error.remedy, code=error.code) from None
