"""A run over many scans: its journal, its results file, its log and its report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from trt_landmarks.errors import PipelineError, TrtlmError
from trt_landmarks.results.case import CaseResult
from trt_landmarks.results.predictions import Predictions
from trt_landmarks.runs.alone import Opener, infer_alone
from trt_landmarks.runs.batch import Look, Progress, case_input, infer
from trt_landmarks.runs.isolation import Isolation
from trt_landmarks.runs.journal import start_journal
from trt_landmarks.runs.log import RunLog
from trt_landmarks.runs.memory import MemoryBudget
from trt_landmarks.runs.report import Tally, run_report, write_report
from trt_landmarks.runs.resume import resume_journal
from trt_landmarks.runs.workers import AnyLocalizer
from trt_landmarks.scan import ScanFile, read_scan
from trt_landmarks.system import memory_bytes, terminable


@dataclass(frozen=True)
class Unfinished:
    """What is done with what an earlier run left.

    Attributes:
        resume: go on with it.
        retry_failed: going on, compute failed cases again.
        overwrite: throw its journal away.

    Raises:
        TrtlmError: if these contradict each other.
    """

    resume: bool = False
    retry_failed: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.resume and self.overwrite:
            raise TrtlmError("--resume and --overwrite contradict each other.", "Give one of them.", code="usage")
        if self.retry_failed and not self.resume:
            raise TrtlmError("--retry-failed needs --resume.", "Give both.", code="usage")


@dataclass(frozen=True)
class Limits:
    """What a run may take.

    Attributes:
        timeout: seconds for reading a scan, and for computing it; None for any time.
        memory: of all scans that are in memory; None for as many as are read ahead.
    """

    timeout: float | None = None
    memory: MemoryBudget | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: ``finished``, ``interrupted`` or ``failed``.
        problem: what ended a failed run.
        found: what came of the cases.
        flawed: whether something besides the cases went wrong.
    """

    status: str
    problem: str | None
    found: Tally
    flawed: bool = False

    @property
    def exit_code(self) -> int:
        """0 all scans ok; 1 some failed or do not show the anatomy; 2 all failed; 130 interrupted."""
        if self.status == "interrupted":
            return 130
        if self.status != "finished":
            return 1 if self.found.done else 2
        if not self.found.failed:
            return int(self.flawed or self.found.wrong > 0)
        return 2 if self.found.failed == self.found.scans else 1


class Run:
    """A run that has its journal, and knows what is left to do; :meth:`go` ends it.

    Args:
        files: the scans.
        header: task, model and engine of the results file; its cases do not count.
        out: the results file.
        unfinished: what is done with what an earlier run left.
        results: whether ``out`` becomes a results file; else only its journal is kept while the run lasts.

    Attributes:
        todo: the files that are not done.
        suspects: ids of those of them that an earlier run had begun when it died.

    Raises:
        PredictionsError: see :func:`~trt_landmarks.runs.journal.start_journal` and
            :func:`~trt_landmarks.runs.resume.resume_journal`.
    """

    def __init__(
        self,
        files: Sequence[ScanFile],
        header: Predictions,
        out: Path,
        unfinished: Unfinished = Unfinished(),
        results: bool = True,
    ) -> None:
        self._files, self._header, self._out, self._unfinished = files, header, out, unfinished
        self._results = results
        self._tally = Tally(len(files))
        self._done: set[str] = set()  # ids of the scans whose cases are counted
        self.suspects: set[str] = set()
        if unfinished.resume:
            self._journal, self._done, self.suspects = resume_journal(
                out, header, files, case_input, unfinished.retry_failed, self._tally
            )
        else:
            self._journal = start_journal(out, header, unfinished.overwrite)
        self.todo = [file for file in files if file.id not in self._done]

    def go(
        self,
        localizers: Sequence[AnyLocalizer],
        *,
        batch: int = 1,
        readers: int | None = None,
        limits: Limits = Limits(),
        log: RunLog | None = None,
        report: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        progress: Progress = lambda case, done, count: None,
        look: Look = lambda case, scan: None,
        finish: Callable[[Sequence[CaseResult]], None] | None = None,
        problems: Sequence[str] = (),
        isolation: Isolation | None = None,
        opener: Opener | None = None,
    ) -> Outcome:
        """Do what is left, and write results and report, whatever ends it.

        Ctrl-C, SIGTERM and SIGHUP end it cleanly.  The journal is removed if all is done.

        Args:
            localizers: see :func:`trt_landmarks.runs.batch.infer`.
            batch: the same.
            readers: the same.
            limits: what it may take.
            log: receives a line for every case.
            report: where the report goes.
            settings: further settings to report.
            progress: called after every case, in order.
            look: see :func:`trt_landmarks.runs.batch.infer`.
            finish: called with the cases of ``files``, all in memory, when the results file is written.
            problems: what went wrong besides the cases; it may grow while the run goes on.
            isolation: see :func:`trt_landmarks.runs.batch.infer`.
            opener: opens the same workers in another process, where suspects are computed; None to compute them here.

        Raises:
            TrtlmError: if results or report cannot be written, or if no case of the run can be computed.
        """
        log = log or RunLog()
        started, clock = datetime.now(timezone.utc), time.monotonic()
        log.say(f"{len(self.todo)} of {len(self._files)} scans to do, model {self._header.model['name']}, "
                f"engine {self._header.engine['name']}")  # fmt: skip

        first: list[ScanFile] = []  # that are computed apart from the others

        def advance(case: CaseResult, done: int, count: int) -> None:
            log.case(case, done + len(first), len(self.todo))
            progress(case, done + len(first), len(self.todo))

        status, problem, raised = "finished", None, None
        try:
            with terminable():
                apart = self.suspects if opener is not None else set()
                first = [file for file in self.todo if file.id in apart]
                if opener is not None and first:
                    memory = memory_bytes() if isolation is None else isolation.memory
                    cases = infer_alone(first, opener, memory, limits.timeout, self._journal.begin)
                    for number, case in enumerate(cases):
                        self._keep([case])
                        advance(case, number + 1 - len(first), 0)
                        if case.status == "ok":
                            look(case, read_scan(first[number]))  # this one killed nobody
                others = [file for file in self.todo if file.id not in apart]
                infer(
                    others, localizers, self._keep, batch=batch, readers=readers, progress=advance, look=look,
                    timeout=limits.timeout, memory=limits.memory, isolation=isolation,
                    begin=self._journal.begin,
                )  # fmt: skip
        except KeyboardInterrupt:
            status = "interrupted"
        except PipelineError as error:
            status, problem = "failed", str(error)
        except BaseException as error:
            status, problem, raised = "failed", str(error) or type(error).__name__, error
        try:
            outcome = Outcome(status, problem, self._finish(status, finish), bool(problems))
        except BaseException:
            self._journal.close()
            raise
        log.say(f"{status}: {outcome.found.ok} ok, {outcome.found.failed} failed" + (f": {problem}" if problem else ""))
        if report is not None:
            chosen = {
                "batch": batch, "jobs": len(localizers), "timeout_s": limits.timeout, "limit_memory_bytes": None,
                "resume": self._unfinished.resume, "retry_failed": self._unfinished.retry_failed, **(settings or {}),
            }  # fmt: skip
            content = run_report(
                self._header, self._out, outcome.found, chosen, started=started, seconds=time.monotonic() - clock,
                status=status, problem=problem, exit_code=2 if raised else outcome.exit_code,
            )  # fmt: skip
            write_report(report, content)
        if raised is not None:
            raise raised
        return outcome

    def _keep(self, cases: Sequence[CaseResult]) -> None:
        """Put cases into the journal and count them; what comes again after an interruption counts once."""
        self._journal.add(cases)
        for case in cases:
            if case.id not in self._done:
                self._done.add(case.id)
                self._tally.add(case)

    def _finish(self, status: str, finish: Callable[[Sequence[CaseResult]], None] | None) -> Tally:
        """Write the results file; the journal goes if the run is complete."""
        if self._results:
            self._journal.write_results(self._header, self._out, self._files)
        if finish is not None:
            finish(list(self._journal.cases(self._files)))
        if status == "finished":
            self._journal.remove()
        else:
            self._journal.close()
        return self._tally
