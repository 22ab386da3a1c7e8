"""Real scans broken in each way that ITK would not notice, or would mend without a word."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from tests.scan_files import fails, put, stored
from trt_landmarks.errors import ScanError
from trt_landmarks.scan import Scan, read_scan, write_scan


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 1000, 0.5, -100, -9, -8, -4, -1])
def test_truncated_gzip(real: Path, tmp_path: Path, keep: float) -> None:
    data = real.read_bytes()
    cut = data[: int(len(data) * keep)] if isinstance(keep, float) else data[:keep]
    code = "scan_format" if keep == 1 else "scan_truncated"
    fails(stored(tmp_path, "a.nii.gz", cut), code)


@pytest.mark.parametrize("keep", [0, 100, 348, 352, 500_000, -1])
def test_truncated_nifti(content: bytes, tmp_path: Path, keep: int) -> None:
    fails(stored(tmp_path, "a.nii", content[:keep]), "scan_truncated")
    if keep:  # complete as gzip, incomplete as NIfTI
        fails(stored(tmp_path, "b.nii.gz", gzip.compress(content[:keep], 1)), "scan_truncated")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("keep", [0, 20, 150, 0.5, -100, -8, -1])
def test_truncated_text_headers(small: Scan, tmp_path: Path, suffix: str, compressed: bool, keep: float) -> None:
    path = tmp_path / f"a{suffix}"
    image = SimpleITK.GetImageFromArray(small.voxels)
    SimpleITK.WriteImage(image, str(path), useCompression=compressed)
    assert read_scan(path).geometry.size == small.geometry.size
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)] if isinstance(keep, float) else data[:keep])
    fails(path, "scan_truncated")


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
@pytest.mark.parametrize("compressed", [False, True])
def test_detached_voxels(small: Scan, tmp_path: Path, suffix: str, compressed: bool) -> None:
    path = tmp_path / f"a{suffix}"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(small.voxels), str(path), useCompression=compressed)
    (other,) = (p for p in tmp_path.iterdir() if p != path)
    data = other.read_bytes()
    other.write_bytes(data[:-1])
    fails(path, "scan_truncated")
    other.unlink()
    assert other.name in fails(path, "scan_missing").message


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_flipped_bit_in_compressed_data_never_gives_another_scan(small: Scan, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    write_scan(small, path)
    data = path.read_bytes()
    start = {".nii.gz": 10, ".nrrd": data.find(b"\n\n") + 12, ".mha": data.find(b"LOCAL\n") + 6}[suffix]
    refused = 0
    positions = np.linspace(start, len(data) - 1, 80).astype(int)
    for n, at in enumerate(positions):
        changed = bytearray(data)
        changed[at] ^= 1 << n % 8
        path.write_bytes(changed)
        try:
            again = read_scan(path)
        except ScanError as error:
            assert error.code in ("scan_unreadable", "scan_truncated"), error
            refused += 1
        else:
            np.testing.assert_array_equal(again.voxels, small.voxels)
            np.testing.assert_array_equal(again.geometry.origin, pytest.approx(small.geometry.origin, abs=1e-4))
    assert refused >= len(positions) - 1


HEADER_DAMAGE: dict[str, tuple[int, str, tuple[float, ...], str]] = {
    "sizeof_hdr": (0, "i", (349,), "scan_format"),
    "magic": (344, "4B", (1, 2, 3, 4), "scan_format"),
    "no dimensions": (40, "h", (0,), "scan_unreadable"),
    "too many dimensions": (40, "h", (8,), "scan_unreadable"),
    "negative size": (42, "h", (-104,), "scan_unreadable"),
    "size 0": (42, "h", (0,), "scan_unreadable"),
    "flipped high bit of a size": (42, "h", (104 ^ 0x1000,), "scan_truncated"),
    "huge size": (42, "3h", (30000, 30000, 30000), "scan_too_large"),
    "wider data type": (70, "h", (16,), "scan_truncated"),
    "unknown data type": (70, "h", (999,), "scan_unreadable"),
    "voxels far away": (108, "f", (1e9,), "scan_truncated"),
    "NaN in the qform": (256, "f", (float("nan"),), "scan_direction"),
    "qform is not a rotation": (256, "3f", (3, 3, 3), "scan_direction"),
    "NaN in the sform": (292, "f", (float("nan"),), "scan_direction"),
    "sform of another voxel size": (280, "12f", (0.4, 0, 0, 0, 0, 0.4, 0, 0, 0, 0, 0.4, 0), "scan_spacing"),
}


@pytest.mark.parametrize("damage", HEADER_DAMAGE)
def test_damaged_nifti_header(content: bytes, tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]) -> None:
    at, form, values, code = HEADER_DAMAGE[damage]
    fails(stored(tmp_path, "a.nii", put(content, at, form, *values)), code)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (0, 1), (1, 1), (2, 4)])
@pytest.mark.parametrize("value", [0.0, -0.2, float("nan"), float("inf")])
def test_impossible_nifti_spacing(content: bytes, tmp_path: Path, codes: tuple[int, int], value: float) -> None:
    changed = put(put(content, 252, "2h", *codes), 84, "f", value)
    error = fails(stored(tmp_path, "a.nii", changed), "scan_spacing")
    assert f"{value:g}" in error.message
    fails(stored(tmp_path, "a.nii.gz", gzip.compress(changed, 1)), "scan_spacing")


SFORMS = [
    ((0,) * 12, "scan_spacing"),
    ((0.2, 0.1, 0, 0, 0, 0.2, 0, 0, 0, 0, 0.2, 0), "scan_direction"),
    ((0.2, 0.2, 0, 0, 0, 0, 0, 0, 0, 0, 0.2, 0), "scan_direction"),
]


@pytest.mark.parametrize(("rows", "code"), SFORMS)
def test_sform_that_is_not_orthogonal(content: bytes, tmp_path: Path, rows: tuple[float, ...], code: str) -> None:
    changed = put(put(content, 280, "12f", *rows), 252, "2h", 0, 1)
    fails(stored(tmp_path, "a.nii", changed), code)


def test_of_two_frames_the_sform_counts_unless_it_is_sheared(content: bytes, tmp_path: Path) -> None:
    """As in nibabel, and said where the frames differ."""
    expected = read_scan(stored(tmp_path, "a.nii", content))
    assert not expected.warnings
    sheared = put(put(content, 280, "12f", 0.2, 0.1, 0, 0, 0, 0.2, 0, 0, 0, 0, 0.2, 0), 252, "2h", 1, 1)
    scan = read_scan(stored(tmp_path, "b.nii", sheared))
    np.testing.assert_allclose(scan.geometry.voxel_to_world_matrix, expected.geometry.voxel_to_world_matrix, atol=1e-6)
    for rows in ((0.4, 0, 0, 0, 0, 0.4, 0, 0, 0, 0, 0.4, 0), (0.2, 0, 0, 5, 0, -0.2, 0, 0, 0, 0, 0.2, 7)):
        path = stored(tmp_path, "c.nii", put(put(content, 280, "12f", *rows), 252, "2h", 1, 4))
        scan = read_scan(path)
        assert [warning.code for warning in scan.warnings] == ["two_frames"]
        lps = np.diag([-1, -1, 1, 1]) @ nibabel.nifti1.load(path).affine
        np.testing.assert_allclose(scan.geometry.voxel_to_world_matrix, lps, atol=1e-5)


def test_a_file_without_a_frame_says_so(content: bytes, tmp_path: Path) -> None:
    scan = read_scan(stored(tmp_path, "a.nii", put(content, 252, "2h", 0, 0)))
    assert [warning.code for warning in scan.warnings] == ["no_orientation"]


def edited(small: Scan, path: Path, edit: Callable[[str], str]) -> Path:
    image = SimpleITK.GetImageFromArray(small.voxels)
    image.SetSpacing((0.25, 0.5, 0.75))
    SimpleITK.WriteImage(image, str(path), useCompression=False)
    text = path.read_bytes().decode("latin-1")
    assert edit(text) != text
    path.write_bytes(edit(text).encode("latin-1"))
    return path


META = [
    ("ElementSpacing = 0.25", "ElementSpacing = 0", "scan_spacing"),
    ("ElementSpacing = 0.25", "ElementSpacing = -0.2", "scan_spacing"),
    ("ElementSpacing = 0.25", "ElementSpacing = nan", "scan_spacing"),
    ("ElementSpacing = 0.25 0.5 0.75\n", "", "scan_spacing"),
    ("Offset = 0", "Offset = nan", "scan_origin"),
    ("TransformMatrix = 1 0 0", "TransformMatrix = 1 0.5 0", "scan_direction"),
    ("TransformMatrix = 1 0 0", "TransformMatrix = 0 1 0", "scan_direction"),
    ("TransformMatrix = 1 0 0 0 1 0 0 0 1", "TransformMatrix = 2 0 0 0 2 0 0 0 2", "scan_direction"),
    ("DimSize = 50 60", "DimSize = 500000 600000", "scan_too_large"),
    ("DimSize", "Dims", "scan_unreadable"),
    ("NDims", "Pigs", "scan_unreadable"),
]
NRRD = [
    ("(0.25,0,0)", "(0,0,0)", "scan_spacing"),
    ("(0.25,0,0)", "(nan,0,0)", "scan_spacing"),
    ("(0.25,0,0)", "none", "scan_spacing"),
    ("(0.25,0,0)", "(0.25,0.1,0)", "scan_direction"),
    ("(0.25,0,0) (0,0.5,0)", "(0.25,0,0) (0.25,0,0)", "scan_direction"),
    ("space directions:", "#", "scan_spacing"),
    ("space origin: (0", "space origin: (nan", "scan_origin"),
    ("NRRD", "DRRN", "scan_format"),
    ("sizes: 50 60 40", "sizes: 500 600 400", "scan_truncated"),
    ("sizes: 50 60 40", "sizes: 500000 600000 40000", "scan_too_large"),
]


@pytest.mark.parametrize(("old", "new", "code"), META)
def test_meta_header(
    small: Scan, tmp_path: Path, old: str, new: str, code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    fails(edited(small, tmp_path / "a.mha", lambda text: text.replace(old, new, 1)), code)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("old", "new", "code"), NRRD)
def test_nrrd_header(
    small: Scan, tmp_path: Path, old: str, new: str, code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    fails(edited(small, tmp_path / "a.nrrd", lambda text: text.replace(old, new, 1)), code)
    assert capfd.readouterr() == ("", "")


def test_meta_images_in_text_and_in_slices(small: Scan, tmp_path: Path) -> None:
    voxels = small.voxels[:3, :4, :5]
    head = "ObjectType = Image\nNDims = 3\nDimSize = 5 4 3\nElementSpacing = 1 1 2\nElementType = MET_SHORT\n"
    words = " ".join(map(str, voxels.ravel()))
    text = f"{head}BinaryData = False\nElementDataFile = LOCAL\n{words}\n"
    np.testing.assert_array_equal(read_scan(stored(tmp_path, "text.mha", text.encode())).voxels, voxels)
    for k in range(3):
        stored(tmp_path, f"{k}.raw", voxels[k].tobytes())
    listed = f"{head}BinaryData = True\nElementDataFile = LIST\n0.raw\n1.raw\n2.raw\n"
    np.testing.assert_array_equal(read_scan(stored(tmp_path, "list.mhd", listed.encode())).voxels, voxels)


def test_without_isal_the_same_is_read(real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = read_scan(real).voxels
    cut = stored(tmp_path, "cut.nii.gz", real.read_bytes()[:-8])
    monkeypatch.setitem(sys.modules, "isal", None)
    np.testing.assert_array_equal(read_scan(real).voxels, expected)
    assert "too early" in fails(cut, "scan_truncated").message
