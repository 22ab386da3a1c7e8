"""What the tests of scan reading share: a piece of a real scan, and the check that a file is refused properly."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from trt_landmarks.errors import ScanError
from trt_landmarks.geometry import Geometry
from trt_landmarks.scan import Scan, read_scan, scan_from_array


def oblique_piece(real: Path) -> Scan:
    """A piece of a real scan, turned and shifted to lie obliquely, with unequal spacing."""
    voxels = read_scan(real).voxels[20:60, 40:100, 30:80].astype(np.int16)
    a, b = np.radians([25, -40])
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return scan_from_array(voxels, Geometry((50, 60, 40), (0.2, 0.3, 0.5), (-31.5, 12.25, 140.0), turn_z @ turn_x))


def fails(path: Path, code: str) -> ScanError:
    """Read a scan that must be refused, with a message for people."""
    with pytest.raises(ScanError) as caught:
        read_scan(path)
    error = caught.value
    assert error.code == code, error
    assert str(path) in error.message and error.remedy
    assert "\n" not in str(error)
    assert not any(word in str(error) for word in ("itk", ".cxx", ".hxx", "0x", "Exception")), error
    return error


def put(content: bytes, at: int, form: str, *values: float | bytes) -> bytes:
    changed = bytearray(content)
    struct.pack_into("<" + form, changed, at, *values)
    return bytes(changed)


def stored(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path
