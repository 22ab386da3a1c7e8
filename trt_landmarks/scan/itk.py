"""SimpleITK: headers looked at before voxels are read, and its reports in plain words."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.errors import ScanError
from trt_landmarks.geometry import Geometry
from trt_landmarks.scan.dicom_lengths import lengths_fit
from trt_landmarks.scan.formats import EXTENSIONS, extension
from trt_landmarks.scan.limits import check_count
from trt_landmarks.scan.names import readable_path
from trt_landmarks.scan.problems import COPY_AGAIN, bad_components, bad_direction, no_memory, not_there, truncated
from trt_landmarks.scan.volume import Scan, checked

DICOM = "GDCMImageIO"


_LOCK = threading.Lock()
_quiet: list[bool] = []  # what the process had set, once for each thread that is within


def sitk() -> Any:
    """SimpleITK, imported on first use."""
    import SimpleITK

    return SimpleITK


@contextmanager
def quiet() -> Iterator[Any]:
    """SimpleITK, whose warnings do not show meanwhile; the process's own choice is kept."""
    process = sitk().ProcessObject
    with _LOCK:
        _quiet.append(_quiet[0] if _quiet else process.GetGlobalWarningDisplay())
        process.SetGlobalWarningDisplay(False)
    try:
        yield sitk()
    finally:
        with _LOCK:
            before = _quiet.pop()
            if not _quiet:
                process.SetGlobalWarningDisplay(before)


def open_header(path: Path) -> Any:
    """A reader that has seen the file's header and nothing more.

    Raises:
        RuntimeError: ITK's own, or for a DICOM file for which it would take memory without bound.
    """
    kind = EXTENSIONS.get(extension(path)) or DICOM
    if kind == DICOM and not lengths_fit(path):
        raise RuntimeError("an element is longer than its file")
    with quiet() as kit:
        reader = kit.ImageFileReader()
        reader.SetImageIO(kind)
        reader.SetFileName(str(readable_path(path)))
        reader.ReadImageInformation()
    return reader


def open_volume(path: Path) -> Any:
    """A reader that has seen the header and found it to be of one 3D grey-value volume.

    Raises:
        ScanError: if it is of anything else, or promises too many voxels.
        RuntimeError: ITK's own.
    """
    reader = open_header(path)
    check_kind(path, reader.GetNumberOfComponents(), reader.GetPixelID(), reader.GetSize())
    return reader


def check_kind(path: Path, components: int, pixel: int, size: Sequence[int]) -> None:
    """Raise ScanError unless a header is of one 3D grey-value volume."""
    kinds = sitk()
    check_count(path, (components, *size))
    if components != 1 or pixel in (kinds.sitkComplexFloat32, kinds.sitkComplexFloat64):
        raise bad_components(path)
    if len(size) < 3 or any(n < 2 for n in size[:3]) or any(n != 1 for n in size[3:]):
        message = f"{path}: is not one 3D volume: its size is {' x '.join(map(str, size))}."
        dicom = not path.is_dir() and EXTENSIONS.get(extension(path), DICOM) == DICOM
        remedy = "Name the folder of the series." if dicom else "Export a single 3D volume."
        raise ScanError(message, remedy, code="scan_dimensions")


def geometry_of(image: Any) -> Geometry:
    """The geometry of an ITK image, or of a reader that has seen a header; a single time frame is dropped."""
    dim = len(image.GetSize())
    (i, j, k), (a, b, c), (x, y, z) = image.GetSize()[:3], image.GetSpacing()[:3], image.GetOrigin()[:3]
    direction = np.reshape(image.GetDirection(), (dim, dim))[:3, :3]
    return Geometry((i, j, k), (a, b, c), (x, y, z), direction)


def read_voxels(reader: Any) -> NDArray[Any]:
    """The voxels ``[k, j, i]`` of the file whose header a reader has seen.

    Raises:
        RuntimeError: ITK's own.
    """
    with quiet():
        return voxels_of(reader.Execute())


def voxels_of(image: Any) -> NDArray[Any]:
    """The voxels ``[k, j, i]`` of an ITK image."""
    return sitk().GetArrayFromImage(image).reshape(image.GetSize()[2::-1])


def explain(path: Path, text: str) -> ScanError:
    """ITK's report, which is full of its own source paths, as one sentence."""
    if re.search(r"orthonormal|Bad direction", text):
        return bad_direction(path, "its axes are not perpendicular unit vectors")
    if found := re.search(r"""couldn't open "([^"]+)" \(data file""", text):
        return not_there(path, found[1])
    if re.search(r"expected \d+ bytes|fread got only|hit end of header", text):
        return truncated(path, "it has fewer bytes than its header promises")
    if "memory" in text:
        return no_memory(path)
    return ScanError(f"{path}: cannot be read as {extension(path) or 'DICOM'}: it is damaged.", COPY_AGAIN)


def scan_from_image(image: Any) -> Scan:
    """A scan from a ``SimpleITK.Image`` of one 3D volume.

    Raises:
        ScanError: if it is of anything else, or its contents cannot be used.
    """
    check_kind(Path("image"), image.GetNumberOfComponentsPerPixel(), image.GetPixelID(), image.GetSize())
    return checked(Scan("image", None, voxels_of(image), geometry_of(image)))
