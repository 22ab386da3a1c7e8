"""NRRD and MetaImage: their text headers, and the completeness of their data, checked before ITK reads the file.

ITK mends what it can and says so only in warnings: a spacing of 0 becomes 1, and a file that ends too early is filled
up with zeros.  Each of these would silently move landmarks.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trt_landmarks.errors import ScanError
from trt_landmarks.scan.limits import check_count, check_end, gzip_fill, pass_over, zlib_fill
from trt_landmarks.scan.problems import (
    COPY_AGAIN,
    EXPORT_SPACING,
    TRUE_EXTENSION,
    check_spacing,
    not_there,
    truncated,
)

#: NRRD's names of spaces with anatomical axes; the others state no orientation.
_ANATOMICAL = {
    "left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las",
}  # fmt: skip
_UNITS = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer", "micrometers", "micrometre"), 1e-3),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1e-6),
}


@dataclass(frozen=True)
class TextFrame:
    """What a text header says of the frame.

    Attributes:
        spacing: lengths along i, j, k as the header has them, in its unit; empty if it was not looked at.
        millimetres: that its unit has.
        oriented: whether it states the directions of the axes.
    """

    spacing: tuple[float, ...]
    millimetres: float
    oriented: bool


#: Bytes in which a header must end.
_HEADER = 1 << 20
#: Whether a header may only name files beside it.
_CONFINED: ContextVar[bool] = ContextVar("confined", default=False)
#: The names of files in a header, however its reader may take the rest of it.
_NAMES = re.compile(rb"(?:data ?file|ElementDataFile)[ \t]*[:=][^\n]*[/\\]", re.IGNORECASE)


@contextmanager
def confined() -> Iterator[None]:
    """Within, a header from anywhere may name files beside it only, and none elsewhere on this machine."""
    token = _CONFINED.set(True)
    try:
        yield
    finally:
        _CONFINED.reset(token)


_META_BYTES = {"CHAR": 1, "SHORT": 2, "INT": 4, "FLOAT": 4, "DOUBLE": 8, "LONG_LONG": 8}
#: NRRD's names of number types, without "signed", "unsigned" and "_t".
_NRRD_BYTES = {
    "char": 1, "uchar": 1, "int8": 1, "uint8": 1, "short": 2, "short int": 2, "ushort": 2, "int16": 2, "uint16": 2,
    "int": 4, "uint": 4, "int32": 4, "uint32": 4, "longlong": 8, "long long": 8, "long long int": 8, "ulonglong": 8,
    "int64": 8, "uint64": 8, "float": 4, "double": 8,
}  # fmt: skip


def check_nrrd(path: Path) -> TextFrame:
    """Check a NRRD file's sizes, spacing, origin and data; its own reader checks the rest.

    Raises:
        ScanError: for what cannot be used, and for more voxels or data than may be.
    """
    head, gap, start = _header(path, rb"\r?\n\r?\n")
    fields: dict[str, str] = dict(re.findall(r"^([a-z ]+):(?!=) *(.*?)\s*$", head, re.MULTILINE))
    if not head.startswith("NRRD"):
        raise ScanError(f"{path}: is not a NRRD file.", TRUE_EXTENSION, code="scan_format")
    named = fields.get("data file") or fields.get("datafile", "")
    if not gap and not named:
        raise truncated(path, "it ends within the header")
    frame = TextFrame((), 1.0, False)
    if fields.get("dimension") not in (None, "1", "2"):
        vectors = re.findall(r"\(([^)]*)\)", fields.get("space directions", ""))
        spacing = [math.hypot(*_numbers(v)) for v in vectors] or _numbers(fields.get("spacings", ""))
        spacing = [s for s in spacing if not math.isnan(s)]  # NRRD writes NaN for axes that are not in space
        if len(spacing) < 3:
            raise ScanError(f"{path}: does not say its voxel size.", EXPORT_SPACING, code="scan_spacing")
        check_spacing(path, spacing)
        _check_origin(path, fields.get("space origin", ""))
        stated = bool(vectors) and fields.get("space", "").strip().lower() in _ANATOMICAL
        frame = TextFrame(tuple(spacing[:3]), _millimetres(path, fields.get("space units", "")), stated)
    sizes = _sizes(path, fields.get("sizes", ""))
    kind = re.sub(r"^(un)?signed |_t$", "", fields.get("type", ""))
    needed = check_count(path, sizes) * _NRRD_BYTES.get(kind, 0)
    if named.startswith("LIST") or "%" in named or any(key.endswith(" skip") for key in fields):
        return frame
    encoding = fields.get("encoding")
    if encoding in ("bz2", "bzip2"):
        message = f"{path}: is compressed with bzip2, which the reader does not have."
        raise ScanError(message, "Store it with gzip or raw encoding.", code="scan_format")
    if encoding not in ("gz", "gzip", "raw") or not needed:
        return frame  # text, or what the reader refuses
    with _data(path, named, start) as (file, size):
        if encoding == "raw":
            _check_size(path, size, needed)
        else:
            with gzip_fill(path, file) as fill:
                pass_over(path, fill, needed)
                check_end(path, fill)
    return frame


def check_meta(path: Path) -> TextFrame:
    """Check a MetaImage file's sizes, spacing, origin, and that its voxels are complete.

    Raises:
        ScanError: for what cannot be used, and for more voxels or data than may be.
    """
    head, found, start = _header(path, rb"(?<=ElementDataFile)[ \t]*=[^\n]*(\n|$)")
    fields: dict[str, str] = dict(re.findall(r"^(\w+) *= *(.*?)\s*$", head + found, re.MULTILINE))
    if "ObjectType" not in fields and "NDims" not in fields:
        raise ScanError(f"{path}: is not a MetaImage file.", TRUE_EXTENSION, code="scan_format")
    if not found:
        raise truncated(path, "it ends within the header")
    if "NDims" not in fields or "DimSize" not in fields:
        raise ScanError(f"{path}: its header is damaged: it does not say the size.", COPY_AGAIN)
    sizes = _sizes(path, fields["DimSize"])
    frame = TextFrame((), 1.0, False)
    if len(sizes) > 2:
        spacing = _numbers(fields.get("ElementSpacing", fields.get("ElementSize", "")))
        if len(spacing) < 3:
            raise ScanError(f"{path}: does not say its voxel size.", EXPORT_SPACING, code="scan_spacing")
        check_spacing(path, spacing[:3])
        _check_origin(path, fields.get("Offset", fields.get("Position", fields.get("Origin", ""))))
        stated = any(key in fields for key in ("TransformMatrix", "Rotation", "Orientation"))
        frame = TextFrame(tuple(spacing[:3]), 1.0, stated)
    channels = _sizes(path, fields.get("ElementNumberOfChannels", "1"))
    kind = fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY")
    size = _META_BYTES.get(kind, _META_BYTES.get(kind.removeprefix("U"), 0))
    if kind.removeprefix("U") == "LONG":
        message = f"{path}: its voxels are of the type {fields['ElementType']}, whose size depends on the machine."
        raise ScanError(message, "Store them as MET_INT or MET_LONG_LONG.", code="scan_components")
    if not size or _sizes(path, fields["NDims"]) != [len(sizes)]:  # MetaIO would tell standard error so
        message = f"{path}: its header is damaged: its voxels' type or the number of its axes makes no sense."
        raise ScanError(message, COPY_AGAIN)
    needed = check_count(path, sizes + channels) * size

    named = fields["ElementDataFile"]
    if named.upper() == "LIST" or "%" in named or fields.get("BinaryData", "True") != "True":
        return frame
    with _data(path, "" if named.upper() == "LOCAL" else named, start) as (file, there):
        if fields.get("CompressedData") == "True":
            # ITK takes as much memory as this says, and then unpacks that much: with less, voxels stay as memory was.
            stated_size = sum(_sizes(path, fields.get("CompressedDataSize", "0")))
            _check_size(path, there, stated_size)
            if stated_size < there:
                message = f"{path}: states {stated_size} bytes of compressed voxels and has {there}."
                raise ScanError(message, COPY_AGAIN, code="scan_truncated")
            fill = zlib_fill(path, file)
            pass_over(path, fill, needed)
            check_end(path, fill)
        else:
            _check_size(path, there, needed)
    return frame


def _millimetres(path: Path, text: str) -> float:
    """How many mm the unit of NRRD's ``space units`` has; 1 if none is stated.

    Raises:
        ScanError: for an unknown unit, or axes in different units.
    """
    units = {unit.strip().lower() for unit in re.findall(r'"([^"]*)"', text)} - {"", "none", "???"}
    if not units:
        return 1.0
    unknown = units - _UNITS.keys()
    if unknown or len(units) > 1:
        what = "unknown space units" if unknown else "axes in different units"
        raise ScanError(f"{path}: {what}: {', '.join(sorted(units))}.", "Store it in mm.", code="scan_units")
    return _UNITS[units.pop()]


def _header(path: Path, separator: bytes) -> tuple[str, str, int]:
    """A text header, what ends it (empty if nothing does) and where the data behind it starts."""
    with path.open("rb") as file:
        content = file.read(_HEADER)
    if _CONFINED.get() and _NAMES.search(content):
        message = f"{path}: its voxels should be in a file in another folder."
        raise ScanError(message, "Put both files into one folder.", code="archive_unsafe")
    found = re.search(separator, content)
    if found is None:
        return os.fsdecode(content), "", len(content)
    # Decoded as file names are: the header may name the file that holds the voxels.
    return os.fsdecode(content[: found.start()]), os.fsdecode(found.group()), found.end()


@contextmanager
def _data(path: Path, named: str, start: int) -> Iterator[tuple[BinaryIO, int]]:
    """The data, and how many bytes it has: what follows the header, or the file next to it that it names."""
    where = path.parent / named if named else path
    if not where.is_file():  # nor a pipe or a device, which would have no end
        raise not_there(path, named)
    try:
        file = where.open("rb")
    except OSError:
        raise not_there(path, named) from None
    with file:
        skipped = 0 if named else file.seek(start)
        yield file, where.stat().st_size - skipped


def _check_size(path: Path, there: int, needed: int) -> None:
    if there < needed:
        raise truncated(path, f"{there} of {needed} bytes of voxels are there")


def _sizes(path: Path, text: str) -> list[int]:
    """Sizes in a header."""
    numbers = _numbers(text)
    if not numbers or not all(math.isfinite(n) and n >= 0 and n == int(n) for n in numbers):
        raise ScanError(f"{path}: its header is damaged: the size makes no sense.", COPY_AGAIN)
    return [int(n) for n in numbers]


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
