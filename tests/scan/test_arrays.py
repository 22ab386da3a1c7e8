"""NumPy archives as scans."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scan_files import fails
from trt_landmarks.scan import Scan, find_scans, read_scan


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("name", ["voxels", "array"])
def test_round_trip(small: Scan, tmp_path: Path, save: Any, name: str) -> None:
    matrix = small.geometry.voxel_to_world_matrix
    ras = np.diag([-1, -1, 1, 1]) @ matrix
    save(tmp_path / "lps.npz", **{name: small.voxels}, affine=matrix, note="any other entry")
    save(tmp_path / "said.npz", **{name: small.voxels}, affine=matrix, coordinate_system="LPS")
    save(tmp_path / "ras.npz", **{name: small.voxels}, affine=ras, coordinate_system=np.array(["RAS"]))
    for file in find_scans([tmp_path]):
        scan = read_scan(file)
        np.testing.assert_array_equal(scan.voxels, small.voxels)
        np.testing.assert_allclose(scan.geometry.voxel_to_world_matrix, matrix, atol=1e-12)
        assert scan.geometry.spacing == pytest.approx(small.geometry.spacing)


@pytest.mark.parametrize("dtype", ["u1", ">i2", "<u4", ">f4", "f8", "i8"])
def test_number_types(small: Scan, tmp_path: Path, dtype: str) -> None:
    voxels = np.asfortranarray((small.voxels // 2).astype(dtype))
    np.savez(tmp_path / "a.npz", voxels=voxels, affine=np.eye(4))
    scan = read_scan(tmp_path / "a.npz")
    assert scan.voxels.dtype.isnative and scan.voxels.dtype == np.dtype(dtype).newbyteorder("=")
    assert scan.voxels.flags.c_contiguous
    np.testing.assert_array_equal(scan.voxels, voxels)


def test_what_is_refused(small: Scan, tmp_path: Path) -> None:
    path, voxels, sheared, flat = tmp_path / "a.npz", small.voxels, np.eye(4), np.eye(4)
    sheared[0, 1], flat[2, 2] = 0.3, 0
    cases: list[tuple[dict[str, Any], str]] = [
        ({"affine": np.eye(4)}, "scan_format"),
        ({"voxels": voxels}, "scan_format"),
        ({"voxels": voxels, "affine": np.eye(3)}, "scan_direction"),
        ({"voxels": voxels, "affine": np.full((4, 4), np.nan)}, "scan_direction"),
        ({"voxels": voxels, "affine": sheared}, "scan_direction"),
        ({"voxels": voxels, "affine": 2 * np.eye(4)}, "scan_direction"),
        ({"voxels": voxels, "affine": flat}, "scan_spacing"),
        ({"voxels": voxels, "affine": np.eye(4), "coordinate_system": "NED"}, "scan_direction"),
        ({"voxels": voxels[0], "affine": np.eye(4)}, "scan_dimensions"),
        ({"voxels": voxels[..., None], "affine": np.eye(4)}, "scan_dimensions"),
        ({"voxels": voxels > 9, "affine": np.eye(4)}, "scan_components"),
        ({"voxels": voxels.astype("c8"), "affine": np.eye(4)}, "scan_components"),
        ({"voxels": np.array([object()]), "affine": np.eye(4)}, "scan_format"),
        ({"voxels": voxels, "affine": np.eye(4), "coordinate_system": np.array(object())}, "scan_format"),
    ]
    for content, code in cases:
        np.savez(path, **content)
        fails(path, code)


def test_damage_and_broken_promises(small: Scan, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, voxels=small.voxels, affine=np.eye(4))
    whole = path.read_bytes()
    for broken in (b"no archive", whole[:-100], whole[: len(whole) // 2]):
        path.write_bytes(broken)
        fails(path, "scan_unreadable")
    for shape, code in (((99999, 99999, 99999), "scan_too_large"), ((400, 400, 400), "scan_unreadable")):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("voxels.npy", header.getvalue() + bytes(1000))
            archive.writestr("affine.npy", b"")
        with zipfile.ZipFile(path, "w") as archive:
            affine = io.BytesIO()
            np.save(affine, np.eye(4))
            archive.writestr("affine.npy", affine.getvalue())
            archive.writestr("voxels.npy", header.getvalue() + bytes(1000))
        fails(path, code)


def test_archives_of_other_arrays_in_folders_are_no_scans(small: Scan, tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", volume=small.voxels)
    np.savez(tmp_path / "scan.npz", voxels=small.voxels, affine=np.eye(4))
    assert [file.id for file in find_scans([tmp_path])] == ["scan"]
