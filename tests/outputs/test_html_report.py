"""The page: whole HTML, nothing from elsewhere, nothing that a name could break, the worst first, and bounded."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from tests.outputs.conftest import PLACES, failed_case, make_case
from trt_landmarks.data.annotations import write_mrk_json
from trt_landmarks.outputs import html_report
from trt_landmarks.outputs.case_rows import case_row, worst_first
from trt_landmarks.outputs.html_report import write_report
from trt_landmarks.outputs.sources import Sources
from trt_landmarks.results.predictions import Predictions
from trt_landmarks.scan import Scan, read_scan

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks nesting; collects tables, headings, pictures, and whatever names another place."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.headings: list[str] = []
        self.captions: list[str] = []
        self.pictures: list[str] = []
        self.elsewhere: list[str] = []
        self.scripts = 0
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        for key in ("src", "href", "action"):
            value = values.get(key) or ""
            self.elsewhere += [value] if value and not value.startswith("data:image/") else []
        self.scripts += tag == "script"
        assert not any(key.startswith("on") for key in values), attrs
        if tag == "img":
            self.pictures.append(values["src"] or "")
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open[-2:] == ["figcaption", "b"]:
            self.captions.append(data)


def test_a_page_without_annotations(results: Predictions, scan_file: Path, tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", results, Sources.open(scan_file.parent), None)
    page = Page(tmp_path / "r.html")
    assert page.headings == ["Failed", "To look at first", "Measurements", "All scans"]
    assert page.elsewhere == [] and page.scripts == 1 and len(page.pictures) == 1
    assert "http" not in re.sub(r"http-equiv", "", page.text)
    header, first, second = page.tables[-1]
    assert header[:3] == ["case", "status", "flagged"]
    assert (first[0], first[1], second[0]) == ("bad", "failed", "case one")
    assert first[-1] == 'scan_truncated: ends, early "cut"' and second[-1] == "code: odd <spacing>"
    lengths = {row[0]: row for row in page.tables[0]}
    assert lengths["length"][1:4] == ["mm", "1", "16.12"] and lengths["none"][2] == "0"


def test_names_and_messages_are_only_text(scan: Scan, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script><img src=x onerror='y'>\"&amp;"
    case = make_case(evil, scan)
    marks = (replace(case.landmarks[0], name=evil), *case.landmarks[1:])
    bad = replace(failed_case(evil + "2"), error=replace(failed_case("x").error, message=evil))  # type: ignore[type-var]
    results = Predictions(evil, {"name": evil}, {"name": evil}, [replace(case, landmarks=marks, measurements=()), bad])
    write_report(tmp_path / "r.html", results, Sources({}), None)
    page = Page(tmp_path / "r.html")
    assert page.scripts == 1 and page.pictures == [] and page.elsewhere == []
    assert page.tables[-1][2][0] == evil


def test_the_largest_errors_come_first_and_the_figures_are_right(scan: Scan, tmp_path: Path) -> None:
    shifts = {"near": 0.1, "far": 3.0, "middle": 1.0}
    cases = [make_case(name, scan, "nowhere.nii.gz", shift) for name, shift in shifts.items()]
    folder = tmp_path / "landmarks"
    folder.mkdir()
    for name in shifts:
        write_mrk_json(folder / f"{name}.mrk.json", {mark: np.array(p) for mark, p in PLACES.items()})
    results = Predictions("tiny", {"name": "m"}, {"name": "e"}, [*cases, failed_case("bad")])
    write_report(tmp_path / "r.html", results, Sources.open(None, folder), None)
    page = Page(tmp_path / "r.html")
    assert page.headings[1:] == ["To look at first", "Distances from the annotations", "Measurements", "All scans"]
    assert page.captions == ["far", "middle", "near"] and page.text.count("the scan is not here") == 3
    assert len(page.pictures) == 2  # the plots
    errors, _, listed = page.tables
    assert [row[0] for row in errors] == ["landmark", *PLACES, "all"]
    column = {name: n for n, name in enumerate(errors[0])}
    total = errors[-1]
    assert (total[column["n"]], total[column["mean mm"]], total[column["max"]]) == ("15", "1.367", "3.000")
    assert [total[column[f"≤ {r} mm %"]] for r in (1, 2, 4)] == ["66.7", "66.7", "100.0"]
    assert [row[0] for row in listed[1:]] == ["bad", "far", "middle", "near"]
    assert listed[2][5:7] == ["3.000", "3.000"]


def test_thousands_of_cases_read_no_more_scans_than_have_pictures(
    scan: Scan, scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_case("0", scan, str(scan_file))
    cases = [replace(base, id=str(n)) for n in range(1500)]
    doubtful = replace(base.landmarks[0], confidence=0.01)
    cases[700] = replace(cases[700], landmarks=(doubtful, *base.landmarks[1:]))
    cases += [failed_case(f"bad {n}") for n in range(40)]
    reads: list[Path] = []

    def counted(path: Path) -> Scan:
        reads.append(path)
        return read_scan(path)

    monkeypatch.setattr(html_report, "read_scan", counted)
    results = Predictions("tiny", {"name": "m"}, {"name": "e"}, cases)
    write_report(tmp_path / "r.html", results, Sources({}), None, thumbnails=2)
    page = Page(tmp_path / "r.html")
    assert len(reads) == len(page.pictures) == 2
    assert page.captions[0] == "700" and "Pictures of 2 of 1500 localized scans" in page.text
    assert len(page.tables[-1]) == 1541
    assert page.text.count("<li>") == 3 and "and 38 more: see the table" in page.text
    assert len(page.text) < 1_000_000


def test_a_scan_that_cannot_be_read_is_said_in_its_place(results: Predictions, tmp_path: Path) -> None:
    broken = tmp_path / "case one.nii.gz"
    broken.write_bytes(b"no scan")
    write_report(tmp_path / "r.html", results, Sources({"case one": broken}), None)
    page = Page(tmp_path / "r.html")
    assert page.pictures == [] and "case one.nii.gz" in page.text


def test_order_of_badness(scan: Scan) -> None:
    sure = make_case("sure", scan)
    sure = replace(sure, landmarks=tuple(replace(m, status="located", confidence=0.95) for m in sure.landmarks))
    unsure = replace(sure, id="unsure", landmarks=tuple(replace(m, confidence=0.5) for m in sure.landmarks))
    rows = [case_row(case, {}) for case in (sure, unsure, make_case("flagged", scan), failed_case("bad"))]
    assert [row.case.id for row in worst_first(rows)] == ["bad", "flagged", "unsure", "sure"]
