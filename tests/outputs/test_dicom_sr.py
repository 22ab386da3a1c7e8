"""DICOM structured reports: read back by highdicom, the points, errors and identities are those of case and series."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from tests.scan.dicom_writing import write_series
from trt_landmarks.errors import ScanError
from trt_landmarks.outputs.dicom_sr import check_sources, write_report
from trt_landmarks.results.case import CaseResult, CaseWarning
from trt_landmarks.scan import Scan, ScanFile

#: Of a patient, a study and a frame, and what a report needs of them.
TAGS = {
    "0010|0010": "Test^Person", "0010|0020": "P-17", "0010|0030": "19700101", "0010|0040": "O", "0008|0020": "20261126",
    "0008|0030": "101112", "0008|0050": "A1", "0020|0010": "S1", "0020|0052": "1.2.3.9", "0008|0090": "Doe^J",
}  # fmt: skip


def series(folder: Path, scan: Scan, **tags: str) -> ScanFile:
    voxels = (scan.voxels * 1000).astype(np.int16)
    write_series(folder, replace(scan, voxels=voxels), tags=TAGS | tags)
    return ScanFile("case one", folder)


@pytest.fixture
def known(case: CaseResult) -> CaseResult:
    """A case whose first landmark has an expected error."""
    first = replace(case.landmarks[0], expected_error_mm=0.75, error_90_mm=1.5)
    return replace(case, landmarks=(first, *case.landmarks[1:]))


def test_the_report_says_what_the_case_does_in_the_study_of_the_scan(
    known: CaseResult, scan: Scan, tmp_path: Path
) -> None:
    from highdicom.sr import GraphicTypeValues3D, srread

    file = series(tmp_path / "series", scan)
    path = tmp_path / "case one.dcm"
    write_report(path, known, file, "mouse-skull", "ab" * 32)
    source = pydicom.dcmread(next((tmp_path / "series").iterdir()))
    report: Any = srread(path)
    assert report.SOPClassUID == pydicom.uid.Comprehensive3DSRStorage and report.Modality == "SR"
    for name in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert report[name].value == source[name].value, name
    assert report.SeriesInstanceUID != source.SeriesInstanceUID
    listed = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert len(listed) == scan.geometry.size[2]

    groups = report.content.get_planar_roi_measurement_groups(graphic_type=GraphicTypeValues3D.POINT)
    shown = [mark for mark in known.landmarks if mark.status != "outside_scan"]
    assert [group.tracking_identifier for group in groups] == [mark.name for mark in shown]
    assert len({group.tracking_uid for group in groups}) == len(shown)
    for group, mark in zip(groups, shown, strict=True):
        np.testing.assert_allclose(group.roi.value, [mark.position_lps_mm], atol=1e-4)  # they are 32 bits
        assert group.roi.frame_of_reference_uid == "1.2.3.9"
        assert group.finding_type.meaning == mark.name and group.finding_type.scheme_designator == "99TRTLM"
        (status,) = group.get_qualitative_evaluations()
        assert status.value.meaning == mark.status
    values = {one.name.value: (one.value, one.unit.value) for one in groups[0].get_measurements()}
    assert values == {"expected-error": (0.75, "mm"), "error-90": (1.5, "mm"), "confidence": (0.9, "1")}

    again = tmp_path / "again.dcm"
    write_report(again, known, file, "mouse-skull", "ab" * 32)
    second: Any = srread(again)
    uids = [group.tracking_uid for group in second.content.get_planar_roi_measurement_groups()]
    assert uids == [group.tracking_uid for group in groups] and second.SOPInstanceUID != report.SOPInstanceUID


def test_what_can_have_no_report(known: CaseResult, scan: Scan, scan_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ScanError) as refused:
        check_sources([ScanFile("one", scan_file)])
    assert refused.value.code == "scan_not_dicom"
    lost = series(tmp_path / "lost", scan, **{"0020|0052": ""})
    for path in (tmp_path / "lost").iterdir():
        data = pydicom.dcmread(path)
        data.pop("FrameOfReferenceUID", None)
        data.save_as(path)
    with pytest.raises(ScanError) as refused:
        write_report(tmp_path / "x.dcm", known, lost, "m", "ab" * 32)
    assert refused.value.code == "scan_no_frame" and not (tmp_path / "x.dcm").exists()
    outside = replace(known, landmarks=tuple(replace(mark, status="outside_scan") for mark in known.landmarks))
    with pytest.raises(ScanError) as refused:
        write_report(tmp_path / "x.dcm", outside, series(tmp_path / "s", scan), "m", "ab" * 32)
    assert refused.value.code == "scan_no_landmarks"
    other = replace(known, warnings=(CaseWarning("not_this_anatomy", "something else"),))
    with pytest.raises(ScanError) as refused:
        write_report(tmp_path / "x.dcm", other, ScanFile("case one", tmp_path / "s"), "m", "ab" * 32)
    assert refused.value.code == "not_this_anatomy"


def test_a_series_that_says_almost_nothing_gives_a_report_or_a_reason(
    known: CaseResult, scan: Scan, tmp_path: Path
) -> None:
    file = series(tmp_path / "bare", scan)
    for path in (tmp_path / "bare").iterdir():
        data = pydicom.dcmread(path)
        for name in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
                     "AccessionNumber", "ReferringPhysicianName"):  # fmt: skip
            data.pop(name, None)
        data.save_as(path)
    write_report(tmp_path / "x.dcm", known, file, "m", "ab" * 32)
    assert pydicom.dcmread(tmp_path / "x.dcm").PatientID in ("", None)
