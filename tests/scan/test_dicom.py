"""DICOM series as hospitals export them: whole, mixed, incomplete, tilted, and beside what is no volume."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK

from tests.scan.dicom_writing import STORAGE, replace_bytes, write_series, write_slice
from tests.scan_files import fails
from trt_landmarks.errors import ScanError
from trt_landmarks.scan import Scan, find_scans, read_scan


def same(scan: Scan, expected: Scan) -> None:
    np.testing.assert_array_equal(scan.voxels, expected.voxels)
    matrix = expected.geometry.voxel_to_world_matrix
    np.testing.assert_allclose(scan.geometry.voxel_to_world_matrix, matrix, atol=1e-5)


def cases(*paths: Path, series: str = "all") -> list[str]:
    return [file.id for file in find_scans(paths, series=series)]


# --- what is a series ---------------------------------------------------------------------------------------


def test_series(thin: Scan, tmp_path: Path) -> None:
    paths = write_series(tmp_path / "head 1", thin)
    scan = read_scan(tmp_path / "head 1")
    same(scan, thin)
    assert scan.id == "head 1" and scan.warnings == ()
    assert "folder" in fails(paths[0], "scan_dimensions").remedy


def test_itk_reads_the_same_series(thin: Scan, tmp_path: Path) -> None:
    write_series(tmp_path, thin)
    scan = read_scan(tmp_path)
    names = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path))
    image = SimpleITK.ReadImage(names)
    point = np.array([7, 11, 5])
    world = image.TransformIndexToPhysicalPoint(point.tolist())
    np.testing.assert_allclose(scan.geometry.voxel_to_world(point), world, atol=1e-5)
    np.testing.assert_array_equal(scan.voxels, SimpleITK.GetArrayFromImage(image))


def test_files_without_extension_in_nested_folders(thin: Scan, tmp_path: Path) -> None:
    write_series(tmp_path / "DICOM" / "PA1" / "SE1", thin, suffix="")
    write_series(tmp_path / "DICOM" / "PA2" / "SE1", thin, suffix=".IMA")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM and more")
    (tmp_path / "DICOM" / "README").write_text("no scan")
    assert cases(tmp_path) == ["DICOM_PA1_SE1", "DICOM_PA2_SE1"]
    for file in find_scans([tmp_path]):
        same(read_scan(file), thin)


def test_files_without_preamble(thin: Scan, tmp_path: Path) -> None:
    for path in write_series(tmp_path, thin, suffix=""):
        path.write_bytes(path.read_bytes()[132:])
    same(read_scan(tmp_path), thin)


def test_a_file_of_many_frames(thin: Scan, tmp_path: Path) -> None:
    for sop_class, modality in ((f"{STORAGE}.2.1", "CT"), (f"{STORAGE}.4.1", "MR"), (f"{STORAGE}.7.3", "OT")):
        image = SimpleITK.GetImageFromArray(thin.voxels.astype(np.uint16))
        image.SetSpacing(thin.geometry.spacing)
        image.SetOrigin(thin.geometry.origin)
        image.SetDirection(thin.geometry.direction.ravel().tolist())
        image.SetMetaData("0008|0016", sop_class)
        image.SetMetaData("0008|0060", modality)
        folder = tmp_path / modality
        folder.mkdir()
        writer = SimpleITK.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.SetFileName(str(folder / "IM0001"))
        writer.Execute(image)
        same(read_scan(folder), thin)
        same(read_scan(folder / "IM0001"), thin)
    assert cases(tmp_path) == ["CT", "MR", "OT"]


def test_frames_without_voxel_size(thin: Scan, tmp_path: Path) -> None:
    path = tmp_path / "a.dcm"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(thin.voxels.astype(np.uint16)), str(path))
    data = pydicom.dcmread(path)
    for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        if sequence in data:
            delattr(data, sequence)
    data.save_as(path)
    fails(tmp_path, "scan_spacing")
    fails(path, "scan_spacing")  # named itself, too


def test_several_series_in_a_folder(thin: Scan, small: Scan, tmp_path: Path) -> None:
    folder = tmp_path / "head"
    other = Scan("", None, thin.voxels[:5] // 2, thin.geometry.__class__((50, 60, 5), *_rest(thin)))
    write_series(folder, thin, "1.2.3.9", number="12")
    write_series(folder, other, "1.2.3.5", number="3")
    assert cases(folder) == ["head_s3", "head_s12"]
    for file, expected in zip(find_scans([folder]), (other, thin), strict=True):
        scan = read_scan(file)
        same(scan, expected)
        assert scan.id == file.id and scan.path == folder
    message = fails(folder, "scan_series").message
    assert "number 3: 5 files" in message and "number 12: 8 files" in message
    for rule, expected in (("largest", thin), ("3", other), ("1.2.3.9", thin)):
        (file,) = find_scans([folder], series=rule)
        same(read_scan(file), expected)
    with pytest.raises(ScanError, match="2 scans are left out") as caught:
        find_scans([folder], series="99")
    assert caught.value.code == "scans_none"


def _rest(scan: Scan) -> tuple[Any, Any, Any]:
    return scan.geometry.spacing, scan.geometry.origin, scan.geometry.direction


def test_series_without_numbers_are_numbered(thin: Scan, tmp_path: Path) -> None:
    for uid in ("1.2.8", "1.2.7"):
        write_series(tmp_path / "a", thin, uid)
    found = find_scans([tmp_path])
    assert [(file.id, file.series) for file in found] == [("a_s1", "1.2.7"), ("a_s2", "1.2.8")]


# --- what is no volume --------------------------------------------------------------------------------------


def objects(folder: Path, scan: Scan) -> None:
    """What else is in a patient's folder: a scout, a localizer, a screenshot, a report, a plan, a document."""
    pixels, spacing = scan.voxels[0], scan.geometry.spacing
    lying = {"0020|0032": "0\\0\\0", "0020|0037": "1\\0\\0\\0\\1\\0"}
    write_slice(folder / "scout", pixels, spacing, {"0008|0060": "CT", "0020|000e": "1.9.1", **lying})
    write_series(folder, scan, "1.9.2", suffix="", tags={"0008|0008": "ORIGINAL\\PRIMARY\\LOCALIZER"})
    for n in range(2):
        shot = {"0008|0016": f"{STORAGE}.7", "0008|0060": "OT", "0020|000e": "1.9.3"}
        write_slice(folder / f"shot{n}", pixels, (1, 1), shot)
    kinds = {
        "report": ("88.22", "SR"),
        "plan": ("481.3", "RTSTRUCT"),
        "pdf.dcm": ("104.1", "DOC"),
        "pr": ("11.1", "PR"),
    }
    for name, (sop_class, modality) in kinds.items():
        said = {"0008|0016": f"{STORAGE}.{sop_class}", "0008|0060": modality, "0020|000e": f"1.9.{sop_class}"}
        write_slice(folder / name, pixels, spacing, said)
    for n in range(3):
        write_slice(folder / f"cine{n}", pixels + n, spacing, {"0008|0060": "MR", "0020|000e": "1.9.8", **lying})
    planes = (("x", "1\\0\\0\\0\\1\\0"), ("y", "1\\0\\0\\0\\0\\-1"), ("z", "0\\1\\0\\0\\0\\-1"))
    for name, axes in planes:
        said = {"0008|0060": "MR", "0020|000e": "1.9.9", "0020|0032": "0\\0\\0", "0020|0037": axes}
        write_slice(folder / f"plane_{name}", pixels, spacing, said)


def test_other_objects_are_passed_over(thin: Scan, tmp_path: Path) -> None:
    write_series(tmp_path / "all", thin, suffix="")
    objects(tmp_path / "all", thin)
    assert cases(tmp_path) == ["all"]
    same(read_scan(tmp_path / "all"), thin)


def test_only_other_objects(thin: Scan, tmp_path: Path) -> None:
    folder = tmp_path / "rest"
    folder.mkdir()
    objects(folder, thin)
    kinds = [
        "1 x single slice", "1 x localizer", "1 x secondary capture", "1 x report (SR)", "1 x document (PDF)",
        "1 x radiotherapy object (RT)", "1 x presentation state", "1 x series of planes that are not parallel",
        "1 x series of pictures at one position",
    ]  # fmt: skip
    with pytest.raises(ScanError) as caught:
        find_scans([tmp_path])
    assert caught.value.code == "scans_none"
    read = fails(folder, "scans_none")
    for kind in kinds:
        assert kind in caught.value.message and kind in read.message
    write_series(tmp_path / "ct", thin)
    assert cases(tmp_path) == ["ct"]


def test_a_secondary_capture_with_positions_is_a_volume(thin: Scan, tmp_path: Path) -> None:
    write_series(tmp_path, thin, tags={"0008|0016": f"{STORAGE}.7", "0008|0060": "OT"})
    same(read_scan(tmp_path), thin)


# --- slices that are not a whole, even grid -----------------------------------------------------------------


def places(scan: Scan) -> np.ndarray:
    return scan.geometry.voxel_to_world([[0, 0, k] for k in range(scan.geometry.size[2])])


def test_missing_slices(thin: Scan, tmp_path: Path) -> None:
    paths = write_series(tmp_path, thin)
    paths[4].unlink()
    assert "1 slices are missing, the first after slice 4" in fails(tmp_path, "scan_spacing").message
    paths[3].unlink()
    assert "2 slices are missing" in fails(tmp_path, "scan_spacing").message


def test_copies_of_slices_are_dropped(thin: Scan, tmp_path: Path) -> None:
    paths = write_series(tmp_path, thin)
    for n in (2, 5, 5):
        shutil.copy(paths[n], paths[n].with_name(f"copy{len(list(tmp_path.iterdir()))}.dcm"))
    scan = read_scan(tmp_path)
    same(scan, thin)
    (warning,) = scan.warnings
    assert warning.code == "duplicate_slices" and warning.message.startswith("3 slice(s) were dropped")


def test_different_slices_at_one_position(thin: Scan, tmp_path: Path) -> None:
    where = places(thin)
    where[3] = where[2]
    write_series(tmp_path / "a", Scan("", None, thin.voxels, thin.geometry), positions=where)
    assert fails(tmp_path / "a", "scan_spacing")  # a gap as well
    both = np.concatenate([thin.voxels, thin.voxels[:1] + 1])
    geometry = thin.geometry.__class__((50, 60, 9), *_rest(thin))
    write_series(tmp_path / "b", Scan("", None, both, geometry), positions=[*places(thin), places(thin)[0]])
    assert "2 different slices" in fails(tmp_path / "b", "scan_slices").message


def test_a_tilted_gantry(thin: Scan, tmp_path: Path) -> None:
    along = thin.geometry.direction[:, 1]
    shift = np.tan(np.radians(15)) * thin.geometry.spacing[2]
    where = places(thin) + np.arange(8)[:, None] * shift * along
    write_series(tmp_path, thin, positions=where)
    assert "15.0 degrees" in fails(tmp_path, "scan_tilt").message


def test_jitter(thin: Scan, tmp_path: Path) -> None:
    normal, step = thin.geometry.direction[:, 2], thin.geometry.spacing[2]
    for name, share, code in (("rounded", 0.001, None), ("small", 0.03, "uneven_slices"), ("large", 0.2, "")):
        where = places(thin)
        where[3] += share * step * normal
        write_series(tmp_path / name, thin, positions=where)
        if code == "":
            assert "unevenly spaced" in fails(tmp_path / name, "scan_spacing").message
        else:
            scan = read_scan(tmp_path / name)
            same(scan, thin)
            assert [one.code for one in scan.warnings] == ([code] if code else [])


def test_slices_of_different_shape_spacing_or_direction(thin: Scan, tmp_path: Path) -> None:
    geometry = thin.geometry
    narrow = write_series(tmp_path / "narrow", thin)
    part = Scan("", None, thin.voxels[:, :, :40], geometry.__class__((40, 60, 8), *_rest(thin)))
    shutil.copy(write_series(tmp_path / "x", part)[3], narrow[3])
    assert "size" in fails(tmp_path / "narrow", "scan_slices").message
    finer = write_series(tmp_path / "finer", thin)
    other = geometry.__class__(geometry.size, (0.1, 0.1, geometry.spacing[2]), *_rest(thin)[1:])
    shutil.copy(write_series(tmp_path / "x", Scan("", None, thin.voxels, other))[3], finer[3])
    assert "pixel spacing" in fails(tmp_path / "finer", "scan_slices").message


@pytest.mark.parametrize("keep", [0, 100, 400, 0.5, -1])
@pytest.mark.parametrize("slice_", [0, 4])
def test_a_truncated_slice(thin: Scan, tmp_path: Path, keep: float, slice_: int) -> None:
    path = write_series(tmp_path / "a", thin)[slice_]
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)] if isinstance(keep, float) else data[:keep])
    assert path.name in fails(tmp_path / "a", "scan_truncated").message
    assert cases(tmp_path) == ["a"]


def test_folders_that_are_no_series(thin: Scan, tmp_path: Path) -> None:
    for path in write_series(tmp_path / "nowhere", thin):  # rename the tag of the position
        replace_bytes(path, b"\x20\x00\x32\x00", b"\x20\x00\x33\x00")
    fails(tmp_path / "nowhere", "scan_spacing")
    (tmp_path / "none").mkdir()
    fails(tmp_path / "none", "scans_none")
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "1.dcm").write_bytes(b"x")
    fails(tmp_path / "junk", "scan_truncated")


# --- pixel values -------------------------------------------------------------------------------------------


def test_slices_are_rescaled_each_by_its_own_slope(thin: Scan, tmp_path: Path) -> None:
    """PET: the slope differs from slice to slice and is no whole number."""
    slopes = 1 + np.arange(8) / 8
    large = Scan("", None, thin.voxels.astype(np.int32) * 1000 - 100, thin.geometry)  # is stored as thin's voxels
    paths = write_series(tmp_path, large, tags={"0028|1052": "-100", "0028|1053": "1000"})
    for path, slope in zip(paths, slopes, strict=True):
        tag = b"\x28\x00\x53\x10\x04\x00\x00\x00"
        replace_bytes(path, tag + b"1000", tag + f"{slope:.4f}"[:4].encode())
    scan = read_scan(tmp_path)
    assert scan.voxels.dtype == np.float64
    np.testing.assert_allclose(scan.voxels, thin.voxels * [[[float(f"{s:.4f}"[:4])]] for s in slopes] - 100)


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4"])
def test_number_types(thin: Scan, tmp_path: Path, dtype: str) -> None:
    voxels = (thin.voxels // 2).astype(dtype)
    write_series(tmp_path, Scan("", None, voxels, thin.geometry))
    assert read_scan(tmp_path).voxels.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, voxels)


def test_nothing_is_printed(thin: Scan, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_series(tmp_path / "a", thin)
    objects(tmp_path / "a", thin)
    (tmp_path / "a" / "bad.dcm").write_bytes(bytes(128) + b"DICM" + bytes(range(256)) * 4)
    capfd.readouterr()
    find_scans([tmp_path])
    fails(tmp_path / "a", "scan_truncated")
    assert capfd.readouterr() == ("", "")
