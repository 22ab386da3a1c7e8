"""DICOM files of many frames, one series in several folders, scouts, transfer syntaxes, names and units."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    generate_uid,
)

from tests.scan_files import fails
from trt_landmarks.results.case import CaseResult
from trt_landmarks.scan import find_scans, read_scan

VOXELS = (np.indices((10, 12, 8)).sum(0) % 97).astype(np.int16)  # [k, j, i]
Z = np.arange(10.0)


def dataset(sop_class: str, series: str, syntax: Any) -> Dataset:
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = UID(sop_class), generate_uid()
    data.StudyInstanceUID = data.SeriesInstanceUID = UID(series)
    data.Modality, data.SeriesNumber, data.ImageType = "MR", 1, ["ORIGINAL", "PRIMARY"]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = VOXELS.shape[1:]
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = (
        UID(sop_class),
        data.SOPInstanceUID,
    )
    return data


def item(**values: Any) -> list[Dataset]:
    data = Dataset()
    for name, value in values.items():
        setattr(data, name, value)
    return [data]


AXIAL = [1.0, 0, 0, 0, 1, 0]


def enhanced(
    path: Path,
    places: Sequence[Sequence[float]],
    axes: Callable[[int], list[float]] = lambda n: AXIAL,
    slope: Callable[[int], float] = lambda n: 1.0,
    mm: float = 1.0,
) -> Path:
    """A file whose frame n shows slice n of the voxels, modulo their number."""
    data = dataset(EnhancedMRImageStorage, generate_uid(), ExplicitVRLittleEndian)
    data.NumberOfFrames = len(places)
    data.SharedFunctionalGroupsSequence = item(PixelMeasuresSequence=item(PixelSpacing=[mm, mm], SliceThickness=mm))
    data.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=item(ImagePositionPatient=[float(x) for x in place]),
            PlaneOrientationSequence=item(ImageOrientationPatient=axes(n)),
            PixelValueTransformationSequence=item(RescaleSlope=slope(n), RescaleIntercept=0, RescaleType="US"),
        )[0]
        for n, place in enumerate(places)
    ]
    data.PixelData = np.stack([VOXELS[n % len(VOXELS)] for n in range(len(places))]).astype("<i2").tobytes()
    dcmwrite(path, data, enforce_file_format=True)
    return path


def at(heights: Sequence[float] | Any, lean: float = 0.0) -> list[tuple[float, float, float]]:
    return [(-20.0, lean * z - 30, z + 7) for z in heights]


SHUFFLED = np.random.default_rng(0).permutation(Z)


@pytest.mark.parametrize(
    ("places", "origin", "order"),
    [
        (at(Z), (-20, -30, 7), Z),
        ([(0, 0, z) for z in Z], (0, 0, 0), Z),
        (at(Z[::-1]), (-20, -30, 7), Z[::-1]),
        (at(SHUFFLED), (-20, -30, 7), SHUFFLED),
    ],
    ids=["plain", "1 mm at origin 0", "top down", "shuffled"],
)
def test_frames_are_placed_and_sorted(tmp_path: Path, places: Any, origin: Any, order: Any) -> None:
    scan = read_scan(enhanced(tmp_path / "a.dcm", places))
    assert scan.geometry.origin == origin and scan.geometry.spacing == (1, 1, 1)
    np.testing.assert_array_equal(scan.voxels, VOXELS[np.argsort(order)])


def test_frames_are_scaled_each_by_its_own_slope(tmp_path: Path) -> None:
    scan = read_scan(enhanced(tmp_path / "a.dcm", at(Z), slope=lambda n: 1.0 + n % 3))
    np.testing.assert_allclose(scan.voxels, VOXELS * (1 + np.arange(10) % 3)[:, None, None])


@pytest.mark.parametrize(
    ("places", "axes", "mm", "code"),
    [
        (at(np.delete(Z, [4, 5])), None, 1, "scan_spacing"),
        ([(-20, -30, z / 2) for z in np.delete(Z, [4, 5])], None, 0.5, "scan_spacing"),
        (at(np.where(Z < 5, Z, 2 * Z - 5)), None, 1, "scan_spacing"),
        (at(Z, np.tan(np.radians(15))), None, 1, "scan_tilt"),
        (at(np.r_[Z[:5], Z[:5]]), None, 1, "scan_slices"),
        (at(Z), lambda n: AXIAL if n < 5 else [1.0, 0, 0, 0, 0, -1], 1, "scan_slices"),
    ],
    ids=["missing", "missing at half a mm", "uneven", "tilted", "two times", "two planes"],
)
def test_frames_that_are_no_grid_are_refused(tmp_path: Path, places: Any, axes: Any, mm: float, code: str) -> None:
    fails(enhanced(tmp_path / "a.dcm", places, axes or (lambda n: AXIAL), mm=mm), code)


def series(folder: Callable[[int], Path], syntax: str = ExplicitVRLittleEndian, scout: bool = False) -> None:
    uid = generate_uid()
    for k in range(-1 if scout else 0, len(VOXELS)):
        data = dataset(CTImageStorage, uid, syntax)
        data.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if k < 0 else "AXIAL"]
        data.ImagePositionPatient, data.PixelSpacing = [0, 0, k], [1, 1]
        data.ImageOrientationPatient = [1, 0, 0, 0, 0, -1] if k < 0 else AXIAL
        data.RescaleSlope, data.RescaleIntercept = 1, 0
        data.PixelData = VOXELS[k].astype(">i2" if syntax == ExplicitVRBigEndian else "<i2").tobytes()
        data["PixelData"].VR = "OW"
        folder(k).mkdir(parents=True, exist_ok=True)
        dcmwrite(folder(k) / f"{k + 1:03}.dcm", data, enforce_file_format=True)


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_transfer_syntaxes(tmp_path: Path, syntax: str) -> None:
    series(lambda k: tmp_path / "s", syntax)
    np.testing.assert_array_equal(read_scan(tmp_path / "s").voxels, VOXELS)


def test_a_scout_under_the_same_series_is_left_out_with_a_warning(tmp_path: Path) -> None:
    series(lambda k: tmp_path / "s", scout=True)
    (file,) = find_scans([tmp_path])
    scan = read_scan(file)
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert [warning.code for warning in scan.warnings] == ["localizer_left_out"]


@pytest.mark.parametrize("per_folder", [1, 5])
def test_a_series_in_several_folders_is_one_scan(tmp_path: Path, per_folder: int) -> None:
    series(lambda k: tmp_path / "head" / f"D{k // per_folder}")
    (file,) = find_scans([tmp_path])
    assert file.id == "head"
    np.testing.assert_array_equal(read_scan(file).voxels, VOXELS)


def nrrd(path: Path, *fields: str) -> Path:
    head = ["NRRD0004", "type: short", "dimension: 3", "sizes: 8 12 10", "endian: little", "encoding: raw", *fields]
    path.write_bytes("\n".join([*head, "", ""]).encode() + VOXELS.tobytes())
    return path


SPACE = "space: left-posterior-superior", "space directions: (35,0,0) (0,35,0) (0,0,70)", "space origin: (0,1000,0)"


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("microns", 1e-3), ("\u00b5m", 1e-3), ("cm", 10), ("", 1)])
def test_units_of_nrrd(tmp_path: Path, unit: str, factor: float) -> None:
    scan = read_scan(nrrd(tmp_path / "a.nrrd", *SPACE, "space units: " + " ".join([f'"{unit}"'] * 3)))
    np.testing.assert_allclose(scan.geometry.spacing, np.array([35, 35, 70]) * factor)
    np.testing.assert_allclose(scan.geometry.origin, [0, 1000 * factor, 0])
    assert not scan.warnings


@pytest.mark.parametrize("units", ['"furlong" "furlong" "furlong"', '"mm" "mm" "um"'])
def test_unknown_units_of_nrrd(tmp_path: Path, units: str) -> None:
    fails(nrrd(tmp_path / "a.nrrd", *SPACE, f"space units: {units}"), "scan_units")


def test_files_that_state_no_orientation_say_so(tmp_path: Path) -> None:
    assert [w.code for w in read_scan(nrrd(tmp_path / "a.nrrd", "spacings: 1 1 1")).warnings] == ["no_orientation"]
    packed = zlib.compress(VOXELS.tobytes())
    scan = read_scan(meta(tmp_path / "a.mha", f"CompressedDataSize = {len(packed)}\n", packed))
    assert [w.code for w in scan.warnings] == ["no_orientation"]
    np.testing.assert_array_equal(scan.voxels, VOXELS)


def meta(path: Path, size: str, data: bytes) -> Path:
    head = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = True\n"
    head += size + "ElementSpacing = 1 1 1\nDimSize = 8 12 10\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    path.write_bytes(head.encode() + data)
    return path


@pytest.mark.parametrize("size", ["", "CompressedDataSize = 0\n", "CompressedDataSize = 100\n"])
def test_a_wrong_size_of_compressed_voxels_is_refused(tmp_path: Path, size: str) -> None:
    """MetaIO would give memory as it was."""
    fails(meta(tmp_path / "a.mha", size, zlib.compress(VOXELS.tobytes(), 0)), "scan_truncated")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_names_that_are_not_utf_8(small: Any, tmp_path: Path, suffix: str) -> None:
    """The C++ reader would end the process."""
    from trt_landmarks.scan import write_scan

    write_scan(small, tmp_path / f"a{suffix}")
    folder = os.fsencode(tmp_path) + b"/M\xfcller"
    os.mkdir(folder)
    os.rename(tmp_path / f"a{suffix}", folder + b"/Sch\xe4del" + suffix.encode())
    (file,) = find_scans([tmp_path])
    assert file.id == "Sch\\xe4del" and "M\\xfcller" in file.shown
    np.testing.assert_array_equal(read_scan(file).voxels, small.voxels)
    json.dumps(CaseResult(file.id, file.shown).to_dict(), ensure_ascii=False).encode()


def test_positions_beyond_sense_are_refused(tmp_path: Path) -> None:
    far = SPACE[0], "space directions: (1,0,0) (0,1,0) (0,0,1)", "space origin: (1e305,0,0)"
    fails(nrrd(tmp_path / "a.nrrd", *far), "scan_origin")
    fails(nrrd(tmp_path / "b.nrrd", SPACE[0], "space directions: (1e-9,0,0) (0,1,0) (0,0,1)"), "scan_spacing")
