"""Results as DICOM structured reports: Comprehensive 3D SR after TID 1500, in the study of the scan.

Each landmark is a planar ROI group: a SCOORD3D point in the scan's Frame of Reference, a tracking identifier (the
landmark's name, and a UID that is the same whenever the same model reads the same series), its status, and what is
known of its error as measurements in mm.  Landmarks outside the scan are left out: their positions are guesses.  A scan
that does not show the anatomy gets no report.

Names of landmarks are codes of a private scheme, :data:`SCHEME`, with the landmark's name as the meaning.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_landmarks import __version__
from trt_landmarks.errors import PredictionsError, ScanError
from trt_landmarks.files import replacing
from trt_landmarks.localization.case import NOT_THIS_ANATOMY
from trt_landmarks.results.case import CaseResult, Landmark
from trt_landmarks.scan import ScanFile
from trt_landmarks.scan.dicom import series_files

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

#: Coding scheme of what no public scheme has a code for.
SCHEME = "99TRTLM"
#: Root of UIDs that are made from a hash (DICOM PS3.5, annex B.2).
_ROOT = "2.25."
#: What a report repeats of patient and study, and may be empty there (type 2).
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
_ERRORS = {
    "expected_error_mm": ("expected-error", "Expected error of the position"),
    "error_90_mm": ("error-90", "Bound that 90 percent of such errors keep"),
}


def write_report(path: str | Path, case: CaseResult, file: ScanFile, model: str, sha256: str) -> None:
    """Write the report of a case; it appears whole or not at all.

    Args:
        path: file to write.
        case: a case with landmarks.
        file: its scan, a DICOM series.
        model: the model's name.
        sha256: the model's digest.

    Raises:
        ScanError: if the scan is no DICOM series, or has no Frame of Reference, does not show the anatomy, or no
            landmark lies inside it.
        PredictionsError: if the file cannot be written.
    """
    report = make_report(case, _headers(file), model, sha256)
    with replacing(path, PredictionsError) as stream:
        report.save_as(stream, enforce_file_format=True)


def check_sources(files: Sequence[ScanFile]) -> None:
    """Refuse scans that are no DICOM series, before anything is computed.

    Raises:
        ScanError: naming the first one.
    """
    for file in files:
        series_files(file)


def make_report(case: CaseResult, headers: Sequence[Dataset], model: str, sha256: str) -> Any:
    """The report of a case as a data set; see :func:`write_report`.

    Args:
        case: a case with landmarks.
        headers: of all objects of the scan's series.
        model: the model's name.
        sha256: the model's digest.
    """
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    first = headers[0]
    frame = str(first.get("FrameOfReferenceUID", ""))
    if not frame:
        raise ScanError(f"{case.path}: the series has no Frame of Reference.", "Export it again.", code="scan_no_frame")
    if any(warning.code == NOT_THIS_ANATOMY for warning in case.warnings):
        message = f"{case.path}: does not look like a scan of the model {model}."
        raise ScanError(message, "Rely on none of its landmarks.", code=NOT_THIS_ANATOMY)
    marks = [mark for mark in case.landmarks if mark.status != "outside_scan"]
    if not marks:
        raise ScanError(f"{case.path}: no landmark lies inside the scan.", code="scan_no_landmarks")
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=_uid("trtlm", sha256), name="trtlm", manufacturer_name="trt-landmarks", model_name=model[:64],
        serial_number=sha256[:16],
    )  # fmt: skip
    observer = sr.ObserverContext(codes.DCM.Device, device)
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_code("landmark-localization", "Localization of anatomical landmarks"),
        imaging_measurements=[_group(mark, frame, str(first.SeriesInstanceUID), sha256) for mark in marks],
        title=codes.DCM.ImagingMeasurementReport,
    )
    return sr.Comprehensive3DSR(
        evidence=list(headers), content=report, series_instance_uid=generate_uid(), series_number=9000,
        sop_instance_uid=generate_uid(), instance_number=1, manufacturer="trt-landmarks", is_complete=True,
        is_final=False, manufacturer_model_name="trtlm", software_versions=__version__,
        series_description=f"Landmarks: {model}"[:64],
    )  # fmt: skip


def _group(mark: Landmark, frame: str, series: str, sha256: str) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    values = [(_code(*_ERRORS[name]), getattr(mark, name)) for name in _ERRORS if getattr(mark, name) is not None]
    values.append((_code("confidence", "Probability that the error is not large"), mark.confidence))
    units = [codes.UCUM.Millimeter] * (len(values) - 1) + [codes.UCUM.NoUnits]
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(_uid(series, sha256, mark.name), mark.name),
        referenced_region=sr.ImageRegion3D(
            sr.GraphicTypeValues3D.POINT, np.array([mark.position_lps_mm], np.float64), frame
        ),
        finding_type=_code(mark.name, mark.name),
        measurements=[
            sr.Measurement(name=name, value=float(value), unit=unit)
            for (name, value), unit in zip(values, units, strict=True)
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(_code("status", "Status of the position"), _code(mark.status, mark.status))
        ],
    )


def _code(value: str, meaning: str) -> Any:
    from highdicom.sr import CodedConcept

    short = value if len(value) <= 16 else hashlib.sha256(value.encode()).hexdigest()[:16]
    return CodedConcept(short, SCHEME, meaning[:64])


def _uid(*parts: str) -> str:
    return _ROOT + str(int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:16], "big"))


def _headers(file: ScanFile) -> list[Dataset]:
    import pydicom

    headers: list[Dataset] = [pydicom.dcmread(path, stop_before_pixels=True) for path in series_files(file)]
    for header in headers:
        for name in _MAY_BE_EMPTY:
            if name not in header:
                setattr(header, name, "")
    return headers
