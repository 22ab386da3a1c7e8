"""The results file: what is written fits its published schema, and what is read is checked."""

import copy
import json
import os
import subprocess
import sys

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_landmarks.errors import PredictionsError
from trt_landmarks.results.case import CaseError, CaseResult, CaseWarning, KeySlice, Landmark, Measurement, Pose
from trt_landmarks.results.predictions import SCHEMA_FILE, Predictions, predictions_schema, read_predictions

SCHEMA = json.loads(SCHEMA_FILE.read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def mark(*fields):
    return Landmark(*fields)


POSE = Pose(((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)), 24, 2)


def example():
    marks = (
        mark("1", "located", (1.0000049, -2.5, -1e-9), (10, 20, 30), 0.98765432,
             np.float64(0.1234567), 0.3),
        mark("2", "outside_scan", (5.5, 6.5, 7.5), (-3.0, 2.0, 1.0), 0.0),
    )  # fmt: skip
    measured = (
        Measurement("length", "distance", ("1", "2"), 9.25, "mm", 0.1234567, "outside_scan"),
        Measurement("tilt", "angle-of-lines", ("1", "2", "1", "3"), None, "degree", None, "undefined"),
    )
    slices = (
        KeySlice("midsagittal", "left-right", 0.123456789, (0.1, 0.2, 0.3), (1.0, 0.0, 0.0)),
        KeySlice("other", "superior-inferior", -4),
    )
    return Predictions(
        task="mouse-skull",
        model={"name": "mouse-skull-small", "path": "models/m", "sha256": "ab" * 32, "version": 3},
        engine={"name": "onnxruntime", "precision": "fp32", "provider": "CPUExecutionProvider", "note": None},
        cases=[
            CaseResult("a", "scans/a.nii.gz", timing_ms={"read": 12.34567, "total": 99}, landmarks=marks,
                       key_slices=slices, warnings=(CaseWarning("scan_slices", "2 slices are stored twice."),),
                       measurements=measured, pose=POSE),
            CaseResult("b", "scans/b.nii.gz", "failed", CaseError("scan_truncated", "scans/b.nii.gz: ends early.")),
        ],
    )  # fmt: skip


def test_the_schema_is_that_of_the_records():
    assert predictions_schema() == SCHEMA, "make schemas"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_written_file_fits_the_schema_and_reads_back(tmp_path):
    path = tmp_path / "preds.json"
    example().write(path)
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    VALIDATOR.validate(content)
    assert read_predictions(path) == example()
    assert [file.name for file in tmp_path.iterdir()] == ["preds.json"]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_the_file_is_the_plain_data_as_json(tmp_path, count):
    result = example()
    result.cases = result.cases[:count]
    result.write(tmp_path / "preds.json")
    text = json.dumps(result.to_dict(), indent=1, ensure_ascii=False) + "\n"
    assert (tmp_path / "preds.json").read_text(encoding="utf-8") == text


def test_a_file_from_before_there_were_warnings_and_measurements_is_read(tmp_path):
    content = example().to_dict()
    for case in content["cases"]:
        del case["warnings"], case["measurements"]
    path = tmp_path / "preds.json"
    path.write_text(json.dumps(content))
    assert not any(case.warnings or case.measurements for case in read_predictions(path).cases)


def test_errors_that_are_not_known_may_be_null(tmp_path):
    content = change((*MARK, "expected_error_mm"), None)
    VALIDATOR.validate(content)
    (tmp_path / "p.json").write_text(json.dumps(content))
    assert read_predictions(tmp_path / "p.json") == example()


def test_names_that_are_not_utf_8_come_back(tmp_path):
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    path = f"scans/{name}.nii"
    case = CaseResult(name, path, "failed", CaseError("scan_truncated", f"{path}: ends early."))
    Predictions("t", {"name": "m"}, {"name": "e"}, [case]).write(tmp_path / "p.json")
    assert read_predictions(tmp_path / "p.json").cases == [case]


def test_numbers_are_rounded_and_plain():
    case = example().to_dict()["cases"][0]
    first = case["landmarks"][0]
    assert first["position_lps_mm"] == [1.0, -2.5, 0.0]
    assert str(first["position_lps_mm"][2]) == "0.0"  # not -0.0
    assert first["voxel_ijk"] == [10.0, 20.0, 30.0]
    assert first["confidence"] == 0.98765
    assert type(first["confidence"]) is float
    assert (first["expected_error_mm"], first["error_90_mm"]) == (0.12346, 0.3)
    assert "expected_error_mm" not in case["landmarks"][1]  # not known
    assert case["timing_ms"] == {"read": 12.346, "total": 99.0}
    assert case["key_slices"][0]["position_mm"] == 0.12346
    assert "point_lps_mm" not in case["key_slices"][1]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: mark("m", "found", (0, 0, 0), (0, 0, 0), 1), " should"),
        (lambda: mark("m", "located", (0, 0, np.nan), (0, 0, 0), 1), " should"),
        (lambda: mark("m", "located", (0, 0), (0, 0, 0), 1), "Field required"),
        (lambda: mark("m", "located", (0, 0, 0), (0, 0, "1"), 1), " should"),
        (lambda: mark("m", "located", (0, 0, 0), (0, 0, 0), 1.1), "is 1.1, not between 0 and 1"),
        (lambda: mark("", "located", (0, 0, 0), (0, 0, 0), 1), " should"),
        (lambda: mark("m", "located", (0, 0, 0), (0, 0, 0), 1, -0.1), "is -0.1, below 0"),
        (lambda: mark("m", "located", (0, 0, 0), (0, 0, 0), 1, 0, float("inf")), " should"),
        (lambda: KeySlice("g", "x", 0), " should"),  # type: ignore[arg-type]
        (lambda: KeySlice("g", "left-right", float("inf")), " should"),
        (lambda: KeySlice("g", "left-right", 0, (0, 0, 10**400)), " should"),
        (lambda: Measurement("m", "area", ("1",), 1, "mm2", None, "measured"), " should"),  # type: ignore[arg-type]
        (lambda: Measurement("m", "distance", ("1",), 1, "mm", None, "measured"), "is of 2 points and in mm"),
        (lambda: Measurement("m", "distance", ("1", "2"), 1, "cm", None, "measured"), " should"),  # type: ignore[arg-type]
        (lambda: Measurement("m", "distance", ("1", "2"), 1, "mm", None, "located"), " should"),  # type: ignore[arg-type]
        (lambda: Measurement("m", "distance", ("1", "2"), None, "mm", None, "measured"), "any other has one"),
        (lambda: Measurement("m", "distance", ("1", "2"), np.nan, "mm", None, "measured"), " should"),
        (lambda: Measurement("m", "distance", ("1", "2"), -1, "mm", None, "measured"), "below 0"),
        (lambda: Measurement("m", "distance", ("1", "2"), None, "mm", 1, "undefined"), "but no value"),
        (lambda: CaseWarning("", "m"), " should"),
        (lambda: CaseResult("a", "p", "failed"), "a failed case has an error"),
        (lambda: CaseResult("a", "p", "ok", CaseError("c", "m")), "an ok case has none"),
        (lambda: CaseResult("a", "p", timing_ms={"read": np.nan}), "timing_ms.read"),
        (lambda: CaseResult("a", "p", landmarks=example().cases[0].landmarks * 2), "landmark '1' occurs twice"),
    ],
)
def test_results_that_make_no_sense_cannot_be_made(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_two_cases_of_one_name_are_not_written():
    with pytest.raises(PredictionsError, match="case 'a' occurs twice"):
        Predictions("t", {}, {}, [CaseResult("a", "p")] * 2).to_dict()


def test_a_confidence_just_above_one_is_rounding():
    assert Landmark("m", "located", (0, 0, 0), (0, 0, 0), 1.000001).confidence == 1.0


def change(path, value):
    """The example with one field replaced; a value of ... removes it."""
    content = example().to_dict()
    at = content
    for key in path[:-1]:
        at = at[key]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return content


CASE, MARK = ("cases", 0), ("cases", 0, "landmarks", 1)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("schema_version",), "2", "schema_version is '2'"),
        (("schema_version",), ..., "lacks schema_version"),
        (("task",), 3, "task: is not a text"),
        (("model",), [], "model: has no name"),
        (("model", "name"), ..., "model: has no name"),
        (("engine",), None, "engine: has no name"),
        (("cases",), {}, "cases: is not a list"),
        (("more",), 1, "unknown key more"),
        ((*CASE, "id"), "b", "case 'b' occurs twice"),
        ((*CASE, "path"), ..., r"cases\.0: lacks path"),
        ((*CASE, "status"), "failed", r"cases\.0: .*'a'.*: a failed case has an error"),
        ((*CASE, "error"), {"code": "x"}, r"cases\.0: error.message .*'a'.*: is missing"),
        ((*CASE, "timing_ms"), 3, r"cases\.0: timing_ms"),
        ((*CASE, "timing_ms", "read"), "3", r"cases\.0: timing_ms.read .*not '3'"),
        ((*CASE, "landmarks"), None, r"cases\.0: landmarks"),
        (MARK, 3, r"cases\.0: landmarks\.1 .*: is not an object"),
        ((*MARK, "confidence"), ..., r"cases\.0: landmarks\.1\.confidence .*: is missing"),
        ((*MARK, "confidence"), True, r"landmarks\.1\.confidence \(of 'a', '2'\): .*not True"),
        ((*MARK, "position_lps_mm"), [1, 2], r"landmarks\.1\.position_lps_mm"),
        ((*CASE, "key_slices", 0, "axis"), ["left-right"], r"key_slices\.0\.axis"),
        ((*CASE, "key_slices", 1, "normal"), [1, 0, 0], r"key_slices\.1\.normal .*: unknown key"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, path, value, says):
    content = change(path, value)
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(PredictionsError, match=says) as caught:
        read_predictions(tmp_path / "p.json")
    assert str(caught.value).startswith(f"{tmp_path / 'p.json'}: ")
    if "twice" not in says:  # which a JSON Schema cannot say
        assert not VALIDATOR.is_valid(content)


junk = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=2)
)
values = st.recursive(
    junk, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2)
)


def places(content, path=()):
    """Paths of every value in plain data."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_reader_and_schema_agree(data):
    path = data.draw(st.sampled_from(list(places(example().to_dict()))))
    content = change(path, data.draw(st.just(...) | values if not isinstance(path[-1], int) else values))
    informational = path[0] in ("model", "engine") and path[1:] not in ((), ("name",))
    try:
        Predictions.from_dict(copy.deepcopy(content))
        accepted = True
    except PredictionsError as error:
        accepted = "occurs twice" in str(error)
    # The reader rounds numbers and takes null for a plane that is not given; the schema is as strict as the writer.
    lenient = path[-1] in ("confidence", "point_lps_mm", "normal_lps", "value", "uncertainty")
    if not informational and not (lenient and accepted):
        assert accepted == VALIDATOR.is_valid(content), path


def test_files_that_are_no_results(tmp_path):
    with pytest.raises(PredictionsError, match="no such results file"):
        read_predictions(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text('{"schema_version": "1",\n oops}')
    with pytest.raises(PredictionsError, match=r"bad.json: line 2: is not valid JSON"):
        read_predictions(tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(PredictionsError, match="is not an object"):
        read_predictions(tmp_path / "list.json")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "preds.json"
    path.write_text("old")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PredictionsError, match=r"preds.json: cannot be written: permission denied. Name a file in a"):
        example().write(path)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["preds.json"]


def test_odd_targets(tmp_path):
    with pytest.raises(PredictionsError, match="Create the folder"):
        example().write(tmp_path / "none" / "preds.json")
    with pytest.raises(PredictionsError, match="Name a file, not a folder"):
        example().write(tmp_path)
    result = example()
    result.model["weights"] = np.zeros(3)
    with pytest.raises(PredictionsError, match="cannot be written as JSON"):
        result.write(tmp_path / "preds.json")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_written_to(tmp_path):
    code = (
        "from trt_landmarks.results.predictions import Predictions\n"
        "Predictions('t', {'name': 'm'}, {'name': 'e'}).write('/dev/stdout')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["task"] == "t"
