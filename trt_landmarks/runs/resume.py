"""Going on with a run that was cut off: what is kept of it, and what may have killed it."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trt_landmarks.errors import PredictionsError
from trt_landmarks.results.case import CaseInput, CaseResult
from trt_landmarks.results.predictions import Predictions, read_predictions
from trt_landmarks.runs.isolation import COMPUTE_CRASHED
from trt_landmarks.runs.journal import Journal, entries, facts, first_line, journal_path, locked, replaced
from trt_landmarks.runs.report import Tally
from trt_landmarks.scan import ScanFile
from trt_landmarks.system import cores

#: What must be the same in a run that goes on, besides the task: keys of the results file's header.
SAME = {
    "model": ("name", "sha256", "confidence_sha256", "build_sha256"),
    "engine": ("name", "version", "precision", "provider", "preprocessing", "pose", "tta"),
    "run": ("version", "measurements"),
}
#: Gives what a scan holds now.
Contents = Callable[[ScanFile], CaseInput | None]


def resume_journal(
    out: Path, header: Predictions, files: Sequence[ScanFile], contents: Contents, retry: bool, tally: Tally
) -> tuple[Journal, set[str], set[str]]:
    """Go on with a run that was cut off, or add to a results file.

    A case is kept if its scan has the same name and path as then, and holds the same.  Cases of scans that are not
    named any more are kept too.

    Args:
        out: the results file.
        header: what the run is.
        files: the scans.
        contents: gives what a scan holds now; called by several threads.
        retry: whether failed cases are computed again.
        tally: counts the cases of ``files`` that are kept.

    Returns:
        The journal; the ids of ``files`` whose cases it holds; and the ids of those that were begun and not finished by
        a run that died, one of which may have killed it.

    Raises:
        PredictionsError: if what is there is of another task, model, engine or version, damaged, or used by another
            process.
    """
    if out.exists() and not out.is_file():
        raise PredictionsError(f"{out}: is not a file, so that no run can go on there.", "Leave --resume out.")
    with locked(journal_path(out)) as (path, stream):
        head = first_line(stream, path)
        suspects: set[str] = set()
        begun: set[str] = set()
        if head is None:
            before = read_predictions(out) if out.exists() else Predictions(header.task, header.model, header.engine)
            if out.exists():
                _same_run(out, header, facts(before))
            cases: Iterable[CaseResult] = before.cases
        else:
            _same_run(path, header, head)
            start = stream.tell()
            for kind, value in entries(stream, path):
                if kind == "begun":
                    begun.add(value)
                elif kind == "suspect":
                    suspects.add(value)
                elif kind == "ended":
                    begun.clear()
                else:
                    begun.discard(value.id)
                    suspects.discard(value.id)
            stream.seek(start)
            cases = (value for kind, value in entries(stream, path, quiet=True) if kind == "case")
        kept = _Kept(out, files, retry, tally)
        journal = replaced(path, header, kept.of(cases, contents))
    ids = {file.id for file in files}
    suspects = ((suspects | begun | kept.deadly) & ids) - kept.ids
    journal.suspect(sorted(suspects))
    return journal, kept.ids & ids, suspects


class _Kept:
    """Which cases of an earlier run are kept.

    Args:
        out: the results file.
        files, retry, tally: as for :func:`resume_journal`.

    Attributes:
        ids: of those that are.
        deadly: of those that are computed again although they killed their process.
    """

    def __init__(self, out: Path, files: Sequence[ScanFile], retry: bool, tally: Tally) -> None:
        self.ids: set[str] = set()
        self.deadly: set[str] = set()
        self._out, self._retry, self._tally = out, retry, tally
        self._files = {file.id: file for file in files}
        self._paths = {file.shown for file in files}

    def of(self, cases: Iterable[CaseResult], contents: Contents) -> Iterator[CaseResult]:
        """The cases that are kept, each once; scans are looked at in several threads."""
        with ThreadPoolExecutor(cores()) as pool:
            looked = ((case, self._looked(case, contents, pool)) for case in cases)
            waiting = deque(itertools.islice(looked, 4 * cores()))
            while waiting:
                case, unchanged = waiting.popleft()
                waiting.extend(itertools.islice(looked, 1))
                if case.id in self.ids or not (unchanged is None or unchanged.result()):
                    continue  # it was added twice, or is computed again
                self.ids.add(case.id)
                if case.id in self._files:
                    self._tally.add(case, before=True)
                yield case

    def _looked(self, case: CaseResult, contents: Contents, pool: ThreadPoolExecutor) -> Future[bool] | None:
        """Whether a case's scan is as it was; None for a scan that is not named any more."""
        file = self._files.get(case.id)
        if case.path not in self._paths:
            if file is not None:
                raise PredictionsError(
                    f"{self._out}: case '{case.id}' is there already, of another scan: {case.path}.",
                    "Name that scan too, or write to another file.",
                    code="resume_mismatch",
                )
            return None
        if case.error is not None and case.error.code == COMPUTE_CRASHED:
            self.deadly.add(case.id)
        if file is None or file.shown != case.path or (self._retry and case.status == "failed"):
            return pool.submit(bool)
        return pool.submit(lambda: _same_content(case.input, contents(file)))


def _same_content(then: CaseInput | None, now: CaseInput | None) -> bool:
    """Whether a scan holds the same; when it was written does not matter."""
    if then is None or now is None:
        return then is now
    return (then.bytes, then.files, then.sha256) == (now.bytes, now.files, now.sha256)


def _same_run(path: Path, header: Predictions, there: Mapping[str, Any]) -> None:
    """Refuse to go on with what another model, engine or version gave."""

    def compared(head: Mapping[str, Any]) -> dict[str, Any]:
        return {"task": head["task"]} | {
            f"{part}'s {key}": head[part].get(key) for part, keys in SAME.items() for key in keys
        }

    then, now = compared(there), compared(facts(header))
    for key in then:
        if then[key] != now[key]:
            raise PredictionsError(
                f"{path}: holds results of another run: its {key} is {_short(then[key])}, and now it would be "
                f"{_short(now[key])}.",
                "Write to another file, or run as then.",
                code="resume_mismatch",
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
