"""Runs that are cut off, and go on; their reports and logs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.cli.test_cli import make_scan, read, trtlm
from tests.runs.test_batch import TASK, Reader, empty, put, start
from tests.synthetic import HEAD
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.errors import PredictionsError, TrtlmError
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.results.case import CaseResult
from trt_landmarks.results.predictions import Predictions, read_predictions
from trt_landmarks.runs import batch
from trt_landmarks.runs import log as log_module
from trt_landmarks.runs.journal import journal_path
from trt_landmarks.runs.log import RunLog
from trt_landmarks.runs.report import SCHEMA_FILE
from trt_landmarks.runs.run import Run, Unfinished
from trt_landmarks.scan import Scan, ScanFile, find_scans

COUNT = 12


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Scans, two of which cannot be read."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(COUNT):
        make_scan(folder / f"scan-{number:02}.mha", number)
    for number in (3, 8):
        (folder / f"scan-{number:02}.mha").write_bytes(b"not a scan")
    return folder


@pytest.fixture
def localizer() -> Localizer:
    return Localizer(TASK, HEAD, Reader())


def report_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    Draft202012Validator(json.loads(SCHEMA_FILE.read_text())).validate(content)
    counts = content["counts"]
    assert counts["scans"] == counts["ok"] + counts["failed"] + counts["not_done"]
    assert counts["ok"] + counts["failed"] == counts["computed"] + counts["from_before"]
    return content


def without_times(path: Path) -> dict[str, object]:
    content = read(path)
    for case in content["cases"]:  # type: ignore[attr-defined]
        case["timing_ms"] = sorted(case["timing_ms"])
    return content


def lines(journal: Path) -> int:
    """The first line, and those of cases."""
    return 1 + journal.read_bytes().count(b'"case":') if journal.exists() else 0


def wait_for_cases(process: subprocess.Popen[str], out: Path, count: int) -> None:
    end = time.monotonic() + 120
    while process.poll() is None and lines(journal_path(out)) <= count and time.monotonic() < end:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()


SLOWLY = """
from tests.runs.hostile import slow_read
from trt_landmarks.runs import batch
batch.read_scan = slow_read"""


def test_a_run_that_is_killed_goes_on(tiny_bundle: Bundle, scans: Path, tmp_path: Path) -> None:
    whole, out, report = tmp_path / "whole.json", tmp_path / "out.json", tmp_path / "report.json"
    model = "--model", tiny_bundle.root
    trtlm("infer", scans, "--out", whole, *model, code=1)
    with start("infer", scans, "--out", out, *model, before=SLOWLY) as process:
        wait_for_cases(process, out, 5)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL and not out.exists()
    journal = journal_path(out)
    done = lines(journal) - 1
    assert 5 <= done < COUNT
    with journal.open("ab") as stream:
        stream.write(b'{"scan":[1,2,1],"case":{"id":"sc')  # as if it had been killed while writing
    refused = trtlm("infer", scans, "--out", out, *model, code=2)
    assert (
        f"holds {done} case(s)" in refused.stderr and "--resume" in refused.stderr and "--overwrite" in refused.stderr
    )
    trtlm("infer", scans, "--out", out, *model, "--resume", "--report", report, code=1)
    assert without_times(out) == without_times(whole)
    assert not journal.exists()
    counts = report_of(report)["counts"]
    assert counts == {"scans": COUNT, "ok": COUNT - 2, "failed": 2, "not_done": 0, "computed": COUNT - done,
                      "from_before": done}  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.json", "report.json", "scans", "whole.json"
    ]  # fmt: skip

    make_scan(scans / "scan-03.mha", 3)
    time.sleep(0.01)
    trtlm("infer", scans, "--out", out, *model, "--resume", "--retry-failed", "--report", report, code=1)
    counts = report_of(report)["counts"]
    assert (counts["ok"], counts["failed"], counts["computed"]) == (COUNT - 1, 1, 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_end_reports(
    tiny_bundle: Bundle, scans: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out, report, log = tmp_path / "out.json", tmp_path / "report.json", tmp_path / "run.log"
    arguments = ["infer", scans, "--out", out, "--model", tiny_bundle.root, "--report", report, "--log", log]
    with start(*arguments, before=SLOWLY) as process:
        wait_for_cases(process, out, 4)
        process.send_signal(number)
        _, message = process.communicate(timeout=120)
    assert process.returncode == 130, message
    content = report_of(report)
    cases = read_predictions(out).cases
    assert (content["status"], content["exit_code"]) == ("interrupted", 130)
    assert content["counts"]["not_done"] == COUNT - len(cases) > 0
    assert lines(journal_path(out)) == len(cases) + 1
    assert message.splitlines()[-1] == (
        f"trtlm: interrupted; {len(cases)} of {COUNT} scans are in {out}; continue with --resume"
    )
    assert "interrupted" in log.read_text().splitlines()[-1]


def test_the_report_names_nothing_but_what_was_named(tiny_bundle: Bundle, scans: Path, tmp_path: Path) -> None:
    import platform

    out, report, log = tmp_path / "out.json", tmp_path / "report.json", tmp_path / "run.log"
    done = trtlm("infer", scans, "--out", out, "--model", tiny_bundle.root, "--report", report, "--log", log,
                 "--jobs", 3, "--timeout", 60, "--limit-memory", "8G", code=1)  # fmt: skip
    content = report_of(report)
    text = report.read_text().replace(str(out), "")
    assert str(tmp_path) not in text and str(tiny_bundle.root) not in text and os.getcwd() not in text
    assert not platform.node() or platform.node() not in text
    assert content["failures"] == {"scan_format": 2} and content["warnings"] == {}
    assert content["model"] == {"name": "tiny", "sha256": tiny_bundle.sha256}
    settings = content["settings"]
    assert (settings["jobs"], settings["timeout_s"], settings["limit_memory_bytes"]) == (3, 60, 8 << 30)
    assert content["stages_ms"]["total"]["sum"] >= content["stages_ms"]["coarse"]["median"] > 0
    assert content["peak_memory_bytes"] > 1 << 26
    assert len(done.stderr.splitlines()) == 3  # what runs, and two failures
    logged = log.read_text().splitlines()
    assert len(logged) == COUNT + 2
    for line in logged:
        assert re.match(r"(INFO|ERROR) \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", line), line
    assert sum(line.startswith("ERROR") and " failed scan_format " in line for line in logged) == 2
    assert sum(bool(re.search(r" scan-\d\d ok \d+ ms$", line)) for line in logged) == COUNT - 2


def test_choices_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    for arguments, says in (
        (["--resume", "--overwrite"], "contradict"),
        (["--retry-failed"], "needs --resume"),
        (["--resume", "--anonymize"], "--anonymize-key"),
        (["--limit-memory", "much"], "is not a size"),
    ):
        done = trtlm("infer", tmp_path, "--out", out, *arguments, code=2)
        assert says in done.stderr


def test_the_journal_grows_case_by_case(tmp_path: Path, localizer: Localizer) -> None:
    for name in "abc":
        put(tmp_path, name, 30)
    out = tmp_path / "r.json"
    counts: list[int] = []
    run = Run(find_scans([tmp_path]), empty(), out)
    empty().write(out)  # an older results file stays until the new one is complete
    run.go([localizer], progress=lambda *_: counts.append(lines(journal_path(out)) - 1))
    assert counts == [1, 2, 3]
    assert [case.id for case in read_predictions(out).cases] == list("abc")
    assert not journal_path(out).exists()


def test_an_interruption_leaves_results_journal_and_threads_in_order(tmp_path: Path, localizer: Localizer) -> None:
    for name in "abcdef":
        put(tmp_path, name, 30)
    files, out = find_scans([tmp_path]), tmp_path / "r.json"

    def interrupt(case: CaseResult, done: int, count: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    outcome = Run(files, empty(), out).go([localizer], progress=interrupt)
    assert outcome.status == "interrupted" and outcome.exit_code == 130
    some = [case.id for case in read_predictions(out).cases]
    assert 2 <= len(some) and some == list("abcdef")[: len(some)]
    run = Run(files, empty(), out, Unfinished(resume=True))
    assert [file.id for file in run.todo] == list("abcdef")[len(some) :]
    assert run.go([localizer]).exit_code == 0
    assert [case.id for case in read_predictions(out).cases] == list("abcdef")


def test_an_error_of_the_toolkit_itself_keeps_what_was_computed(tmp_path: Path, localizer: Localizer) -> None:
    for name in "abcd":
        put(tmp_path, name, 30)
    out, report = tmp_path / "r.json", tmp_path / "report.json"

    def fail(case: CaseResult, done: int, count: int) -> None:
        if done == 2:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        Run(find_scans([tmp_path]), empty(), out).go([localizer], progress=fail, report=report)
    assert len(read_predictions(out).cases) >= 2 and lines(journal_path(out)) >= 3
    content = report_of(report)
    assert (content["status"], content["problem"], content["exit_code"]) == ("failed", "a bug", 2)


def test_a_results_file_that_cannot_be_written_is_found_out_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a", 30)
    files = find_scans([tmp_path])

    def never(file: ScanFile) -> Scan:
        raise AssertionError("a scan was read")

    monkeypatch.setattr(batch, "read_scan", never)
    with pytest.raises(PredictionsError, match="cannot be written"):
        Run(files, empty(), tmp_path / "nowhere" / "results.json")


def test_results_can_go_to_a_pipe(tmp_path: Path) -> None:
    put(tmp_path, "a", 30)
    out = tmp_path / "stdout"
    out.symlink_to("/proc/self/fd/1")  # as /dev/stdout is
    code = f"""
from pathlib import Path
from tests.runs.test_batch import *
from trt_landmarks.runs.run import Run
Run(find_scans([{str(tmp_path / "a.mha")!r}]), empty(), Path({str(out)!r})).go([localizer()])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [case["id"] for case in json.loads(done.stdout)["cases"]] == ["a"]
    assert out.is_symlink()


@pytest.fixture
def quick_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(log_module, "MINUTES", 0.0)
    yield


def test_the_log_says_how_far_the_run_is(tmp_path: Path, quick_log: None) -> None:
    log = RunLog(tmp_path / "run.log")
    log.case(CaseResult("a\n\x1b[1m", "a", timing_ms={"total": 5}), 1, 4)
    log.close()
    case, progress = (tmp_path / "run.log").read_text().splitlines()
    assert case.endswith("a\\n\\x1b[1m ok 5 ms")
    assert re.search(r"1 of 4 done \(25 %\), [\d.e+]+ scans/s, 0:00:\d\d left$", progress)
    with pytest.raises(TrtlmError, match="the log cannot be written"):
        RunLog(tmp_path)


def test_an_empty_run_has_empty_results(tmp_path: Path, localizer: Localizer) -> None:
    assert Run([], empty(), tmp_path / "r.json").go([localizer]).exit_code == 0
    assert read_predictions(tmp_path / "r.json") == Predictions(TASK.name, {"name": "test"}, {"name": "reader"})


def test_what_kills_a_run_fails_when_it_goes_on(tmp_path: Path) -> None:
    """Those that were begun with it have their results; the same killer is not met again."""
    for number, name in enumerate("abcdef"):
        put(tmp_path, name, 90 if name == "c" else 30 + number)
    out = tmp_path / "r.json"
    code = f"""
import sys
from pathlib import Path
from tests.runs.hostile import deadly_workers
from tests.runs.test_batch import empty
from trt_landmarks.runs.run import Run, Unfinished
from trt_landmarks.scan import find_scans
run = Run(find_scans([{str(tmp_path)!r}]), empty(), Path({str(out)!r}), Unfinished(resume=len(sys.argv) > 1))
outcome = run.go(deadly_workers().localizers, opener=deadly_workers)
print(sorted(run.suspects), outcome.found.ok, outcome.found.failed)
"""
    first = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert first.returncode == -signal.SIGABRT and not out.exists()
    second = subprocess.run([sys.executable, "-c", code, "resume"], capture_output=True, text=True, check=True)
    suspects, ok, failed = second.stdout.rsplit(" ", 2)
    assert "'c'" in suspects and (int(ok), int(failed)) == (5, 1)
    cases = read_predictions(out).cases
    assert [case.id for case in cases] == list("abcdef")
    assert {case.id: case.error.code for case in cases if case.error is not None} == {"c": "compute_crashed"}
    assert all(case.input is not None for case in cases)
    assert not journal_path(out).exists()
    again = code.replace("Unfinished(resume=", "Unfinished(retry_failed=True, resume=")
    third = subprocess.run([sys.executable, "-c", again, "resume"], capture_output=True, text=True, check=True)
    assert third.stdout.split() == ["['c']", "5", "1"]  # it is not met in the command itself again


def test_a_replaced_scan_is_computed_anew_and_a_touched_one_is_not(
    tiny_bundle: Bundle, scans: Path, tmp_path: Path
) -> None:
    out, report = tmp_path / "out.json", tmp_path / "report.json"
    model = "--model", tiny_bundle.root
    trtlm("infer", scans, "--out", out, *model, code=1)
    state = (scans / "scan-00.mha").stat()
    make_scan(scans / "scan-00.mha", 99)
    os.utime(scans / "scan-00.mha", ns=(state.st_atime_ns, state.st_mtime_ns))
    os.utime(scans / "scan-01.mha")
    trtlm("infer", scans, "--out", out, *model, "--resume", "--report", report, code=1)
    assert report_of(report)["counts"]["computed"] == 1


def test_the_header_says_what_made_the_results(tiny_bundle: Bundle, scans: Path, tmp_path: Path) -> None:
    from trt_landmarks import __version__

    out = tmp_path / "out.json"
    lengths = tmp_path / "lengths.yaml"
    one, other = tiny_bundle.task.landmarks[:2]
    lengths.write_text(f"measurements:\n- {{name: length, type: distance, points: [{one}, {other}]}}\n")
    arguments = ["infer", scans, "--out", out, "--model", tiny_bundle.root]
    trtlm(*arguments, "--measurements", lengths, "--timeout", 50, code=1)
    read(out)
    found = read_predictions(out)
    assert found.run["version"] == __version__ and found.run["versions"]["numpy"]
    assert found.run["settings"]["timeout_s"] == 50
    assert found.run["measurements"][-1]["name"] == "length"
    assert found.model["sha256"] == tiny_bundle.sha256 and found.model["build_sha256"] is None
    assert found.engine["version"]
    assert all(case.input is not None and case.input.modified for case in found.cases)
    refused = trtlm(*arguments, "--resume", code=2)
    assert "its run's measurements is" in refused.stderr
