"""Slicer's files: what its schema asks for, what our own reader makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jsonschema import Draft7Validator

from tests.outputs.conftest import place
from trt_landmarks.data.annotations import read_landmarks
from trt_landmarks.outputs.markups import write_case
from trt_landmarks.results.case import CaseResult

TEXT, FLAG, NUMBER = {"type": "string"}, {"type": "boolean"}, {"type": "number"}


def numbers(count: int, **bounds: float) -> dict[str, Any]:
    return {"type": "array", "items": NUMBER | bounds, "minItems": count, "maxItems": count}


#: What Slicer's markups schema 1.0.3 says of the properties that are written; any other property is a mistake here.
POINT = {
    "id": TEXT, "label": TEXT, "description": TEXT, "associatedNodeID": TEXT, "position": numbers(3),
    "orientation": numbers(9), "selected": FLAG, "locked": FLAG, "visibility": FLAG,
    "positionStatus": {"enum": ["undefined", "preview", "defined"]},
}  # fmt: skip
DISPLAY = {
    "visibility": FLAG, "color": numbers(3, minimum=0, maximum=1), "selectedColor": numbers(3, minimum=0, maximum=1),
    "propertiesLabelVisibility": FLAG, "pointLabelsVisibility": FLAG,
}  # fmt: skip
MEASUREMENT = {
    "name": TEXT, "enabled": FLAG, "value": NUMBER, "units": TEXT, "description": TEXT, "printFormat": TEXT,
}  # fmt: skip


def closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False, "required": required}


MARKUP = {
    "type": {"enum": ["Fiducial", "Line", "Angle", "Curve", "ClosedCurve", "Plane", "ROI"]}, "name": TEXT,
    "coordinateSystem": {"enum": ["LPS", "RAS"]}, "coordinateUnits": {"enum": ["mm", "um"]}, "locked": FLAG,
    "fixedNumberOfControlPoints": FLAG, "labelFormat": TEXT, "lastUsedControlPointNumber": {"type": "integer"},
    "controlPoints": {"type": "array", "items": closed(POINT)}, "display": closed(DISPLAY),
    "measurements": {"type": "array", "items": closed(MEASUREMENT, "name")},
}  # fmt: skip
NAME = {"pattern": r"markups-schema-v1\.0\.3\.json#$"}
SCHEMA = closed({"@schema": NAME, "markups": {"type": "array", "items": closed(MARKUP, "type")}}, "@schema", "markups")


def written(case: CaseResult, tmp_path: Path) -> list[dict[str, Any]]:
    path = tmp_path / "c.mrk.json"
    write_case(path, case)
    content = json.loads(path.read_text(encoding="utf-8"))
    Draft7Validator(SCHEMA).validate(content)
    return content["markups"]  # type: ignore[no-any-return]


def test_one_list_named_by_the_case_in_the_order_of_the_task(case: CaseResult, tmp_path: Path) -> None:
    (points,) = [one for one in written(case, tmp_path) if one["type"] == "Fiducial"]
    assert points["name"] == case.id and points["coordinateSystem"] == "LPS"
    assert [point["label"] for point in points["controlPoints"]] == [mark.name for mark in case.landmarks]
    first, *_, doubtful, outside = points["controlPoints"]
    assert first["description"] == "located, confidence 0.900"
    assert doubtful["description"].startswith("low confidence") and doubtful["positionStatus"] == "defined"
    assert outside["positionStatus"] == "undefined" and outside["description"].startswith("outside scan")


def test_our_reader_gives_the_landmarks_back(case: CaseResult, tmp_path: Path) -> None:
    write_case(tmp_path / "c.mrk.json", case)
    read = read_landmarks(tmp_path / "c.mrk.json")
    assert sorted(read) == ["a", "b", "c", "d $x_1$"]  # what is outside is not there
    for name, point in read.items():
        np.testing.assert_array_equal(point, place(name))


def test_measurements_are_shown_and_listed(case: CaseResult, tmp_path: Path) -> None:
    markups = written(case, tmp_path)
    shown = {one["name"]: one for one in markups if one["type"] in ("Line", "Angle")}
    assert {name: one["type"] for name, one in shown.items()} == {"length": "Line", "opening": "Angle"}
    assert [point["label"] for point in shown["opening"]["controlPoints"]] == ["a", "b", "d $x_1$"]
    listed = {one["name"]: one for one in markups[0]["measurements"]}
    assert list(listed) == ["length", "opening", "height", "far", "none"]
    assert listed["length"]["value"] == 16.1245 and listed["opening"]["units"] == "deg"
    assert "standard deviation 0.25 mm" in listed["length"]["description"]
    assert "value" not in listed["none"] and "undefined" in listed["none"]["description"]


def test_an_expected_error_is_told(case: CaseResult, tmp_path: Path) -> None:
    object.__setattr__(case.landmarks[0], "expected_error_mm", 0.125)
    assert written(case, tmp_path)[0]["controlPoints"][0]["description"].endswith("expected error 0.12 mm")
