"""Reading and writing scans: real files, every format, and contents that are not one usable volume."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from tests.scan_files import fails, put, stored
from trt_landmarks.errors import ScanError
from trt_landmarks.geometry import Geometry
from trt_landmarks.scan import Scan, find_scans, read_scan, scan_from_array, write_scan

# --- real files ---------------------------------------------------------------------------------------------


def test_every_real_scan_is_read_as_itk_reads_it(mouse_scans: list[Path]) -> None:
    raw = sorted((mouse_scans[0].parents[2] / "raw" / "images").glob("*.nii.gz"))
    for path in mouse_scans[::8] + raw[::8]:
        scan = read_scan(path)
        image = SimpleITK.ReadImage(str(path))
        np.testing.assert_array_equal(scan.voxels, SimpleITK.GetArrayViewFromImage(image))
        assert scan.voxels.dtype == np.uint8 and scan.voxels.flags.c_contiguous and scan.voxels.flags.writeable
        corner = np.array([3, 5, 7])
        np.testing.assert_allclose(
            scan.geometry.voxel_to_world(corner), image.TransformIndexToPhysicalPoint(corner.tolist()), atol=1e-9
        )
        assert scan.geometry.size == image.GetSize()
        assert scan.id + ".nii.gz" == path.name


def test_importing_the_module_does_not_import_simpleitk() -> None:
    code = "import sys, trt_landmarks.scan; sys.exit('SimpleITK' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- geometry through every format --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_oblique_round_trip(small: Scan, tmp_path: Path, suffix: str, mirrored: bool) -> None:
    direction = small.geometry.direction * ([1, 1, -1] if mirrored else [1, 1, 1])
    geometry = Geometry(small.geometry.size, small.geometry.spacing, small.geometry.origin, direction)
    path = tmp_path / f"köpf α 1{suffix}"
    write_scan(scan_from_array(small.voxels, geometry), path)
    again = read_scan(path)
    np.testing.assert_array_equal(again.voxels, small.voxels)
    assert again.voxels.dtype == np.int16 and again.id == "köpf α 1"
    corners = [[0, 0, 0], [49, 59, 39], [49, 0, 0], [0, 59, 0]]
    np.testing.assert_allclose(
        again.geometry.voxel_to_world(corners), geometry.voxel_to_world(corners), atol=2e-5, err_msg=suffix
    )


def test_nifti_world_is_turned_from_ras_to_lps(content: bytes, tmp_path: Path) -> None:
    rows = struct.unpack_from("<12f", content, 280)
    ras = np.reshape(rows, (3, 4)) @ [10, 20, 30, 1]
    lps = read_scan(stored(tmp_path, "a.nii", content)).geometry.voxel_to_world([10, 20, 30])
    np.testing.assert_allclose(lps, ras * [-1, -1, 1], atol=1e-5)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "u8", "f4", "f8"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_number_types_are_kept(small: Scan, tmp_path: Path, dtype: str, suffix: str) -> None:
    voxels = (small.voxels // 2).astype(dtype)
    write_scan(scan_from_array(voxels, small.geometry), tmp_path / f"a{suffix}")
    again = read_scan(tmp_path / f"a{suffix}").voxels
    assert again.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(again, voxels)


def test_scaled_nifti_gives_voxel_values(content: bytes, tmp_path: Path) -> None:
    plain = read_scan(stored(tmp_path, "a.nii", content)).voxels
    scaled = read_scan(stored(tmp_path, "b.nii", put(content, 112, "2f", 2, -1024))).voxels
    np.testing.assert_allclose(scaled, plain * 2.0 - 1024)


def test_big_endian_nifti(small: Scan, tmp_path: Path) -> None:
    write_scan(small, tmp_path / "a.nii")
    little = (tmp_path / "a.nii").read_bytes()
    big = bytearray(little)
    fields = [(0, "i"), (40, "8h"), (68, "4h"), (76, "8f"), (108, "3f"), (252, "2h"), (256, "18f")]
    for at, form in fields:
        struct.pack_into(">" + form, big, at, *struct.unpack_from("<" + form, little, at))
    big[352:] = np.frombuffer(little, "<i2", offset=352).byteswap().tobytes()
    again = read_scan(stored(tmp_path, "b.nii", bytes(big)))
    np.testing.assert_array_equal(again.voxels, small.voxels)
    assert again.voxels.dtype.isnative
    np.testing.assert_allclose(again.geometry.origin, small.geometry.origin, atol=1e-4)


# --- contents that are not one usable volume ----------------------------------------------------------------


def write_image(path: Path, voxels: np.ndarray, vector: bool = False) -> Path:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels, isVector=vector), str(path))
    return path


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_dimensions_and_components(small: Scan, tmp_path: Path, suffix: str) -> None:
    voxels = small.voxels
    frames = np.stack([voxels, voxels + 1])
    fails(write_image(tmp_path / f"plane{suffix}", voxels[10]), "scan_dimensions")
    fails(write_image(tmp_path / f"slice{suffix}", voxels[10:11]), "scan_dimensions")
    fails(write_image(tmp_path / f"frames{suffix}", frames), "scan_dimensions")
    fails(write_image(tmp_path / f"colour{suffix}", np.stack([voxels] * 3, -1).astype("u1"), True), "scan_components")
    one = read_scan(write_image(tmp_path / f"frame{suffix}", frames[1:]))
    np.testing.assert_array_equal(one.voxels, voxels + 1)
    assert one.geometry.size == small.geometry.size


def test_complex_numbers(small: Scan, tmp_path: Path) -> None:
    fails(write_image(tmp_path / "a.nii.gz", small.voxels.astype(np.complex64)), "scan_components")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_nan_and_constant(small: Scan, tmp_path: Path, suffix: str) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        voxels = small.voxels.astype(np.float32)
        voxels[3, 4, 5] = bad
        fails(write_image(tmp_path / f"a{suffix}", voxels), "scan_nan")
        with pytest.raises(ScanError) as caught:
            scan_from_array(voxels, small.geometry)
        assert caught.value.code == "scan_nan"
    fails(write_image(tmp_path / f"b{suffix}", np.full((4, 5, 6), 7, np.int16)), "scan_constant")


def test_arrays_are_checked_too(small: Scan) -> None:
    turned = np.transpose(small.voxels)
    other = Geometry((40, 60, 50), (1, 1, 1), (0, 0, 0), np.eye(3))
    assert scan_from_array(turned, other).voxels.flags.c_contiguous
    cases = [
        (turned, small.geometry, "scan_dimensions"),
        (small.voxels[0], small.geometry, "scan_dimensions"),
        (small.voxels.astype(np.float16), small.geometry, "scan_components"),
        (turned, Geometry((40, 60, 50), (1, 1, 0), (0, 0, 0), np.eye(3)), "scan_spacing"),
        (turned, Geometry((40, 60, 50), (1, 1, 1), (0, 0, np.inf), np.eye(3)), "scan_origin"),
        (turned, Geometry((40, 60, 50), (1, 1, 1), (0, 0, 0), np.full((3, 3), np.nan)), "scan_direction"),
    ]
    for voxels, geometry, code in cases:
        with pytest.raises(ScanError) as caught:
            scan_from_array(voxels, geometry)
        assert caught.value.code == code


def test_files_that_are_not_scans(real: Path, content: bytes, tmp_path: Path) -> None:
    fails(tmp_path / "gone.nii.gz", "scan_missing")
    fails(stored(tmp_path, "notes.txt", b"hello"), "scan_format")
    fails(stored(tmp_path, "text.nii", b"hello" * 1000), "scan_format")
    fails(stored(tmp_path, "nifti2.nii", put(content, 0, "i8s", 540, b"n+2\0\r\n\x1a\n")), "scan_format")
    fails(stored(tmp_path, "text.nrrd", b"hello" * 1000), "scan_format")
    fails(stored(tmp_path, "text.mha", b"hello" * 1000), "scan_format")
    fails(stored(tmp_path, "text.dcm", b"hello" * 1000), "scan_unreadable")
    fails(stored(tmp_path, "packed.nii", real.read_bytes()), "scan_format")
    fails(stored(tmp_path, "mixed.Nii.gz", real.read_bytes()), "scan_format")
    assert read_scan(stored(tmp_path, "plain.nii.gz", content)).voxels.shape == (92, 156, 104)
    assert read_scan(stored(tmp_path, "UPPER.NII.GZ", real.read_bytes())).id == "UPPER"


@pytest.mark.parametrize(
    ("error", "code"), [(PermissionError(13, "Permission denied"), "scan_unreadable"), (MemoryError(), "scan_memory")]
)
def test_what_the_machine_refuses(real: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str) -> None:
    def refuse(path: Path) -> bool:
        raise error

    monkeypatch.setattr(Path, "is_file", refuse)
    fails(real, code)


def test_write_refuses_what_it_cannot_store(small: Scan, tmp_path: Path) -> None:
    for name, code in (("a.txt", "scan_format"), ("none/a.nii.gz", "scan_write")):
        with pytest.raises(ScanError) as caught:
            write_scan(small, tmp_path / name)
        assert caught.value.code == code


def test_pipes_and_devices_are_not_waited_for(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nrrd", "a.zip", "a.npz", "a.dcm", "IM1"):
        os.mkfifo(tmp_path / name)
        fails(tmp_path / name, "scan_format")
    assert [file.path.name for file in find_scans([tmp_path])] == ["a.nii", "a.nrrd"]
    (tmp_path / "b.mhd").write_text(
        "ObjectType = Image\nNDims = 3\nDimSize = 9 9 9\nElementSpacing = 1 1 1\nElementType = MET_SHORT\n"
        "ElementDataFile = a.nii\n"
    )
    fails(tmp_path / "b.mhd", "scan_missing")
