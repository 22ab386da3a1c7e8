"""The journal: nothing lost, nothing repeated, and no run goes on with what another model gave."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trt_landmarks.errors import PredictionsError
from trt_landmarks.results.case import CaseError, CaseInput, CaseResult, Landmark
from trt_landmarks.results.predictions import Predictions, read_predictions
from trt_landmarks.runs.journal import Journal, journal_path, start_journal
from trt_landmarks.runs.report import Tally
from trt_landmarks.runs.resume import Contents, resume_journal
from trt_landmarks.scan import ScanFile, case_id

ENGINE = {"name": "e", "precision": "fp32", "provider": "p", "preprocessing": "reference", "note": "why"}


def header(**changes: Any) -> Predictions:
    return replace(Predictions("task", {"name": "m", "sha256": "a" * 64}, ENGINE), **changes)


def content(id: str, size: int = 1) -> CaseInput:
    return CaseInput(size, 1, hashlib.sha256(id.encode()).hexdigest(), "2026-01-01")


def case(id: str, path: str = "", x: float = 1.5, code: str | None = None) -> CaseResult:
    if code is not None:
        return CaseResult(id, path or f"{id}.nii", "failed", CaseError(code, "why"), input=content(id))
    mark = Landmark("nose", "located", (x, 0, 0), (1, 2, 3), 0.5)
    return CaseResult(id, path or f"{id}.nii", timing_ms={"total": 3}, landmarks=(mark,), input=content(id))


def scan_files(*ids: str) -> list[ScanFile]:
    return [ScanFile(id, Path(f"{id}.nii")) for id in ids]


def now(*ids: str, **sizes: int) -> Contents:
    """What scans hold: the same as then, but for those of other sizes."""
    return lambda file: content(file.id, sizes.get(file.id, 1)) if file.id in {*ids, *sizes} else None


def resumed(
    out: Path, files: list[ScanFile], contents: Contents, retry: bool = False, head: Predictions | None = None
) -> tuple[Journal, set[str]]:
    """Nothing of these runs died, so that nothing is suspected."""
    journal, kept, suspects = resume_journal(out, head or header(), files, contents, retry, Tally(len(files)))
    assert not suspects
    return journal, kept


def written(journal: Journal, out: Path, order: list[ScanFile]) -> list[CaseResult]:
    journal.write_results(header(), out, order)
    return read_predictions(out).cases


def test_what_is_added_becomes_the_results_file_in_the_order_of_the_scans(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    journal = start_journal(out, header())
    assert journal.path == tmp_path / "r.json.journal.jsonl" and not out.exists()
    cases = [case("c"), case("a", code="x"), case("b")]
    for one in cases:
        journal.add([one])
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
        journal.add([case(str(number))])
        assert journal.path.read_bytes().count(b"\n") == number + 2
    assert forced == []
    monkeypatch.setattr(module, "SYNC_SECONDS", 0.0)
    journal.add([case("last")])
    assert len(forced) == 1
    journal.close()


def test_an_unfinished_run_is_not_destroyed(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    journal = start_journal(out, header())
    journal.add([case("a")])
    with pytest.raises(PredictionsError, match="another run is writing") as busy:
        start_journal(out, header())
    assert busy.value.code == "run_in_use"
    journal.close()
    with pytest.raises(PredictionsError, match=r"holds 1 case.*--resume.*--overwrite"):
        start_journal(out, header())
    assert journal_path(out).read_bytes().count(b"\n") == 3
    start_journal(out, header(), overwrite=True).close()
    start_journal(out, header()).close()  # without a case there is nothing to lose
    assert journal_path(out).read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("torn", [1, 10, -1])
def test_a_torn_last_line_is_done_again(tmp_path: Path, torn: int) -> None:
    out = tmp_path / "r.json"
    journal = start_journal(out, header())
    journal.add([case("a"), case("b")])
    journal.close()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join([*lines[:2], lines[2][:torn]]))
    journal, kept = resumed(out, scan_files("a", "b"), now("a", "b"))
    assert kept == {"a"}
    journal.add([case("b", x=2)])
    assert written(journal, out, scan_files("a", "b")) == [case("a"), case("b", x=2)]
    journal.close()


def test_a_case_that_is_added_twice_counts_once(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    journal = start_journal(out, header())
    journal.add([case("a")])
    journal.add([case("a")])
    assert written(journal, out, scan_files("a")) == [case("a")]
    journal.close()
    journal, kept = resumed(out, scan_files("a"), now("a"))
    assert kept == {"a"} and len(list(journal.cases(scan_files("a")))) == 1
    journal.close()


def test_what_changed_or_failed_is_done_again(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    journal = start_journal(out, header())
    journal.add([case("a"), case("b"), case("c", code="x"), case("gone")])
    journal.close()
    files = scan_files("a", "b", "c", "new")
    contents = now("a", "c", "new", b=7)
    journal, kept = resumed(out, files, contents)
    assert kept == {"a", "c"}
    journal.close()
    journal, kept = resumed(out, files, contents, retry=True)
    assert kept == {"a"}
    found = written(journal, out, files)
    assert [one.id for one in found] == ["a", "gone"]  # scans that are not named any more keep their results
    journal.close()


def test_a_name_that_another_scan_has_now_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    journal = start_journal(out, header())
    journal.add([case("a", "old/a.nii")])
    journal.close()
    with pytest.raises(PredictionsError, match=r"case 'a' is there already, of another scan: old/a\.nii"):
        resumed(out, scan_files("a"), now("a"))
    assert journal_path(out).read_bytes().count(b"\n") == 3
    assert [one.name for one in tmp_path.iterdir()] == ["r.json.journal.jsonl"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "other"}, "its task is task, and now it would be other"),
        ({"model": {"name": "m", "sha256": "b" * 64}}, r"its model's sha256 is a{64}, and now it would be b{64}"),
        ({"engine": ENGINE | {"precision": "fp16"}}, "its engine's precision is fp32, and now it would be fp16"),
        ({"engine": ENGINE | {"preprocessing": "dali"}}, "its engine's preprocessing is reference"),
        ({"engine": ENGINE | {"version": "2"}}, "its engine's version is None, and now it would be 2"),
        ({"model": {"name": "m", "sha256": "a" * 64, "confidence_sha256": "c"}}, "its model's confidence_sha256 is"),
        ({"model": {"name": "m", "sha256": "a" * 64, "build_sha256": "c"}}, "its model's build_sha256 is None"),
        ({"run": {"version": "9"}}, "its run's version is None, and now it would be 9"),
        ({"run": {"measurements": [{"name": "length"}]}}, "its run's measurements is None"),
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
        journal.add([case("a")])
        journal.close()
    before = {one: one.read_bytes() for one in tmp_path.iterdir()}
    with pytest.raises(PredictionsError, match=says) as caught:
        resumed(out, scan_files("a"), now("a"), head=header(**changes))
    assert caught.value.code == "resume_mismatch" and str(tmp_path) in caught.value.message
    assert {one: one.read_bytes() for one in tmp_path.iterdir()} == before
    other_reason = header(engine=ENGINE | {"note": "another reason"})
    resumed(out, scan_files("a"), now("a"), head=other_reason)[0].close()


def test_a_complete_results_file_can_be_added_to(tmp_path: Path) -> None:
    """What a scan holds counts, not when it was written."""
    out = tmp_path / "r.json"
    unknown = replace(case("d"), input=None)
    header(cases=[case("a"), case("b"), case("c"), unknown]).write(out)
    (journal, kept) = resumed(out, scan_files("a", "b", "c", "d"), now("a", "d", b=2))
    assert kept == {"a"}
    assert [one.id for one in read_predictions(out).cases] == ["a", "b", "c", "d"]  # until the run is complete
    journal.close()


def test_what_a_run_that_died_had_begun_is_suspected(tmp_path: Path) -> None:
    out, files = tmp_path / "r.json", scan_files("a", "b", "c", "d")

    def died() -> set[str]:
        """Begin all but 'd', finish 'a', and end without a word."""
        journal, kept, suspects = resume_journal(out, header(), files, now(*"abcd"), False, Tally(4))
        for file in files[:3]:
            if file.id not in kept:
                journal.begin(file)
        journal.add([case("a")])
        journal._stream.close()
        return suspects

    assert died() == set()
    assert died() == {"b", "c"}
    journal, _, suspects = resume_journal(out, header(), files, now(*"abcd"), False, Tally(4))
    assert suspects == {"b", "c"}
    journal.begin(files[1])
    journal.begin(files[3])
    journal.add([case("b")])
    journal.close()  # in order, so that 'd' is beyond suspicion, but 'c' has not been tried
    journal, kept, suspects = resume_journal(out, header(), files, now(*"abcd"), False, Tally(4))
    assert (kept, suspects) == ({"a", "b"}, {"c"})
    journal.close()


def test_two_runs_never_have_the_same_results_file(tmp_path: Path) -> None:
    """Many start at once, again and again; whoever has it counts up without being disturbed."""
    out, count = tmp_path / "r.json", tmp_path / "count"
    count.write_text("0")
    code = """
import sys, time
from pathlib import Path
from tests.runs.test_journal import header
from trt_landmarks.errors import PredictionsError
from trt_landmarks.runs.journal import start_journal
out, count = map(Path, sys.argv[1:])
done = 0
while done < 30:
    try:
        journal = start_journal(out, header())
    except PredictionsError as error:
        assert error.code == "run_in_use", error
        continue
    number = int(count.read_text())
    time.sleep(0.001)
    count.write_text(str(number + 1))
    journal.remove()
    done += 1
"""
    runs = [subprocess.Popen([sys.executable, "-c", code, out, count]) for _ in range(4)]
    assert [run.wait() for run in runs] == [0] * 4
    assert count.read_text() == "120"
    assert [one.name for one in tmp_path.iterdir()] == ["count"]


def test_damaged_lines_are_computed_anew_and_a_damaged_head_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "r.json"
    journal = start_journal(out, header())
    journal.add([case("a"), case("b")])
    journal.close()
    whole = journal.path.read_bytes()
    damages = (b'"located"', b'"lost"'), (b"1.5,", b"2.5,"), (b"nose", b"n\xff\xffe"), (b'"bytes": 1', b'"bytes": 2')
    for damage in damages:
        assert damage[0] in whole
        journal.path.write_bytes(whole.replace(*damage, 1))
        journal, kept = resumed(out, scan_files("a", "b"), now("a", "b"))
        journal.close()
        assert kept == {"b"} and "line 2 is damaged" in caplog.text
        assert journal.path.read_bytes().count(b"\n") == 3
        caplog.clear()
    journal.path.write_bytes(whole.replace(b'"journal": 3', b'"journal": 9'))
    with pytest.raises(PredictionsError, match="first line does not say"):
        resumed(out, scan_files("a"), now("a"))
    start_journal(out, header(), overwrite=True).close()


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """The file may grow by half a case more, and then no further."""
    code = """
import resource, signal, sys
from pathlib import Path
from tests.runs.test_journal import case, header, scan_files
from trt_landmarks.errors import PredictionsError
from trt_landmarks.runs.journal import Journal, journal_path, start_journal
from trt_landmarks.runs.report import Tally
from trt_landmarks.runs.resume import Contents, resume_journal
journal = start_journal(Path(sys.argv[1]), header())
journal.add([case("a")])
size = journal.path.stat().st_size
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
try:
    journal.add([case("b")])
except PredictionsError as error:
    assert "cannot be written" in str(error)
    assert journal.path.stat().st_size == size
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    journal.add([case("b")])
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
    journal.add([case(file.id, file.shown)])
    (found,) = written(journal, out, [file])
    assert found.id == found.path == file.shown
    json.loads(out.read_text(encoding="utf-8"))
    journal.close()
    journal, kept = resumed(out, [file], now(file.id))
    assert kept == {file.id}
    journal.close()
