"""The journal: nothing lost, nothing repeated, and no run goes on with what another model gave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trt_landmarks.errors import PredictionsError
from trt_landmarks.results.case import CaseError, CaseResult, Landmark
from trt_landmarks.results.predictions import Predictions, read_predictions
from trt_landmarks.runs.journal import Journal, State, journal_path, resume_journal, scan_state, start_journal
from trt_landmarks.scan import ScanFile, case_id

ENGINE = {"name": "e", "precision": "fp32", "provider": "p", "preprocessing": "reference", "note": "why"}


def header(**changes: Any) -> Predictions:
    return replace(Predictions("task", {"name": "m", "sha256": "a" * 64}, ENGINE), **changes)


def case(id: str, path: str = "", x: float = 1.5, code: str | None = None) -> CaseResult:
    if code is not None:
        return CaseResult(id, path or f"{id}.nii", "failed", CaseError(code, "why"))
    mark = Landmark("nose", "located", (x, 0, 0), (1, 2, 3), 0.5)
    return CaseResult(id, path or f"{id}.nii", timing_ms={"total": 3}, landmarks=(mark,))


def scan_files(*ids: str) -> list[ScanFile]:
    return [ScanFile(id, Path(f"{id}.nii")) for id in ids]


def states(*ids: str, size: int = 1) -> dict[str, State | None]:
    return dict.fromkeys(ids, (size, 2, 1))


def written(journal: Journal, out: Path, order: list[ScanFile]) -> list[CaseResult]:
    journal.write_results(header(), out, order)
    return read_predictions(out).cases


def test_what_is_added_becomes_the_results_file_in_the_order_of_the_scans(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    journal = start_journal(out, header())
    assert journal.path == tmp_path / "r.json.journal.jsonl" and not out.exists()
    cases = [case("c"), case("a", code="x"), case("b")]
    for one in cases:
        journal.add([one], {})
    assert written(journal, out, scan_files("a", "b", "c")) == [cases[1], cases[2], cases[0]]
    expected = tmp_path / "at-once.json"
    header(cases=[cases[1], cases[2], cases[0]]).write(expected)
    assert out.read_bytes() == expected.read_bytes()
    journal.remove()
    assert not journal_path(out).exists()


def test_lines_are_on_the_disk_case_by_case_and_forced_every_few_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trt_landmarks.runs import journal as module

    forced: list[int] = []
    monkeypatch.setattr(os, "fsync", forced.append)
    journal = start_journal(tmp_path / "r.json", header())
    forced.clear()
    for number in range(3):
        journal.add([case(str(number))], {})
        assert journal.path.read_bytes().count(b"\n") == number + 2
    assert forced == []
    monkeypatch.setattr(module, "SYNC_SECONDS", 0.0)
    journal.add([case("last")], {})
    assert len(forced) == 1
    journal.close()


def test_an_unfinished_run_is_not_destroyed(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    journal = start_journal(out, header())
    journal.add([case("a")], states("a"))
    with pytest.raises(PredictionsError, match="another run is writing") as busy:
        start_journal(out, header())
    assert busy.value.code == "run_in_use"
    journal.close()
    with pytest.raises(PredictionsError, match=r"holds 1 case.*--resume.*--overwrite"):
        start_journal(out, header())
    assert journal_path(out).read_bytes().count(b"\n") == 2
    start_journal(out, header(), overwrite=True).close()
    start_journal(out, header()).close()  # without a case there is nothing to lose
    assert journal_path(out).read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("torn", [1, 10, -1])
def test_a_torn_last_line_is_done_again(tmp_path: Path, torn: int) -> None:
    out = tmp_path / "r.json"
    journal = start_journal(out, header())
    journal.add([case("a"), case("b")], states("a", "b"))
    journal.close()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join([*lines[:2], lines[2][:torn]]))
    journal, kept = resume_journal(out, header(), scan_files("a", "b"), states("a", "b"), retry=False)
    assert kept == {"a"}
    journal.add([case("b", x=2)], states("b"))
    assert written(journal, out, scan_files("a", "b")) == [case("a"), case("b", x=2)]
    journal.close()


def test_a_case_that_is_added_twice_counts_once(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    journal = start_journal(out, header())
    journal.add([case("a")], states("a"))
    journal.add([case("a")], states("a"))
    assert written(journal, out, scan_files("a")) == [case("a")]
    journal.close()
    journal, kept = resume_journal(out, header(), scan_files("a"), states("a"), retry=False)
    assert kept == {"a"} and len(list(journal.cases(scan_files("a")))) == 1
    journal.close()


def test_what_changed_or_failed_is_done_again(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    journal = start_journal(out, header())
    journal.add([case("a"), case("b"), case("c", code="x"), case("gone")], states("a", "b", "c", "gone"))
    journal.close()
    files = scan_files("a", "b", "c", "new")
    now = states("a", "c", "new") | states("b", size=7)
    journal, kept = resume_journal(out, header(), files, now, retry=False)
    assert kept == {"a", "c"}
    journal.close()
    journal, kept = resume_journal(out, header(), files, now, retry=True)
    assert kept == {"a"}
    found = written(journal, out, files)
    assert [one.id for one in found] == ["a", "gone"]  # scans that are not named any more keep their results
    journal.close()


def test_a_name_that_another_scan_has_now_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    journal = start_journal(out, header())
    journal.add([case("a", "old/a.nii")], states("a"))
    journal.close()
    with pytest.raises(PredictionsError, match=r"case 'a' is there already, of another scan: old/a\.nii"):
        resume_journal(out, header(), scan_files("a"), states("a"), retry=False)
    assert journal_path(out).read_bytes().count(b"\n") == 2
    assert [one.name for one in tmp_path.iterdir()] == ["r.json.journal.jsonl"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "other"}, "its task is task, and now it would be other"),
        ({"model": {"name": "m", "sha256": "b" * 64}}, r"its model is m \(a{12}\), and now it would be m \(b{12}\)"),
        ({"engine": ENGINE | {"precision": "fp16"}}, "its engine's precision is fp32, and now it would be fp16"),
        ({"engine": ENGINE | {"preprocessing": "dali"}}, "its engine's preprocessing is reference"),
    ],
)
@pytest.mark.parametrize("complete", [False, True])
def test_no_run_goes_on_with_what_another_gave(
    tmp_path: Path, changes: dict[str, Any], says: str, complete: bool
) -> None:
    out = tmp_path / "r.json"
    if complete:
        header(cases=[case("a")]).write(out)
    else:
        journal = start_journal(out, header())
        journal.add([case("a")], states("a"))
        journal.close()
    before = {one: one.read_bytes() for one in tmp_path.iterdir()}
    with pytest.raises(PredictionsError, match=says) as caught:
        resume_journal(out, header(**changes), scan_files("a"), states("a"), retry=False)
    assert caught.value.code == "resume_mismatch" and str(tmp_path) in caught.value.message
    assert {one: one.read_bytes() for one in tmp_path.iterdir()} == before
    other_reason = header(engine=ENGINE | {"note": "another reason"})
    resume_journal(out, other_reason, scan_files("a"), states("a"), retry=False)[0].close()


def test_a_complete_results_file_can_be_added_to(tmp_path: Path) -> None:
    """Without a journal a scan counts as the same if it was last changed before the results were written."""
    out, paths = tmp_path / "r.json", [tmp_path / f"{id}.nii" for id in "abc"]
    for path in paths:
        path.write_bytes(b"scan")
    files = [ScanFile(path.stem, path) for path in paths]
    header(cases=[case("a", str(paths[0])), case("b", str(paths[1]))]).write(out)
    later = out.stat().st_mtime_ns + 10**9
    os.utime(paths[1], ns=(later, later))
    now = {file.id: scan_state(file.path) for file in files}
    journal, kept = resume_journal(out, header(), files, now, retry=False)
    assert kept == {"a"}
    assert [one.id for one in read_predictions(out).cases] == ["a", "b"]  # until the run is complete
    journal.close()


def test_damaged_lines_are_computed_anew_and_a_damaged_head_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "r.json"
    journal = start_journal(out, header())
    journal.add([case("a"), case("b")], states("a", "b"))
    journal.close()
    whole = journal.path.read_bytes()
    damages = (b'"located"', b'"lost"'), (b"1.5,", b"2.5,"), (b"nose", b"n\xff\xffe"), (b'[1, 2, 1],"', b'[1, 2, 3],"')
    for damage in damages:
        assert damage[0] in whole
        journal.path.write_bytes(whole.replace(*damage, 1))
        journal, kept = resume_journal(out, header(), scan_files("a", "b"), states("a", "b"), retry=False)
        journal.close()
        assert kept == {"b"} and "line 2 is damaged" in caplog.text
        assert journal.path.read_bytes().count(b"\n") == 2
        caplog.clear()
    journal.path.write_bytes(whole.replace(b'"journal": 2', b'"journal": 9'))
    with pytest.raises(PredictionsError, match="first line does not say"):
        resume_journal(out, header(), scan_files("a"), states("a"), retry=False)
    start_journal(out, header(), overwrite=True).close()


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """The file may grow by half a case more, and then no further."""
    code = """
import resource, signal, sys
from pathlib import Path
from tests.runs.test_journal import case, header, scan_files
from trt_landmarks.errors import PredictionsError
from trt_landmarks.runs.journal import start_journal
journal = start_journal(Path(sys.argv[1]), header())
journal.add([case("a")], {})
size = journal.path.stat().st_size
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
try:
    journal.add([case("b")], {})
except PredictionsError as error:
    assert "cannot be written" in str(error)
    assert journal.path.stat().st_size == size
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    journal.add([case("b")], {})
    assert [one.id for one in journal.cases(scan_files("a", "b"))] == ["a", "b"]
    sys.exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "r.json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 7, done.stderr


def test_names_that_are_no_text_come_through(tmp_path: Path) -> None:
    out, odd = tmp_path / "r.json", "a\udcff\n\x1b[31m\u2028"
    file = ScanFile(case_id(odd), Path(odd))
    assert file.id == file.shown == "a\\xff\n\x1b[31m\u2028"
    journal = start_journal(out, header())
    journal.add([case(file.id, file.shown)], {file.id: (1, 2, 1)})
    (found,) = written(journal, out, [file])
    assert found.id == found.path == file.shown
    json.loads(out.read_text(encoding="utf-8"))
    journal.close()
    journal, kept = resume_journal(out, header(), [file], {file.id: (1, 2, 1)}, retry=False)
    assert kept == {file.id}
    journal.close()


def test_the_state_of_scans(tmp_path: Path) -> None:
    path, folder = tmp_path / "a.nii", tmp_path / "series"
    assert scan_state(path) is None and scan_state(tmp_path / "a\0") is None
    path.write_bytes(b"12345")
    os.utime(path, ns=(7, 7))
    assert scan_state(path) == (5, 7, 1)
    folder.mkdir()
    assert scan_state(folder) == (0, 0, 0)
    for name, time in (("1.dcm", 30), ("2.dcm", 20)):
        (folder / name).write_bytes(b"123")
        os.utime(folder / name, ns=(time, time))
    assert scan_state(folder) == (6, 30, 2)
