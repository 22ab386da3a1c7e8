"""The commands on results, and the options of ``infer`` that make the same."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.cli.test_cli import make_scan
from trt_landmarks import cli
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.data.annotations import read_landmarks, write_mrk_json
from trt_landmarks.results.predictions import SCHEMA_FILE, Predictions, read_predictions
from trt_landmarks.system import install_command

Run = Callable[..., str]


@pytest.fixture
def trtlm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process; checks the exit code and gives all that it said."""

    def run(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr("sys.argv", ["trtlm", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = "".join(capsys.readouterr())
        assert (end.value.code or 0) == code, said
        return said

    return run


@pytest.fixture
def measurements(tmp_path: Path) -> Path:
    path = tmp_path / "m.yaml"
    content = [
        {"name": "length", "type": "distance", "points": ["a", "b"]},
        {"name": "tilt", "type": "angle-of-lines", "points": ["a", "b", "c", "d"]},
    ]
    path.write_text(yaml.safe_dump({"measurements": content}))
    return path


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_infer_writes_all_forms_and_convert_writes_the_same(
    trtlm: Run, tiny_bundle: Bundle, measurements: Path, tmp_path: Path
) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    for n in range(2):
        make_scan(scans / f"s{n}.nii.gz", n)
    (scans / "bad.nii.gz").write_bytes(b"")
    out, model = tmp_path / "p.json", ("--model", tiny_bundle.root)
    forms = ("--csv", tmp_path / "t.csv", "--markups", tmp_path / "m", "--figures", tmp_path / "f")
    trtlm("infer", scans, "--out", out, *model, *forms, "--measurements", measurements, code=1)
    Draft202012Validator(json.loads(SCHEMA_FILE.read_text())).validate(json.loads(out.read_text()))
    found = read_predictions(out)
    assert len(table(tmp_path / "t.csv")) == 2 * 6 + 1
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == ["s0.png", "s1.png"]
    good = next(case for case in found.cases if case.id == "s1")
    read = read_landmarks(tmp_path / "m" / "s1.mrk.json")
    inside = {mark.name: mark.position_lps_mm for mark in good.landmarks if mark.status != "outside_scan"}
    assert {name: tuple(point) for name, point in read.items()} == inside
    places = {mark.name: np.array(mark.position_lps_mm) for mark in good.landmarks}
    length, tilt = good.measurements
    assert length.value == pytest.approx(np.linalg.norm(places["a"] - places["b"]), abs=1e-4)
    assert (tilt.unit, tilt.points) == ("degree", ("a", "b", "c", "d"))

    bare = read_predictions(out)  # as if it had been written without measurements
    bare.cases = [type(case)(**{**vars(case), "measurements": ()}) for case in bare.cases]
    bare.write(tmp_path / "bare.json")
    again = ("--csv", tmp_path / "t2.csv", "--markups", tmp_path / "m2")
    said = trtlm("convert", tmp_path / "bare.json", *again, "--measurements", measurements)
    assert said.startswith("3 cases")
    for name, other in (("t.csv", "t2.csv"), ("t-measurements.csv", "t2-measurements.csv"), ("m", "m2")):
        pairs = [(tmp_path / name, tmp_path / other)]
        if pairs[0][0].is_dir():
            pairs = [(path, tmp_path / other / path.name) for path in (tmp_path / name).iterdir()]
        assert all(one.read_text() == two.read_text() for one, two in pairs)


def test_view_draws_a_case_by_its_id_or_its_scan(
    trtlm: Run, results: Predictions, scan_file: Path, tmp_path: Path
) -> None:
    results.write(tmp_path / "p.json")
    preds, folder = ("--preds", tmp_path / "p.json"), ("--scans", scan_file.parent)
    truth = tmp_path / "truth.mrk.json"
    write_mrk_json(truth, {"a": np.array([-8.0, 3, 61.5])})
    said = trtlm("view", "case one", *preds, *folder, "--out", tmp_path / "v.png", "--dpi", 40, "--landmarks", truth)
    assert "groups are not shown" in said  # there is no model 'm'
    assert (tmp_path / "v.png").read_bytes().startswith(b"\x89PNG")
    trtlm("view", scan_file, *preds, "--out", tmp_path / "v.jpg", "--landmark", "b", "--dpi", 40)
    for arguments, says in (
        (("none", *preds), "none: the results have no such case. They have case one, bad"),
        (("case one", *preds), "scans/one.nii.gz: the scan is not there. Name its folder: --scans."),
        (("bad", *preds, *folder), "the scan is not there"),
        (("case one", *preds, *folder, "--landmark", "z"), "has no landmark 'z'"),
        (("case one", *preds, "--out", "v.gif"), "unknown kind of picture"),
        (("case one", *preds, "--task", "none.yaml", *folder), "no such task file"),
        (("case one", *preds, *folder, "--landmarks", tmp_path / "none"), "no such folder of landmark files"),
    ):
        assert says in trtlm("view", *arguments, code=2)


def test_report_writes_a_page(trtlm: Run, results: Predictions, scan_file: Path, tmp_path: Path) -> None:
    results.write(tmp_path / "p.json")
    said = trtlm("report", tmp_path / "p.json", "--scans", scan_file.parent, "--out", tmp_path / "r.html")
    assert "2 cases" in said
    assert (tmp_path / "r.html").read_text().count("data:image/jpeg") == 1
    assert "no such results file" in trtlm("report", tmp_path / "none.json", "--out", tmp_path / "r.html", code=2)


def test_convert_says_what_it_needs(trtlm: Run, results: Predictions, measurements: Path, tmp_path: Path) -> None:
    results.write(tmp_path / "p.json")
    assert "nothing to write" in trtlm("convert", tmp_path / "p.json", code=2)
    to = ("--csv", tmp_path / "t.csv")
    assert "need the task" in trtlm("convert", tmp_path / "p.json", *to, "--measurements", measurements, code=2)
    assert "nowhere: no such bundle" in trtlm("convert", tmp_path / "p.json", *to, "--model", "nowhere", code=2)
    assert not (tmp_path / "t.csv").exists()


def test_pictures_without_matplotlib_are_refused_before_any_work(
    trtlm: Run, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    scan, out = make_scan(tmp_path / "a.nii.gz"), tmp_path / "p.json"
    said = trtlm("infer", scan, "--out", out, "--model", tiny_bundle.root, "--figures", tmp_path / "f", code=2)
    assert install_command("figures") in said and not out.exists()
