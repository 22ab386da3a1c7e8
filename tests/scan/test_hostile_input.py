"""Hostile input: whatever lies in a folder, the command ends, says what is wrong, and the whole scans are done."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import fuzz
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.scan import Scan

#: Mutants; ``python -m benchmarks.fuzz`` makes others, for as long as it is left.
COUNT, SEED = 500, 0


@pytest.fixture(scope="module")
def scan(real: Path) -> Scan:
    return fuzz.piece(real)


def test_broken_scans_and_traps_do_no_harm(scan: Scan, tiny_bundle: Bundle, tmp_path: Path) -> None:
    """No crash, traceback or hang, no more memory than allowed, and the whole scans' results stay the same."""
    found = fuzz.run_round(tmp_path, scan, str(tiny_bundle.root), COUNT, SEED)
    assert found.problems == []
    assert found.report["status"] == "finished"
    mutants = [case for id, case in found.cases.items() if "m0" in case["path"]]
    assert len(mutants) >= COUNT - 5  # a file that has become no DICOM file leaves no series
    failed = [case for case in mutants if case["error"] is not None]
    assert 0.4 * COUNT < len(failed) < 0.95 * COUNT
    assert len({case["error"]["code"] for case in failed}) >= 5
    trapped = {Path(case["path"]).name: case for case in found.cases.values() if "/traps/" in case["path"]}
    assert len(trapped) >= 28 and all(case["error"] is not None for case in trapped.values())
    for case in found.cases.values():
        if case["error"] is not None:
            assert "\n" not in case["error"]["message"]
            assert not any(word in case["error"]["message"] for word in ("itk::", ".cxx", "gdcm"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("import os; os.abort()", "exit code -6"),
        ("import time; time.sleep(60)", "it hangs"),
        ("import numpy; block = numpy.ones(3 << 25, float)", "MiB of memory"),
        ("import trt_landmarks.runs.batch as i; i._case = None", "exit code 2"),
    ],
)
def test_the_fuzzer_sees_what_must_not_be(
    wrong: str, says: str, scan: Scan, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "CODE", f"{wrong}; {fuzz.CODE}")
    monkeypatch.setattr(fuzz, "SECONDS", 5.0 if "sleep" in wrong else 60.0)
    found = fuzz.run_round(tmp_path, scan, str(tiny_bundle.root), 0, SEED)
    assert any(says in problem for problem in found.problems), found.problems
