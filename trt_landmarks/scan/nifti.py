"""NIfTI-1: the header checked before ITK mends it, and the voxels taken from the file directly.

ITK mends what it can and says so only in warnings: a spacing of 0 becomes 1, a negative one turns the axis round,
and a file that ends too early is filled up with zeros.  Each of these would silently move landmarks.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.errors import ScanError
from trt_landmarks.geometry import Geometry
from trt_landmarks.scan.formats import extension
from trt_landmarks.scan.itk import geometry_of, open_volume, voxels_of
from trt_landmarks.scan.limits import check_count, check_end, gzip_fill, pass_over, read_promised, read_start
from trt_landmarks.scan.problems import (
    COPY_AGAIN,
    EXPORT_SPACING,
    bad_components,
    bad_direction,
    check_spacing,
    truncated,
)

_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_COMPOSITES = {32, 128, 1792, 2048, 2304}  # complex and colour
#: Bytes that a header and what it adds to itself may take.
_FARTHEST = 2**30


@dataclass(frozen=True)
class _Header:
    """The part of a header that says where its voxels are.

    Attributes:
        dtype: how a voxel is stored, with its byte order.
        offset: bytes before the first voxel.
        size: bytes of all voxels, all frames.
        scaled: whether stored values must be scaled to become voxel values.
    """

    dtype: np.dtype[np.generic]
    offset: int
    size: int
    scaled: bool


def read_nifti(path: Path) -> tuple[NDArray[Any], Geometry]:
    """Voxels ``[k, j, i]`` and geometry.

    The geometry is ITK's business; plain voxels are taken from the decompressed bytes directly.  ITK decompresses
    more slowly, and never looks whether the data is complete.

    Raises:
        ScanError: for a header or data that cannot be used.
        RuntimeError: ITK's own.
    """
    suffix = path.name[-len(extension(path)) :]
    if suffix not in (suffix.lower(), suffix.upper()):
        message = f"{path}: the NIfTI reader refuses an extension in mixed case."
        raise ScanError(message, f"Rename it to end in {suffix.lower()}.", code="scan_format")
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(path.open("rb"))
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if packed and suffix.lower() == ".nii":
            message = f"{path}: is compressed, but its name says that it is not."
            raise ScanError(message, "Rename it to end in .nii.gz.", code="scan_format")
        fill = stack.enter_context(gzip_fill(path, file)) if packed else file.readinto
        header = _read_header(path, read_start(fill, 352))
        if not packed and path.stat().st_size < header.offset + header.size:
            raise truncated(path, f"{path.stat().st_size} of {header.offset + header.size} bytes are there")
        pass_over(path, fill, header.offset - 352)
        reader = open_volume(path)
        if header.scaled:
            if packed:
                pass_over(path, fill, header.size)
                check_end(path, fill)
            return voxels_of(reader.Execute()), geometry_of(reader)
        stored = read_promised(path, fill, header.size).view(header.dtype)
        if packed:
            check_end(path, fill)
    geometry = geometry_of(reader)
    return stored.astype(header.dtype.newbyteorder("="), copy=False).reshape(geometry.size[::-1]), geometry


def _read_header(path: Path, content: bytes) -> _Header:
    """Check a header, given the file's first 352 (uncompressed) bytes.

    Raises:
        ScanError: if it is not NIfTI's, contradicts itself or promises too much.
    """
    order = _byte_order(path, content)

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
        _check_frame(path, qform, sform, spacing, get("6f", 256), get("12f", 280))

    (kind,), (start,), (slope, intercept) = get("h", 70), get("f", 108), get("2f", 112)
    if kind in _COMPOSITES:
        raise bad_components(path)
    if kind not in _TYPES:
        raise ScanError(f"{path}: its header is damaged: the voxels' type {kind} is unknown.", COPY_AGAIN)
    dtype = np.dtype(_TYPES[int(kind)]).newbyteorder(order)
    offset = max(int(start), 352) if math.isfinite(start) else 352
    if offset > _FARTHEST:
        raise ScanError(f"{path}: its header is damaged: the voxels' place makes no sense.", COPY_AGAIN)
    scaled = not (intercept == 0 and slope in (0, 1))
    return _Header(dtype, offset, check_count(path, sizes) * dtype.itemsize, scaled)


def _byte_order(path: Path, content: bytes) -> Literal["<", ">"]:
    little, big = (content[:4] == struct.pack(order + "i", 348) for order in "<>")
    if (little or big) and len(content) < 348:
        raise truncated(path, "it ends within the header")
    if not (little or big) or content[344:348] != b"n+1\0":
        remedy = "Export it again as NIfTI-1 (.nii.gz), or give it the extension of its true format."
        raise ScanError(f"{path}: is not a NIfTI-1 file, or its header is damaged.", remedy, code="scan_format")
    return "<" if little else ">"


def _check_frame(
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
