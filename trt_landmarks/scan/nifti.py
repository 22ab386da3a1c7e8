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
from trt_landmarks.geometry import Floats, Geometry
from trt_landmarks.scan.formats import extension
from trt_landmarks.scan.itk import geometry_of, open_volume, read_voxels
from trt_landmarks.scan.limits import check_count, check_end, gzip_fill, pass_over, read_promised, read_start
from trt_landmarks.scan.problems import (
    COPY_AGAIN,
    EXPORT_SPACING,
    bad_components,
    bad_direction,
    check_spacing,
    truncated,
)
from trt_landmarks.scan.volume import ScanWarning

_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
}  # fmt: skip
_COMPOSITES = {32, 128, 1792, 2048, 2304}  # complex and colour
#: Scalar product of two axes of an sform, as a share of the shorter one squared, above which it is sheared.
SHEAR = 2e-3
#: Frames this near to each other, as a share of the smallest voxel edge, are the same.
SAME_FRAME = 0.02
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
        sform: 3x4 from voxels to RAS mm; None if there is none, or it is sheared.
        qform: the same of the quaternion; None if there is none.
    """

    dtype: np.dtype[np.generic]
    offset: int
    size: int
    scaled: bool
    sform: Floats | None = None
    qform: Floats | None = None


def read_nifti(path: Path) -> tuple[NDArray[Any], Geometry, tuple[ScanWarning, ...]]:
    """Voxels ``[k, j, i]``, geometry and warnings.

    Of the header's two world frames the sform counts if its code is above 0, else the qform, as in nibabel, FSL and
    SPM; a sheared sform is no frame of a scan, and the qform counts then.  Frames that differ give the warning
    ``two_frames``, a file that states none the warning ``no_orientation``.

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
            return read_voxels(reader), *_placed(header, geometry_of(reader))
        stored = read_promised(path, fill, header.size).view(header.dtype)
        if packed:
            check_end(path, fill)
    geometry, warnings = _placed(header, geometry_of(reader))
    voxels = stored.astype(header.dtype.newbyteorder("="), copy=False).reshape(geometry.size[::-1])
    return voxels, geometry, warnings


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
    sform: Floats | None = None
    qform: Floats | None = None
    if dims[0] >= 3:
        check_spacing(path, spacing)
        qcode, scode = (int(code) for code in get("2h", 252))
        quaternion, rows = get("6f", 256), get("12f", 280)
        _check_frame(path, qcode, scode, spacing, quaternion, rows)
        if scode > 0:
            sform = _unsheared(np.reshape(rows, (3, 4)))
        if qcode > 0:
            (handedness,) = get("f", 76)
            qform = _from_quaternion(quaternion, spacing, -1.0 if handedness < 0 else 1.0)

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
    return _Header(dtype, offset, check_count(path, sizes) * dtype.itemsize, scaled, sform, qform)


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
    if sform <= 0:
        return
    if not np.isfinite(rows).all():
        raise bad_direction(path, "the sform in its header has values that are not numbers")
    columns = np.reshape(rows, (3, 4))[:, :3]
    lengths = np.linalg.norm(columns, axis=0)
    products = columns.T @ columns
    if np.abs(np.triu(products, 1)).max() > SHEAR * lengths.min() ** 2:
        return  # no frame of a scan: the qform counts, or ITK refuses the file
    if (qform <= 0 or sform == 1) and not np.allclose(lengths, spacing, rtol=0.01, atol=0):
        # Some readers take the lengths of the axes from pixdim, others from the sform.
        a, b = (" x ".join(f"{s:g}" for s in values) for values in (spacing, lengths))
        message = f"{path}: its header gives two voxel sizes: {a} (pixdim) and {b} (sform)."
        raise ScanError(message, EXPORT_SPACING, code="scan_spacing")


def _unsheared(rows: Floats) -> Floats | None:
    """An sform 3x4; None if its axes are not perpendicular."""
    products = rows[:, :3].T @ rows[:, :3]
    sheared = np.abs(np.triu(products, 1)).max() > SHEAR * np.diag(products).min()
    return None if sheared else np.asarray(rows, dtype=np.float64)


def _from_quaternion(numbers: Sequence[float], spacing: Sequence[float], handedness: float) -> Floats:
    """The qform 3x4 of quaternion (b, c, d) and offset (NIfTI-1, method 2)."""
    b, c, d, *offset = numbers
    a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    norm = math.sqrt(a * a + b * b + c * c + d * d)
    a, b, c, d = a / norm, b / norm, c / norm, d / norm
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    axes = rotation * [spacing[0], spacing[1], handedness * spacing[2]]
    return np.column_stack([axes, offset])


def _placed(header: _Header, itk: Geometry) -> tuple[Geometry, tuple[ScanWarning, ...]]:
    """The geometry by the frame that counts, and what to know of it."""
    frame = header.qform if header.sform is None else header.sform
    if frame is None:
        text = "The file states no orientation (both codes are 0): left and right, front and back may be exchanged."
        return itk, (ScanWarning("no_orientation", text),)
    warnings: tuple[ScanWarning, ...] = ()
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.asarray(itk.size) - 1.0)
    if header.sform is not None and header.qform is not None:
        apart = np.linalg.norm(_at(header.sform, corners) - _at(header.qform, corners), axis=1).max()
        if apart > SAME_FRAME * min(itk.spacing):
            text = f"The header has two world frames, up to {apart:.3g} mm apart; the sform counts, not the qform."
            warnings = (ScanWarning("two_frames", text),)
    ras = itk.voxel_to_world(corners) * [-1, -1, 1]
    if np.linalg.norm(_at(frame, corners) - ras, axis=1).max() <= SAME_FRAME * min(itk.spacing):
        return itk, warnings
    lps = frame * np.array([[-1.0], [-1.0], [1.0]])
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    (a, b, c), (x, y, z) = spacing.tolist(), lps[:, 3].tolist()
    return Geometry(itk.size, (a, b, c), (x, y, z), lps[:, :3] / spacing), warnings


def _at(frame: Floats, voxels: Floats) -> Floats:
    return voxels @ frame[:, :3].T + frame[:, 3]
