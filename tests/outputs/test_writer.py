"""What is written beside the results, also when something goes wrong or cases come twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.outputs.conftest import GROUPS, failed_case, make_case
from trt_landmarks.errors import PredictionsError
from trt_landmarks.outputs import figure
from trt_landmarks.outputs.writer import OutputWriter
from trt_landmarks.results.case import CaseResult
from trt_landmarks.scan import Scan


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_cases_are_written_as_they_come_and_the_rest_at_the_end(scan: Scan, tmp_path: Path) -> None:
    cases = [make_case("one", scan), failed_case("bad"), make_case("../two", scan)]
    folders = {name: tmp_path / "deep" / name for name in ("markups", "pictures")}
    writer = OutputWriter(
        [case.id for case in cases], GROUPS, tables=[tmp_path / "t.csv"], markup_folder=folders["markups"],
        figure_folder=folders["pictures"],
    )  # fmt: skip
    writer.case(cases[0])
    writer.case(cases[1])
    assert names(folders["markups"]) == ["one.mrk.json"]
    (folders["markups"] / "one.mrk.json").write_text("seen")
    writer.draw(cases[2], scan)
    writer.finish(cases)
    assert (folders["markups"] / "one.mrk.json").read_text() == "seen"  # not written again
    _, second = names(folders["markups"])[::-1]
    assert second.startswith("_two-") or names(folders["markups"])[0].startswith("_two-")
    assert [name[:5] for name in names(folders["pictures"])] == ["_two-"]
    assert names(tmp_path) == ["deep", "t-measurements.csv", "t.csv"]
    assert writer.problems == []


def test_a_picture_that_fails_ends_nothing(scan: Scan, case: CaseResult, tmp_path: Path) -> None:
    writer = OutputWriter([case.id], {}, figure_folder=tmp_path / "p")
    writer.draw(replace(case, landmarks=()), scan)
    assert len(writer.problems) == 1 and writer.problems[0].startswith("case one: has no picture: ")


def test_nothing_is_drawn_that_was_not_asked_for(
    scan: Scan, case: CaseResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure, "case_figure", pytest.fail)
    writer = OutputWriter([case.id], {})
    writer.draw(case, scan)
    writer.case(case)
    writer.finish([case])
    assert names(tmp_path) == []


def test_what_cannot_be_written_is_found_out_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PredictionsError, match="file: cannot be made a folder"):
        OutputWriter([], {}, markup_folder=tmp_path / "file")
    with pytest.raises(PredictionsError, match="Create the folder"):
        OutputWriter([], {}, tables=[tmp_path / "none" / "t.csv"])
