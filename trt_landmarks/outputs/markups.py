"""Results as 3D Slicer markups: one ``.mrk.json`` file for each case (schema 1.0.3, LPS mm).

A file holds one point list, named by the case, with its landmarks in the task's order; and a line or an angle for each
measurement of that kind, so that Slicer shows its value.  All measurements, with their uncertainties, are also listed
with the point list.

A landmark outside its scan is ``undefined``, which Slicer does not show: its position is a guess.  (The schema knows
``undefined``, ``preview`` and ``defined``.)  :func:`trt_landmarks.data.annotations.read_landmarks` reads the files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trt_landmarks.data.annotations import Json, control_point, markup, markups_text, write_markups
from trt_landmarks.outputs.marks import INDEPENDENT, Colour
from trt_landmarks.results.case import CaseResult, Landmark, Measurement

_MEASURED: Colour = (0.9, 0.9, 0.9)
_UCUM = {"mm": "mm", "degree": "deg"}


def write_case(path: str | Path, case: CaseResult) -> None:
    """Write a case's file; it appears whole or not at all.

    Args:
        path: file to write, ending in ``.mrk.json``.
        case: a case with landmarks.

    Raises:
        LandmarkFileError: if the file cannot be written.
    """
    write_markups(path, _markups(case))


def case_text(case: CaseResult) -> str:
    """The content of a case's file."""
    return markups_text(_markups(case))


def _markups(case: CaseResult) -> list[Json]:
    points = [_point(number, mark) for number, mark in enumerate(case.landmarks, start=1)]
    measured = {"measurements": [_measurement(one) for one in case.measurements]} if case.measurements else {}
    lists = [_coloured("Fiducial", case.id, points, INDEPENDENT) | measured]
    marks_by_name = {mark.name: mark for mark in case.landmarks}
    kinds = {"distance": "Line", "angle": "Angle"}
    for one in case.measurements:
        if one.type in kinds and one.value is not None and one.status != "outside_scan":
            points = [_point(number, marks_by_name[name]) for number, name in enumerate(one.points, start=1)]
            lists.append(_coloured(kinds[one.type], one.name, points, _MEASURED))
    return lists


def _point(number: int, mark: Landmark) -> Json:
    said = f"{mark.status.replace('_', ' ')}, confidence {mark.confidence:.3f}"
    error = mark.expected_error_mm
    if error is not None:
        said += f", expected error {error:.2f} mm"
    position = np.asarray(mark.position_lps_mm)
    return control_point(number, mark.name, position, said, mark.status != "outside_scan")


def _coloured(type: str, name: str, points: list[Json], colour: Colour) -> Json:
    display = {
        "visibility": True,
        "color": list(colour),
        "selectedColor": list(colour),
        "propertiesLabelVisibility": type != "Fiducial",
        "pointLabelsVisibility": type == "Fiducial",
    }
    return markup(type, points, name=name, display=display)


def _measurement(one: Measurement) -> Json:
    said = f"{one.type} of {', '.join(one.points)}; {one.status.replace('_', ' ')}"
    if one.uncertainty is not None:
        said += f"; standard deviation {one.uncertainty:.3g} {one.unit}"
    value = {} if one.value is None else {"value": one.value}
    unit = _UCUM[one.unit]
    return {"name": one.name, "enabled": True, **value, "units": unit, "description": said, "printFormat": "%.2f %s"}
