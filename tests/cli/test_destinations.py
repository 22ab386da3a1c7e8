"""Outputs: formats by suffix, and nothing that exists is destroyed."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.cli.test_cli import make_scan, trtlm
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.cli.destinations import check_outputs, is_csv, written
from trt_landmarks.errors import TrtlmError
from trt_landmarks.runs.report import Tally


@pytest.mark.parametrize(("name", "table"), [("p.json", False), ("p.CSV", True), ("p", False), ("/dev/null", False)])
def test_the_suffix_gives_the_format(name: str, table: bool) -> None:
    assert is_csv(Path(name)) is table


def test_an_unknown_suffix_is_refused() -> None:
    with pytest.raises(TrtlmError) as caught:
        is_csv(Path("p.xlsx"))
    assert caught.value.code == "usage" and ".xlsx" in caught.value.message


def test_no_output_destroys_an_input_or_another_output(tmp_path: Path) -> None:
    scan, link, folder = tmp_path / "a.nii.gz", tmp_path / "link.json", tmp_path / "scans"
    scan.write_bytes(b"scan")
    link.symlink_to(scan)
    folder.mkdir()
    for files, folders, code in (
        ({"--out": scan}, {}, "output_collision"),
        ({"--out": link}, {}, "output_collision"),
        ({"--out": tmp_path / "p.csv", "--csv": tmp_path / "p.csv"}, {}, "output_collision"),
        ({"--out": tmp_path / "p"}, {"--markups": tmp_path / "p"}, "output_collision"),
        ({"--out": folder}, {}, "usage"),
        ({}, {"--markups": scan}, "usage"),
    ):
        with pytest.raises(TrtlmError) as caught:
            check_outputs(files, folders, [scan])
        assert caught.value.code == code
    check_outputs({"--out": tmp_path / "p.json", "--csv": None}, {"--markups": folder}, [scan, folder])
    assert scan.read_bytes() == b"scan"


def test_the_last_lines_count_what_is_not_to_be_relied_on() -> None:
    counts = Tally(5, ok=4, low=1)
    counts.failures["scan_truncated"] = 1
    counts.warnings["not_this_anatomy"] = 2
    lines = written(counts, {"--out": Path("p.json"), "--csv": None})
    numbers = [int(line.split()[0]) for line in lines[:-1]]
    assert numbers == [5, 2, 1, 2, 1] and lines[-1].endswith("p.json")


def test_a_table_in_place_of_the_results_file(tiny_bundle: Bundle, tmp_path: Path) -> None:
    scan, out = make_scan(tmp_path / "a.nii.gz"), tmp_path / "p.csv"
    done = trtlm("infer", scan, "--out", out, "--model", tiny_bundle.root)
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["landmark"] for row in rows] == list(tiny_bundle.task.landmarks)
    assert str(out) in done.stdout and sorted(path.name for path in tmp_path.iterdir()) == ["a.nii.gz", "p.csv"]
