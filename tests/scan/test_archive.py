"""Zipped scans, and archives that want out of their folder or into all memory."""

from __future__ import annotations

import io
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.scan.dicom_writing import write_series
from tests.scan_files import fails
from trt_landmarks.scan import Scan, archive, find_scans, read_scan, write_scan


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files of its own, which must be empty in the end."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert not list(folder.iterdir())


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], stored: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as target:
        for name, content in members:
            target.writestr(name, content)
    return path


def series(folder: Path, scan: Scan, uid: str = "1.2.3.4", number: str = "") -> list[tuple[str, bytes]]:
    paths = write_series(folder, scan, uid, number=number, suffix="")
    return [(f"export/{folder.name}/{path.name}", path.read_bytes()) for path in paths]


def test_a_zipped_series(thin: Scan, tmp_path: Path) -> None:
    noise = [("__MACOSX/._x", b"x"), ("export/.DS_Store", b"x"), ("export/readme.txt", b"x")]
    path = zipped(tmp_path / "head.zip", *series(tmp_path / "a", thin), *noise)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.voxels, thin.voxels)
    np.testing.assert_allclose(scan.geometry.voxel_to_world_matrix, thin.geometry.voxel_to_world_matrix, atol=1e-5)
    assert scan.id == "head" and scan.path == path


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".npz"])
def test_one_zipped_file(small: Scan, tmp_path: Path, suffix: str) -> None:
    inner = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez_compressed(inner, voxels=small.voxels, affine=small.geometry.voxel_to_world_matrix)
    else:
        write_scan(small, inner)
    path = zipped(tmp_path / "b.zip", (f"deep/er/{inner.name}", inner.read_bytes()))
    np.testing.assert_array_equal(read_scan(path).voxels, small.voxels)


def test_several_series_in_an_archive(thin: Scan, tmp_path: Path) -> None:
    short = Scan("", None, thin.voxels[:4], thin.geometry.__class__((50, 60, 4), (1, 1, 1), (0, 0, 0), np.eye(3)))
    members = series(tmp_path / "a", thin, "1.2.3", "1") + series(tmp_path / "a", short, "1.2.4", "2")
    path = zipped(tmp_path / "two.zip", *members)
    assert "holds 2 scans" in fails(path, "scan_series").message
    for rule, expected in (("largest", thin), ("2", short), ("1.2.3", thin)):
        (file,) = find_scans([path], series=rule)
        np.testing.assert_array_equal(read_scan(file).voxels, expected.voxels)


def test_archives_in_folders(thin: Scan, tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip", *series(tmp_path / "x" / "y", thin))
    zipped(tmp_path / "b.zip", ("notes.txt", b"x"))
    zipped(tmp_path / "c.zip", ("deep/a.nii", b"x"))
    (tmp_path / "d.zip").write_bytes(b"no archive")
    assert [file.id for file in find_scans([tmp_path])] == ["a", "c", "d", "y"]


def named(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("x")
    info.filename = name
    return info


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


UNSAFE = {
    "up": named("../out.nii"),
    "up again": named("a/../../out.nii"),
    "absolute": named("/out.nii"),
    "drive": named("C:/out.nii"),
    "backslash": named("..\\out.nii"),
    "link": link("a.nii"),
}


@pytest.mark.parametrize("kind", UNSAFE)
def test_archives_that_want_out(thin: Scan, tmp_path: Path, kind: str) -> None:
    path = zipped(tmp_path / "a.zip", *series(tmp_path / "a", thin), (UNSAFE[kind], b"/etc/passwd"))
    before = sorted(tmp_path.parent.rglob("out.nii"))
    fails(path, "archive_unsafe")
    assert sorted(tmp_path.parent.rglob("out.nii")) == before == []


def test_a_name_that_occurs_twice(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        path = zipped(tmp_path / "a.zip", ("a.nii", b"x"), ("a.nii", b"y"))
    fails(path, "archive_unsafe")


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zeros = bytes(archive.SMALL)
    fails(zipped(tmp_path / "ratio.zip", ("a.nii", zeros), ("b.nii", b"x")), "scan_too_large")
    monkeypatch.setattr(archive, "MOST_FILES", 5)
    many = [(f"{n}.nii", b"x") for n in range(6)]
    assert "6 files" in fails(zipped(tmp_path / "many.zip", *many), "scan_too_large").message
    monkeypatch.setenv("TRTLM_MAX_VOXELS", "1000")
    assert "8e+03" in fails(zipped(tmp_path / "large.zip", ("a.nii", bytes(8001))), "scan_too_large").message
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
    assert "temporary" in fails(zipped(tmp_path / "full.zip", ("a.nii", bytes(101))), "scan_too_large").message


def test_an_archive_that_lies_about_its_size(tmp_path: Path) -> None:
    """It says 100 bytes and has a million: no more than 100 are written, and then it is refused."""
    path = zipped(tmp_path / "a.zip", ("a.nii", bytes(1_000_000)))
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")
    for at in (22, directory + 24):  # the uncompressed size, in both headers
        content[at : at + 4] = (100).to_bytes(4, "little")
    path.write_bytes(content)
    fails(path, "scan_unreadable")


def test_damaged_encrypted_and_nested(thin: Scan, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", *series(tmp_path / "a", thin))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    fails(path, "scan_unreadable")
    changed = bytearray(whole)
    changed[len(whole) // 3] ^= 1
    path.write_bytes(changed)
    fails(path, "scan_unreadable")
    changed = bytearray(whole)
    changed[6] |= 1
    changed[whole.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(changed)
    fails(path, "scan_unreadable")
    path.write_bytes(b"no archive at all")
    fails(path, "scan_unreadable")
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as target:
        target.writestr("a.nii", b"x")
    fails(zipped(tmp_path / "b.zip", ("c.zip", inner.getvalue())), "scans_none")


def test_errors_name_the_archive_and_the_file_in_it(real: Path, tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("deep/x.nii.gz", real.read_bytes()[:-100]))
    assert f"{path}/deep/x.nii.gz" in fails(path, "scan_truncated").message
