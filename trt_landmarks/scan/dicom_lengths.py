"""Whether the elements of a DICOM file end within it: GDCM takes memory for what a length says before it reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

#: Bytes that a length may be wrong by without a check: they do no harm.
HARMLESS = 1 << 20

_UNDEFINED = 0xFFFFFFFF
#: Transfer syntaxes whose data sets are not little endian as they lie in the file (PS3.5, annex A).
_BIG_ENDIAN, _DEFLATED = b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99"
#: Value representations with a length of 4 bytes behind 2 that are reserved (PS3.5, section 7.1.2), and the others.
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_SHORT = {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL",
          b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}  # fmt: skip


def lengths_fit(path: Path) -> bool:
    """Whether no element at the top level says that it ends more than :data:`HARMLESS` bytes behind the file's end.

    What lies within sequences, and behind the first one of undefined length, is not looked at.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 132 if file.read(132)[128:] == b"DICM" else 0
        order: Literal["little", "big"] = "little"
        syntax = b""
        while at + 8 <= size:
            file.seek(at)
            start = file.read(12)
            kind = start[4:6]
            if start[:2] != b"\x02\0" and syntax == _DEFLATED:
                return True  # what follows is compressed as a whole
            if start[:2] != b"\x02\0" and syntax == _BIG_ENDIAN:
                order = "big"
            if start[:2] == b"\x02\0" and kind not in _SHORT | _LONG:
                return False  # meta information always has representations: GDCM goes astray here
            length, head = _length(start, order)
            if start[:4] == b"\x02\0\x10\0" and length <= 64:
                file.seek(at + head)
                syntax = file.read(length).strip(b" \0")
            if length == _UNDEFINED:
                return True
            if at + head + length > size + HARMLESS:
                return False
            at += head + length
    return True


def _length(start: bytes, order: Literal["little", "big"]) -> tuple[int, int]:
    """Length of the element that begins so, and of its head, with or without a representation."""
    kind = start[4:6]
    if kind in _SHORT:
        return int.from_bytes(start[6:8], order), 8
    if kind in _LONG and len(start) == 12:
        return int.from_bytes(start[8:], order), 12
    return int.from_bytes(start[4:8], order), 8
