"""What a scan file's own header says, looked at before ITK reads the file.

ITK mends what it can and says so only in warnings: a spacing of 0 becomes 1, a negative one turns the axis
round, and a file that ends too early is filled up with zeros.  Each of these would silently move landmarks,
so the headers are checked here first.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from trt_landmarks.errors import ScanError

COPY_AGAIN = "Copy or export the file again."
EXPORT_SPACING = "Export the scan again with its true voxel size."

_NIFTI_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_NIFTI_COMPOSITES = {32, 128, 1792, 2048, 2304}  # complex and colour
_META_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "FLOAT": 4, "DOUBLE": 8, "LONG_LONG": 8}


@dataclass(frozen=True)
class NiftiHeader:
    """The part of a NIfTI header that says where its voxels are.

    Attributes:
        dtype: how a voxel is stored, with its byte order.
        offset: bytes before the first voxel.
        count: voxels in the file, all frames.
        scaled: whether stored values must be scaled to become voxel values.
    """

    dtype: np.dtype[np.generic]
    offset: int
    count: int
    scaled: bool


def gunzip(path: Path, data: bytes) -> bytes:
    """Decompress a gzip file's content, checking that it is complete and that its checksum is right."""
    decompress: Callable[[bytes], bytes] = gzip.decompress
    damage: tuple[type[Exception], ...] = (OSError, zlib.error)
    try:
        from isal import igzip
        from isal.igzip_lib import IsalError

        decompress = igzip.decompress  # several times faster
        damage = (*damage, IsalError)  # type: ignore[arg-type]  # its stub says instance, it is a class
    except ImportError:
        pass
    try:
        return decompress(data)
    except EOFError:
        raise truncated(path, "the compressed data ends too early") from None
    except damage:
        raise ScanError(f"{path}: is damaged: the compressed data has errors.", COPY_AGAIN) from None


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


def check_spacing(path: Path, spacing: Sequence[float]) -> None:
    """Raise ScanError unless every spacing is a positive number."""
    if not all(math.isfinite(s) and s > 0 for s in spacing):
        shown = " x ".join(f"{s:g}" for s in spacing)
        raise ScanError(f"{path}: voxel size {shown} is not possible.", EXPORT_SPACING, code="scan_spacing")


def nifti_header(path: Path, content: bytes) -> NiftiHeader:
    """Check the header of an (uncompressed) NIfTI-1 file and the length of its voxel data.

    Raises:
        ScanError: if the header is not NIfTI's, contradicts itself or promises more voxels than there are.
    """
    order = _nifti_byte_order(path, content)

    def get(form: str, at: int) -> tuple[float, ...]:
        return struct.unpack_from(order + form, content, at)

    dims = [int(n) for n in get("8h", 40)]
    sizes = dims[1 : dims[0] + 1]
    if not 1 <= dims[0] <= 7 or min(sizes) < 1:
        raise ScanError(f"{path}: its header is damaged: the size makes no sense.", COPY_AGAIN)
    spacing = get("3f", 80)
    if dims[0] >= 3:
        check_spacing(path, spacing)
        qform, sform = (int(code) for code in get("2h", 252))
        _check_nifti_frame(path, qform, sform, spacing, get("6f", 256), get("12f", 280))

    (kind,), (start,), (slope, intercept) = get("h", 70), get("f", 108), get("2f", 112)
    if kind in _NIFTI_COMPOSITES:
        raise bad_components(path)
    if kind not in _NIFTI_TYPES:
        raise ScanError(f"{path}: its header is damaged: the voxels' type {kind} is unknown.", COPY_AGAIN)
    header = NiftiHeader(
        dtype=np.dtype(_NIFTI_TYPES[int(kind)]).newbyteorder(order),
        offset=max(int(start), 352) if math.isfinite(start) else 352,
        count=math.prod(sizes),
        scaled=not (intercept == 0 and slope in (0, 1)),
    )
    needed = header.offset + header.count * header.dtype.itemsize
    if len(content) < needed:
        raise truncated(path, f"{len(content)} of {needed} bytes are there")
    return header


def _nifti_byte_order(path: Path, content: bytes) -> Literal["<", ">"]:
    little, big = (content[:4] == struct.pack(order + "i", 348) for order in "<>")
    if (little or big) and len(content) < 348:
        raise truncated(path, "it ends within the header")
    if not (little or big) or content[344:348] != b"n+1\0":
        remedy = "Export it again as NIfTI-1 (.nii.gz), or give it the extension of its true format."
        raise ScanError(f"{path}: is not a NIfTI-1 file, or its header is damaged.", remedy, code="scan_format")
    return "<" if little else ">"


def _check_nifti_frame(
    path: Path,
    qform: int,
    sform: int,
    spacing: Sequence[float],
    quaternion: Sequence[float],
    rows: Sequence[float],
) -> None:
    """Refuse the world frames that ITK would quietly replace by others (qform: ``quaternion``, sform: ``rows``)."""
    if qform > 0 and not (np.isfinite(quaternion).all() and np.sum(np.square(quaternion[:3])) < 1.01):
        raise bad_direction(path, "the qform in its header is not a rotation and a position")
    if sform <= 0 or (qform > 0 and sform != 1):
        return  # ITK then goes by the qform
    if not np.isfinite(rows).all():
        raise bad_direction(path, "the sform in its header has values that are not numbers")
    columns = np.reshape(rows, (3, 4))[:, :3]
    lengths = np.linalg.norm(columns, axis=0)
    products = columns.T @ columns
    if np.abs(np.triu(products, 1)).max() > 2e-3 * lengths.min() ** 2:
        return  # ITK does not take sheared axes: it goes by the qform or refuses the file
    if not np.allclose(lengths, spacing, rtol=0.01, atol=0):
        # ITK would take the axes from the sform and their lengths from pixdim; other readers take only the sform.
        a, b = (" x ".join(f"{s:g}" for s in values) for values in (spacing, lengths))
        message = f"{path}: its header gives two voxel sizes: {a} (pixdim) and {b} (sform)."
        raise ScanError(message, EXPORT_SPACING, code="scan_spacing")


def check_nrrd(path: Path) -> None:
    """Check a NRRD file's spacing, origin and compressed data; its own reader checks the rest."""
    content = path.read_bytes()
    head, gap, data = _split(content, rb"\r?\n\r?\n")
    fields: dict[str, str] = dict(re.findall(r"^([a-z ]+):(?!=) *(.*?)\s*$", head, re.MULTILINE))
    if not content.startswith(b"NRRD"):
        raise ScanError(f"{path}: is not a NRRD file.", "Give it the extension of its true format.", code="scan_format")
    if not gap and "data file" not in fields and "datafile" not in fields:
        raise truncated(path, "it ends within the header")
    if fields.get("dimension") not in (None, "1", "2"):
        vectors = re.findall(r"\(([^)]*)\)", fields.get("space directions", ""))
        spacing = [math.hypot(*_numbers(v)) for v in vectors] or _numbers(fields.get("spacings", ""))
        spacing = [s for s in spacing if not math.isnan(s)]  # NRRD writes NaN for axes that are not in space
        if len(spacing) < 3:
            raise ScanError(f"{path}: does not say its voxel size.", EXPORT_SPACING, code="scan_spacing")
        check_spacing(path, spacing)
        _check_origin(path, fields.get("space origin", ""))
    if fields.get("encoding") in ("gz", "gzip") and not any(key.endswith(" skip") for key in fields):
        named = fields.get("data file") or fields.get("datafile", "")
        if not named:
            gunzip(path, data)
        elif not named.startswith("LIST") and "%" not in named:
            gunzip(path, _companion(path, named))


def check_meta(path: Path) -> None:
    """Check a MetaImage file's spacing, origin, and that its voxels are complete."""
    head, found, data = _split(path.read_bytes(), rb"(?<=ElementDataFile)[ \t]*=[^\n]*(\n|$)")
    fields: dict[str, str] = dict(re.findall(r"^(\w+) *= *(.*?)\s*$", head + found, re.MULTILINE))
    if "ObjectType" not in fields and "NDims" not in fields:
        message = f"{path}: is not a MetaImage file."
        raise ScanError(message, "Give it the extension of its true format.", code="scan_format")
    if not found:
        raise truncated(path, "it ends within the header")
    if "NDims" not in fields or "DimSize" not in fields:
        raise ScanError(f"{path}: its header is damaged: it does not say the size.", COPY_AGAIN)
    sizes = _numbers(fields["DimSize"])
    if len(sizes) > 2:
        spacing = _numbers(fields.get("ElementSpacing", fields.get("ElementSize", "")))
        if len(spacing) < 3:
            raise ScanError(f"{path}: does not say its voxel size.", EXPORT_SPACING, code="scan_spacing")
        check_spacing(path, spacing[:3])
        _check_origin(path, fields.get("Offset", fields.get("Position", fields.get("Origin", ""))))

    named = fields["ElementDataFile"]
    if named.upper() == "LIST" or "%" in named or fields.get("BinaryData", "True") != "True":
        return
    if named.upper() != "LOCAL":
        data = _companion(path, named)
    if fields.get("CompressedData") == "True":
        data = _inflate(path, data)
    kind = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
    channels = int(_numbers(fields.get("ElementNumberOfChannels", "1"))[0])
    size = _META_BYTES.get(kind, _META_BYTES.get(kind.removeprefix("U"), 0))
    needed = int(math.prod(sizes)) * size * channels
    if len(data) < needed:
        raise truncated(path, f"{len(data)} of {needed} bytes of voxels are there")


def dicom_files(folder: Path) -> set[str]:
    """Names of the files that are DICOM by extension or by the mark in their preamble."""
    files = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and p.name != "DICOMDIR"]

    def marked(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"

    return {path.name for path in files if path.suffix.lower() == ".dcm" or marked(path)}


def check_slices(folder: Path, reader: Any, count: int) -> None:
    """Refuse uneven slices: ITK would spread them evenly and shift what lies behind the gap."""
    where, pixel = "0020|0032", "0028|0030"
    if not all(reader.HasMetaDataKey(n, key) for n in range(count) for key in (where, pixel)):
        message = f"{folder}: its slices do not say their position and pixel spacing."
        raise ScanError(message, "Export the series again.", code="scan_spacing")
    spacing = [float(value) for value in reader.GetMetaData(0, pixel).split("\\")]
    check_spacing(folder, spacing)
    positions = [[float(value) for value in reader.GetMetaData(n, where).split("\\")] for n in range(count)]
    steps = np.diff(positions, axis=0)
    step = np.median(steps, axis=0)
    odd = np.linalg.norm(steps - step, axis=1) > 0.02 * np.linalg.norm(step)
    if odd.any() or not step.any():
        message = (
            f"{folder}: slices are missing, doubled or unevenly spaced, first after slice {int(odd.argmax()) + 1}."
        )
        raise ScanError(message, "Complete the series or resample it.", code="scan_spacing")


def _split(content: bytes, separator: bytes) -> tuple[str, str, bytes]:
    """A text header, what ends it (empty if nothing does) and the binary data behind."""
    found = re.search(separator, content)
    if found is None:
        return os.fsdecode(content), "", b""
    # Decoded as file names are: the header may name the file that holds the voxels.
    return os.fsdecode(content[: found.start()]), os.fsdecode(found.group()), content[found.end() :]


def _numbers(text: str) -> list[float]:
    """The numbers in a header's value; a word that is not a number counts as NaN."""

    def number(word: str) -> float:
        try:
            return float(word)
        except ValueError:
            return math.nan

    return [number(word) for word in text.replace(",", " ").split()]


def _check_origin(path: Path, text: str) -> None:
    if not all(math.isfinite(value) for value in _numbers(text.strip("()"))):
        raise ScanError(f"{path}: its origin ({text}) is not a position.", COPY_AGAIN, code="scan_origin")


def _companion(path: Path, name: str) -> bytes:
    """The file next to a header file that holds its voxels."""
    try:
        return (path.parent / name).read_bytes()
    except OSError:
        message = f"{path}: its voxels should be in '{name}', which cannot be read."
        raise ScanError(message, "Copy both files to the same folder.", code="scan_missing") from None


def _inflate(path: Path, data: bytes) -> bytes:
    """Decompress MetaImage's zlib data, which ITK reads without looking at the checksum."""
    stream = zlib.decompressobj(wbits=47)
    try:
        plain = stream.decompress(data)
    except zlib.error:
        raise ScanError(f"{path}: is damaged: the compressed data has errors.", COPY_AGAIN) from None
    if not stream.eof:
        raise truncated(path, "the compressed data ends too early")
    return plain
