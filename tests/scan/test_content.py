"""What a scan's files hold: the digest is that of every file that decides what is read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.cli.test_cli import make_scan
from trt_landmarks.scan import ScanFile
from trt_landmarks.scan.content import Content, scan_content, scan_files, scan_state


def content(path: Path, series: str | None = None) -> Content | None:
    return scan_content(ScanFile("a", path, series))


def sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def test_one_file_has_its_own_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(b"voxels")
    os.utime(path, (1.5, 1.5))
    assert content(path) == Content(6, 1, sha256(b"voxels"), "1970-01-01T00:00:01.500000+00:00")
    assert content(tmp_path / "none.nii") is None and scan_state(ScanFile("a", tmp_path / "a\0")) is None


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii")
    assert content(tmp_path / "a.nii") is None


@pytest.mark.parametrize(("header", "voxels"), [("a.mhd", "a.raw"), ("a.nhdr", "a.raw")])
def test_the_voxels_beside_a_header_count(tmp_path: Path, header: str, voxels: str) -> None:
    path = make_scan(tmp_path / header)
    (beside,) = [one for one in tmp_path.iterdir() if one != path]
    before = content(path)
    assert before is not None and before.files == 2
    lines = sorted((one.name, sha256(one.read_bytes())) for one in tmp_path.iterdir())
    assert before.sha256 == sha256("".join(f"{digest}  {name}\n" for name, digest in lines).encode())
    changed = bytearray(beside.read_bytes())
    changed[-1] ^= 1
    beside.write_bytes(changed)
    after = content(path)
    assert after is not None and after.bytes == before.bytes and after.sha256 != before.sha256


def test_lists_and_patterns_of_files_count(tmp_path: Path) -> None:
    for name in ("s1.raw", "s2.raw", "other.raw"):
        (tmp_path / name).write_bytes(name.encode())
    path = tmp_path / "a.mhd"
    for ending in ("LIST\ns1.raw\ns2.raw\n", "LIST 2\ns1.raw\ns2.raw\n", "s%d.raw 1 2 1\n"):
        path.write_text(f"ObjectType = Image\nElementDataFile = {ending}")
        assert {one.name for one in scan_files(ScanFile("a", path))} == {"a.mhd", "s1.raw", "s2.raw"}


def test_a_folder_is_its_dicom_files(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("2.dcm", "1.dcm", "below/3.dcm", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    one, deep = content(tmp_path), content(tmp_path, "1.2.3")
    assert one is not None and deep is not None and (one.files, deep.files) == (2, 3)
    assert one.sha256 == sha256(f"{sha256(b'1.dcm')}  1.dcm\n{sha256(b'2.dcm')}  2.dcm\n".encode())
    (tmp_path / "notes.txt").write_bytes(b"changed")
    assert content(tmp_path) == one
    (tmp_path / "empty").mkdir()
    assert content(tmp_path / "empty") is None
