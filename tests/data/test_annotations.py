"""Annotation files: every format gives the same LPS points, and says what is wrong with a bad file."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trt_landmarks.data.annotations import (
    find_landmark_file,
    find_landmark_files,
    read_landmarks,
    select,
    write_mrk_json,
)
from trt_landmarks.errors import LandmarkFileError

FCSV_COLUMNS = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
FLIP = np.array([-1.0, -1.0, 1.0])


def mrk(points, system="LPS", **markup):
    control = [{"id": str(n), "label": name, "position": list(p)} for n, (name, p) in enumerate(points.items())]
    return json.dumps(
        {"markups": [{"type": "Fiducial", "coordinateSystem": system, "controlPoints": control} | markup]}
    )


def fcsv(points, system="LPS", tail=""):
    rows = [f'{n},{x!r},{y!r},{z!r},0,0,0,1,1,1,0,"{name}",,{tail}' for n, (name, (x, y, z)) in enumerate(points)]
    return "\n".join(["# Markups fiducial file version = 4.11", f"# CoordinateSystem = {system}", FCSV_COLUMNS, *rows])


def csv_text(header, rows, *comments):
    return "\n".join([*comments, header, *(",".join(map(str, row)) for row in rows)]) + "\n"


def test_real_slicer_json_has_its_own_numbers(data_root):
    path = data_root / "mouse-skull-ct" / "posed" / "landmarks" / "129S1_SVLMJ_.mrk.json"
    points = read_landmarks(path)
    assert len(points) == 45
    np.testing.assert_array_equal(points["1"], [1.0112, -10.4671, 2.852])
    assert all(point.dtype == np.float64 and point.shape == (3,) for point in points.values())


def test_every_real_file_is_read(data_root):
    files = list((data_root / "mouse-skull-ct").rglob("*.mrk.json"))
    files += list((data_root / "brain-afids" / "templates").glob("*.fcsv"))
    assert len(files) > 90
    assert {len(read_landmarks(path)) for path in files} == {45, 32}


def test_real_fcsv_is_ras_and_becomes_lps(data_root):
    points = read_landmarks(data_root / "brain-afids" / "templates" / "tpl-Agile12v2016_afids.fcsv")
    np.testing.assert_array_equal(points["1"], [-4.1493909375, -5.678821875, 1.4795320625])
    ac, pc = points["1"], points["2"]
    assert pc[1] > ac[1] + 20  # the posterior commissure lies behind the anterior one, and y points to the back


def test_real_csv(data_root):
    points = read_landmarks(data_root / "mouse-skull-ct" / "mean_shape_canonical_lps.csv")
    assert len(points) == 45
    np.testing.assert_array_equal(points["2"], [1.2504, -9.1474, 2.272])


finite = st.floats(-1e4, 1e4, allow_nan=False, width=64)


@settings(max_examples=40, deadline=None)
@given(values=arrays(np.float64, (3, 3), elements=finite))
def test_ras_and_lps_files_of_the_same_points_agree_in_every_format(values, tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    lps = dict(zip(["a", "b", "c d"], values.tolist(), strict=True))
    ras = {name: (FLIP * point).tolist() for name, point in lps.items()}
    texts = {
        "lps.mrk.json": mrk(lps),
        "ras.mrk.json": mrk(ras, "RAS"),
        "0.mrk.json": mrk(ras, "0"),
        "lps.fcsv": fcsv(lps.items(), "LPS"),
        "1.fcsv": fcsv(lps.items(), "1"),
        "ras.fcsv": fcsv(ras.items(), "RAS"),
        "0.fcsv": fcsv(ras.items(), "0"),
        "lps.csv": csv_text("name,x,y,z", [(n, *map(repr, p)) for n, p in lps.items()]),
        "ras.csv": csv_text("name,x_ras,y_ras,z_ras", [(n, *map(repr, p)) for n, p in ras.items()]),
    }
    for file, text in texts.items():
        (folder / file).write_text(text)
        read = read_landmarks(folder / file)
        assert list(read) == list(lps), file
        for name, point in read.items():
            np.testing.assert_array_equal(point, lps[name], err_msg=file)


@settings(max_examples=40, deadline=None)
@given(values=arrays(np.float64, (2, 3), elements=finite))
def test_what_is_written_is_read_back_exactly(values, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "case.mrk.json"
    points = {"nasion": values[0], "ünïcode, with comma": values[1]}
    write_mrk_json(path, points)
    read = read_landmarks(path)
    assert list(read) == list(points)
    for name in points:
        np.testing.assert_array_equal(read[name], points[name])


def test_written_file_is_like_those_of_slicer(tmp_path, data_root):
    path = tmp_path / "case.mrk.json"
    write_mrk_json(path, {"a": np.array([1.0, 2.0, 3.0]), "b": np.full(3, np.nan)}, {"a": "confidence 0.98"})
    ours = json.loads(path.read_text(), parse_constant=pytest.fail)
    theirs = json.loads((data_root / "mouse-skull-ct/posed/landmarks/AKR_J_.mrk.json").read_text())
    assert ours["@schema"] == theirs["@schema"]
    ours_markup, theirs_markup = ours["markups"][0], theirs["markups"][0]
    for key in ("type", "coordinateSystem", "coordinateUnits"):
        assert ours_markup[key] == theirs_markup[key]
    ours_point, theirs_point = ours_markup["controlPoints"][0], theirs_markup["controlPoints"][0]
    assert set(theirs_point) <= set(ours_point)
    assert {key: type(ours_point[key]) for key in theirs_point} == {k: type(v) for k, v in theirs_point.items()}
    assert ours_point["description"] == "confidence 0.98"
    assert ours_markup["controlPoints"][1]["positionStatus"] == "undefined"
    assert list(read_landmarks(path)) == ["a"]


def test_undefined_points_are_absent(tmp_path):
    content = json.loads(mrk({"a": (1, 2, 3), "b": (0, 0, 0), "c": (0, 0, 0)}))
    points = content["markups"][0]["controlPoints"]
    points[1]["positionStatus"] = "undefined"
    points[2] |= {"positionStatus": "missing", "position": None}
    (tmp_path / "a.mrk.json").write_text(json.dumps(content))
    assert list(read_landmarks(tmp_path / "a.mrk.json")) == ["a"]

    rows = fcsv([("a", (1.0, 2.0, 3.0))], tail=",2,0") + "\n9,0.0,0.0,0.0,0,0,0,1,1,1,0,b,,,0,0"
    (tmp_path / "a.fcsv").write_text(rows)
    assert list(read_landmarks(tmp_path / "a.fcsv")) == ["a"]

    (tmp_path / "a.csv").write_text(csv_text("label,l,p,s,defined", [("a", 1, 2, 3, 1), ("b", 0, 0, 0, 0)]))
    assert list(read_landmarks(tmp_path / "a.csv")) == ["a"]


def test_fcsv_columns_in_another_order(tmp_path):
    text = "# CoordinateSystem = 0\n# columns = label,z,y,x\nF-1,3,2,1\n"
    (tmp_path / "a.fcsv").write_text(text)
    np.testing.assert_array_equal(read_landmarks(tmp_path / "a.fcsv")["F-1"], [-1, -2, 3])


def test_a_name_may_hold_a_comma(tmp_path):
    (tmp_path / "a.fcsv").write_text(fcsv([("left, facet", (1.0, 2.0, 3.0))]))
    assert list(read_landmarks(tmp_path / "a.fcsv")) == ["left, facet"]


@pytest.mark.parametrize(
    ("header", "comment", "expected"),
    [
        ("name,x,y,z", "", [1, 2, 3]),
        ("label,x_mm,y_mm,z_mm", "", [1, 2, 3]),
        ("NAME,X,Y,Z", "# coordinate_system: RAS", [-1, -2, 3]),
        ("name,x,y,z", "# coordinate_system: ras,,,", [-1, -2, 3]),
        ("name,x_ras_mm,y_ras_mm,z_ras_mm", "", [-1, -2, 3]),
        ("name,x_lps,y_lps,z_lps", "# coordinate_system: LPS", [1, 2, 3]),
        ("label,r,a,s", "", [-1, -2, 3]),
        ("label,l,p,s", "", [1, 2, 3]),
    ],
)
def test_csv_says_its_coordinate_system(tmp_path, header, comment, expected):
    (tmp_path / "a.csv").write_text("\ufeff" + csv_text(header, [("m", 1, 2, 3)], comment), encoding="utf-8")
    np.testing.assert_array_equal(read_landmarks(tmp_path / "a.csv")["m"], expected)


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("a.mrk.json", "{", "line 1: is not valid JSON"),
        ("a.mrk.json", "[]", "no 'markups' list"),
        ("a.mrk.json", mrk({"m": (1, 2, 3)}, type="Line"), "no point list"),
        ("a.mrk.json", mrk({"m": (1, 2, 3)}, "IJK"), "unknown coordinate system 'IJK'"),
        ("a.mrk.json", mrk({"m": (1, 2, 3)}, coordinateUnits="um"), "coordinateUnits is 'um'"),
        ("a.mrk.json", mrk({"m": (1, 2)}), "point 1: position is not three numbers"),
        ("a.mrk.json", mrk({"m": (1, 2, "3")}), "point 1: position is not three numbers"),
        ("a.mrk.json", mrk({"m": (1, 2, 3), "n": (1, 2, float("nan"))}), "point 2: 'n' has a coordinate that is not"),
        ("a.mrk.json", mrk({"": (1, 2, 3)}), "point 1: a point has no name"),
        ("a.mrk.json", mrk({"m": (1, 2, 3), "m ": (1, 2, 3)}), "point 2: 'm' occurs twice"),
        ("a.fcsv", f"{FCSV_COLUMNS}\n1,0,0,0,0,0,0,1,1,1,0,m,,", "no '# CoordinateSystem = '"),
        ("a.fcsv", "# CoordinateSystem = 2\n" + FCSV_COLUMNS, "unknown coordinate system '2'"),
        ("a.fcsv", "# CoordinateSystem = 0\n# columns = id,x,y,label", "must name x, y, z and label"),
        ("a.fcsv", f"# CoordinateSystem = 0\n{FCSV_COLUMNS}\n\n1,0,0", "line 4: has 3 columns"),
        ("a.fcsv", fcsv([("m", (1.0, 2.0, 3.0)), ("m", (1.0, 2.0, 3.0))]), "line 5: 'm' occurs twice"),
        ("a.csv", csv_text("name,x,y,z", [("m", 1, "two", 3)]), "line 2: '1', 'two', '3' are not three numbers"),
        ("a.csv", csv_text("name,x,y,z", [("m", 1, 2, "inf")]), "line 2: 'm' has a coordinate that is not"),
        ("a.csv", csv_text("name,x,y,z", [("m", 1, 2)]), "line 2: has 3 columns"),
        ("a.csv", csv_text("m,1,2,3", []), "header row must name"),
        ("a.csv", "", "header row must name"),
        ("a.csv", csv_text("name,x_ras,y_ras,z_ras", [], "# coordinate_system: LPS"), "columns say RAS"),
        ("a.txt", "", "unknown kind of landmark file"),
    ],
)
def test_a_bad_file_is_named_with_the_place(tmp_path, file, text, says):
    (tmp_path / file).write_text(text)
    with pytest.raises(LandmarkFileError) as caught:
        read_landmarks(tmp_path / file)
    assert str(tmp_path / file) in str(caught.value)
    assert says in str(caught.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(LandmarkFileError, match="no such landmark file"):
        read_landmarks(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(LandmarkFileError, match="not UTF-8 text"):
        read_landmarks(tmp_path / "b.csv")


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "case.mrk.json"
    write_mrk_json(path, {"a": np.zeros(3)})
    before = path.read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LandmarkFileError, match=r"case.mrk.json: cannot be written: no space left on device"):
        write_mrk_json(path, {"b": np.ones(3)})
    assert path.read_text() == before
    assert [file.name for file in tmp_path.iterdir()] == ["case.mrk.json"]


def test_writing_into_a_missing_folder_says_so(tmp_path):
    with pytest.raises(LandmarkFileError, match="Create the folder"):
        write_mrk_json(tmp_path / "none" / "case.mrk.json", {})


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "link.mrk.json").symlink_to(tmp_path / "real.mrk.json")
    write_mrk_json(tmp_path / "link.mrk.json", {"a": np.zeros(3)})
    assert (tmp_path / "link.mrk.json").is_symlink()
    assert list(read_landmarks(tmp_path / "real.mrk.json")) == ["a"]


def test_finding_files_by_case(tmp_path):
    for name in ("LG.J_.csv", "LG.J_.mrk.json", "b.fcsv", ".hidden.csv", "notes.txt"):
        (tmp_path / name).touch()
    assert find_landmark_file(tmp_path, "LG.J_") == tmp_path / "LG.J_.mrk.json"
    assert find_landmark_file(tmp_path, "LG") is None
    assert find_landmark_files(tmp_path) == {"LG.J_": tmp_path / "LG.J_.mrk.json", "b": tmp_path / "b.fcsv"}
    with pytest.raises(LandmarkFileError, match="no such folder"):
        find_landmark_files(tmp_path / "none")


def test_select_orders_and_marks_absent_points():
    points = {"b": np.array([4.0, 5.0, 6.0]), "a": np.array([1.0, 2.0, 3.0]), "other": np.zeros(3)}
    chosen = select(points, ["a", "gone", "b"], "case.csv")
    np.testing.assert_array_equal(chosen, [[1, 2, 3], [np.nan] * 3, [4, 5, 6]])
    assert np.isnan(select({}, ["a", "b"], "case.csv")).all()
    with pytest.raises(LandmarkFileError, match=r"case\.csv: has none of the task's landmarks \(x, y\); it has b, a"):
        select(points, ["x", "y"], "case.csv")
