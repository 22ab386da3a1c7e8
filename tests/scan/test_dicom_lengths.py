"""DICOM files whose elements claim to be longer than the file."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from trt_landmarks.scan.dicom_lengths import HARMLESS, lengths_fit

META = b"\x02\0\x10\0UI" + struct.pack("<H", 18) + b"1.2.840.10008.1.2\0"


def stored(folder: Path, *elements: bytes) -> Path:
    path = folder / "a.dcm"
    path.write_bytes(bytes(128) + b"DICM" + META + b"".join(elements))
    return path


def short(length: int) -> bytes:
    return b"\x08\0\x60\0CS" + struct.pack("<H", length) + b"CT"


def long(length: int) -> bytes:
    return b"\xe0\x7f\x10\0OW\0\0" + struct.pack("<I", length) + b"voxels"


def implicit(length: int) -> bytes:
    return b"\xe0\x7f\x10\0" + struct.pack("<I", length) + b"voxels"


@pytest.mark.parametrize(
    ("elements", "fit"),
    [
        ((short(2), long(6)), True),
        ((short(2), implicit(6)), True),
        ((short(2), long(0x40000000)), False),
        ((short(2), implicit(0x40000000)), False),
        ((long(HARMLESS),), True),
        ((long(2 * HARMLESS),), False),
        ((long(0xFFFFFFFF), b"whatever"), True),
        ((short(2)[:5],), True),
        ((b"\x02\0\x16\0uE\x0e\0",), False),
        ((), True),
    ],
)
def test_lengths(tmp_path: Path, elements: tuple[bytes, ...], fit: bool) -> None:
    assert lengths_fit(stored(tmp_path, *elements)) is fit


def test_without_preamble(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(short(2) + long(0x40000000))
    assert not lengths_fit(path)
    path.write_bytes(short(2) + long(6))
    assert lengths_fit(path)
