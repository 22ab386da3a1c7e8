"""Bombs: promises and compressed data that would take all memory are refused before they do."""

from __future__ import annotations

import gzip
import resource
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK  # noqa: F401 - the memory that its import takes is not counted

from tests.scan_files import fails, put, stored
from trt_landmarks.errors import ScanError
from trt_landmarks.scan import Scan, read_scan, write_scan
from trt_landmarks.scan.limits import MAX_VOXELS, SLACK, check_count, max_voxels

ZEROS = 96 << 20
META = "ObjectType = Image\nNDims = 3\nDimSize = 20 20 20\nElementSpacing = 1 1 1\nElementType = MET_SHORT\n"
NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 20 20 20\n"
    "space directions: (1,0,0) (0,1,0) (0,0,1)\nendian: little\nencoding: gzip\nspace origin: (0,0,0)\n\n"
)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """What is done takes less than a quarter of a bomb's content."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    more = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert more < ZEROS / 4, more


def nifti(content: bytes, size: int) -> bytes:
    """A header of ``size`` voxels a side, uint8."""
    return put(content[:352], 42, "3h", size, size, size)


@pytest.mark.usefixtures("little_memory")
def test_compressed_data_that_never_ends(content: bytes, tmp_path: Path) -> None:
    zeros = bytes(1 << 20)
    packer = zlib.compressobj(1, wbits=31)
    bomb = b"".join([packer.compress(nifti(content, 20)), *(packer.compress(zeros) for _ in range(ZEROS >> 20))])
    fails(stored(tmp_path, "a.nii.gz", bomb + packer.flush()), "scan_too_large")
    for name, head, wbits in (
        ("a.nrrd", NRRD, 31),
        ("a.mha", f"{META}CompressedData = True\nElementDataFile = LOCAL\n", 15),
    ):
        packer = zlib.compressobj(1, wbits=wbits)
        bomb = b"".join(packer.compress(zeros) for _ in range(ZEROS >> 20)) + packer.flush()
        head = head.replace("CompressedData = True", f"CompressedData = True\nCompressedDataSize = {len(bomb)}")
        fails(stored(tmp_path, name, head.encode() + bomb), "scan_too_large")


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_headers_that_promise_too_much(content: bytes, tmp_path: Path, suffix: str) -> None:
    head = nifti(content, 2000)
    path = stored(tmp_path, f"a{suffix}", gzip.compress(head) if suffix == ".nii.gz" else head)
    message = str(fails(path, "scan_too_large"))
    assert "8e+09 voxels" in message and "TRTLM_MAX_VOXELS" in message
    # Below the limit the promise is broken soon, and memory is only taken for what comes.
    head = nifti(content, 1200)
    fails(stored(tmp_path, f"b{suffix}", gzip.compress(head) if suffix == ".nii.gz" else head), "scan_truncated")


@pytest.mark.usefixtures("little_memory")
def test_text_headers_that_promise_too_much(tmp_path: Path) -> None:
    large = META.replace("20 20 20", "2000 2000 2000")
    for extra in ("", "CompressedData = True\n"):
        fails(stored(tmp_path, "a.mha", f"{large}{extra}ElementDataFile = LOCAL\n".encode()), "scan_too_large")
    fails(stored(tmp_path, "a.nrrd", NRRD.replace("20 20 20", "2000 2000 2000").encode()), "scan_too_large")
    channels = f"{META}ElementNumberOfChannels = 9000000000\nElementDataFile = LOCAL\n"
    fails(stored(tmp_path, "b.mha", channels.encode()), "scan_too_large")
    told = f"{META}CompressedData = True\nCompressedDataSize = 99999999999\nElementDataFile = LOCAL\n"
    fails(stored(tmp_path, "c.mha", told.encode() + zlib.compress(bytes(16000))), "scan_truncated")
    for sizes in ("20 20 -20", "20 20 2.5", "20 20 inf", "20 20 x"):
        fails(
            stored(tmp_path, "d.mha", META.replace("20 20 20", sizes).encode() + b"ElementDataFile = LOCAL\n"),
            "scan_unreadable",
        )
        fails(stored(tmp_path, "d.nrrd", NRRD.replace("20 20 20", sizes).encode()), "scan_unreadable")


def test_the_limit_can_be_set(small: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert max_voxels() == MAX_VOXELS
    for suffix in (".nii.gz", ".nii", ".nrrd", ".mha"):
        path = tmp_path / f"a{suffix}"
        write_scan(small, path)
        monkeypatch.setenv("TRTLM_MAX_VOXELS", str(small.voxels.size))
        assert read_scan(path).geometry.size == small.geometry.size
        monkeypatch.setenv("TRTLM_MAX_VOXELS", str(small.voxels.size - 1))
        fails(path, "scan_too_large")
    for wrong in ("many", "-1", "0"):
        monkeypatch.setenv("TRTLM_MAX_VOXELS", wrong)
        with pytest.raises(ScanError, match="TRTLM_MAX_VOXELS") as caught:
            check_count(tmp_path, [1])
        assert caught.value.code == "setting_invalid"


def test_a_little_after_the_voxels_does_no_harm(content: bytes, tmp_path: Path) -> None:
    expected = read_scan(stored(tmp_path, "a.nii", content)).voxels
    for more in (b"x", bytes(SLACK)):
        np.testing.assert_array_equal(
            read_scan(stored(tmp_path, "b.nii.gz", gzip.compress(content + more, 1))).voxels, expected
        )
    # gzip files may be concatenated and padded
    parts = gzip.compress(content[:1000], 1) + gzip.compress(content[1000:], 1) + bytes(100)
    np.testing.assert_array_equal(read_scan(stored(tmp_path, "c.nii.gz", parts)).voxels, expected)


def test_an_extended_header_is_passed_over(content: bytes, tmp_path: Path) -> None:
    expected = read_scan(stored(tmp_path, "a.nii", content)).voxels
    longer = put(content[:352], 108, "f", 352 + 5000) + struct.pack("<2i", 5000, 6) + bytes(4992) + content[352:]
    for name, whole in (("b.nii", longer), ("b.nii.gz", gzip.compress(longer, 1))):
        np.testing.assert_array_equal(read_scan(stored(tmp_path, name, whole)).voxels, expected)


def test_scaled_voxels_are_checked_too(content: bytes, tmp_path: Path) -> None:
    scaled = put(content, 112, "2f", 2, -1024)
    expected = read_scan(stored(tmp_path, "a.nii", scaled)).voxels
    whole = gzip.compress(scaled, 1)
    np.testing.assert_array_equal(read_scan(stored(tmp_path, "a.nii.gz", whole)).voxels, expected)
    fails(stored(tmp_path, "a.nii.gz", whole[:-4]), "scan_truncated")
    fails(stored(tmp_path, "a.nii.gz", gzip.compress(scaled[:-1], 1)), "scan_truncated")
    fails(stored(tmp_path, "a.nii.gz", gzip.compress(scaled + bytes(2 * SLACK), 1)), "scan_too_large")
