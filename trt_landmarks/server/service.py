"""The models that are served, and the threads that read and compute for all requests.

A run over a folder and the server do the same with a scan (:class:`trt_landmarks.runs.batch.Stages`): the same limits
of time and memory, the same codes.  What differs is that the list of scans has no end.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.errors import ScanError, TrtlmError
from trt_landmarks.localization.case import failed_case
from trt_landmarks.results.case import CaseError, CaseResult
from trt_landmarks.results.predictions import Predictions
from trt_landmarks.runs.batch import Loaded, Stages
from trt_landmarks.runs.memory import EXTRA, FACTOR, MemoryBudget, scan_need
from trt_landmarks.runs.pipeline import Patience, Pipeline
from trt_landmarks.runs.workers import Workers, readers_for
from trt_landmarks.scan import Scan, ScanFile, read_scan
from trt_landmarks.scan.arrays import scan_from_affine
from trt_landmarks.scan.text_headers import confined
from trt_landmarks.server.jobs import COMPUTING, READING, Job, JobFile, Queue, Volume


class Service:
    """Localizes in scans, one after the other, for whoever asks; :meth:`close` it.

    Args:
        models: bundles and what works on them, the same number of workers for each; the first is the default.
        most: scans that wait or are under way, at most.
        timeout: seconds for reading a scan, and for computing it.
        memory: bytes for scans in memory; None for as many as are read ahead.
        done: called with every job when it is done.
        broken: called if no more scans can be computed.
    """

    def __init__(
        self,
        models: Sequence[tuple[Bundle, Workers]],
        *,
        most: int = 32,
        timeout: float | None = None,
        memory: int | None = None,
        done: Callable[[Job, CaseResult], None] = lambda job, case: None,
        broken: Callable[[], None] = lambda: None,
    ) -> None:
        self.models: Mapping[str, tuple[Bundle, Workers]] = {bundle.name: (bundle, opened) for bundle, opened in models}
        self.queue = Queue(most)
        self._done, self._broken = done, broken
        self._problem: str | None = None
        self._closed = False
        localizers = {name: opened.localizers for name, (_, opened) in self.models.items()}
        count = min(map(len, localizers.values()))
        self._stages = Stages(
            [one for each in localizers.values() for one in each], timeout,
            None if memory is None else MemoryBudget(memory, _need), lambda number: [self.queue[number][1]],
            load=_load,
        )  # fmt: skip

        def worker(place: int) -> Callable[[list[Loaded]], list[CaseResult]]:
            def work(batch: list[Loaded]) -> list[CaseResult]:
                job = _job(batch)
                if job is None:
                    return []
                job.state = COMPUTING
                localizer = localizers[job.model][place]
                return self._finished(batch, self._stages.localize(batch, localizer, lambda case, scan: None))

            return work

        stages = self._stages
        self._pipeline: Pipeline[tuple[int, JobFile], Loaded, list[CaseResult]] = Pipeline(
            self.queue, self._read, [worker(place) for place in range(count)],
            readers=readers_for(next(iter(localizers.values()))[:count]), name=lambda item: item[1].id,
            cancel=stages.cancel,
            patience=Patience(
                stages.watch.late, stages.cancel, stages.unread,
                lambda batch: self._finished(batch, stages.uncomputed(batch)),
            ),
        )  # fmt: skip
        self._thread = threading.Thread(target=self._run, name="trtlm-serve", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether scans can be computed."""
        return self._problem is None and not self._closed

    def bundle(self, model: str | None = None) -> Bundle:
        """A model, or the default.

        Raises:
            TrtlmError: if no model of that name is served.
        """
        name = model or next(iter(self.models))
        if name not in self.models:
            known = ", ".join(self.models)
            raise TrtlmError(f"{name}: no such model is served.", f"Served: {known}.", code="model_missing")
        return self.models[name][0]

    def submit(self, file: ScanFile, model: str | None = None, volume: Volume | None = None) -> Job:
        """Put a scan into the queue.

        Raises:
            TrtlmError: if there is no such model, the queue is full or the server stops.
        """
        job = Job(self.bundle(model).name, file, volume)
        if self._problem is not None:
            raise TrtlmError(self._problem, "Start the server again.", code="worker_died")
        self.queue.put(job)
        return job

    def predictions(self, job: Job, case: CaseResult) -> Predictions:
        """The results file of a case."""
        bundle, opened = self.models[job.model]
        engine = opened.engine
        return Predictions(
            bundle.task.name,
            {"name": bundle.name, "sha256": bundle.sha256},
            {"name": engine.name, "precision": engine.precision, "provider": engine.provider, "note": opened.note},
            [case],
        )

    def close(self) -> None:
        """End all threads; scans that are not done fail."""
        self._closed = True
        left = self.queue.close()
        self._stages.end()
        self._pipeline.close()
        for job in left:
            self._fail(job, TrtlmError("the server is stopping.", "Try again later.", code="server_stopping"))
        for _, opened in self.models.values():
            for engine in {id(one.engine): one.engine for one in opened.localizers}.values():
                close = getattr(engine, "close", None)
                if close is not None:
                    close()

    def _run(self) -> None:
        """Keep the pipeline going; the jobs have their results already."""
        try:
            for _ in self._pipeline:
                pass
        except Exception as error:
            if self._closed:
                return
            self._problem = str(error)
            for job in self.queue.close():
                self._fail(job, TrtlmError(self._problem, code="worker_died"))
            self._broken()

    def _read(self, item: tuple[int, JobFile]) -> Loaded:
        number, file = item
        if file.job is None:
            return Loaded(number, file, failed_case(file, TrtlmError("closed.")))
        file.job.state = READING
        return self._stages.read(item)

    def _finished(self, batch: Sequence[Loaded], cases: list[CaseResult]) -> list[CaseResult]:
        job = _job(batch)
        if job is not None:
            self.queue.forget(batch[0].number)
            case = _shown(job, cases[0])
            self._done(job, case)
            job.finish(case)
        return []

    def _fail(self, job: Job, error: TrtlmError) -> None:
        job.finish(_shown(job, failed_case(job.file, error)))


def _shown(job: Job, case: CaseResult) -> CaseResult:
    """A case that names the scan as the client did, and not where it lies on this machine."""
    folder = str(job.file.path.parent)
    error = case.error and CaseError(case.error.code, case.error.message.replace(f"{folder}/", ""))
    seconds = {**case.timing_ms, "server": 1000 * (time.monotonic() - job.started)}
    return replace(case, path=job.file.path.name, error=error, timing_ms=seconds)


def _job(batch: Sequence[Loaded]) -> Job | None:
    file = batch[0].file
    return file.job if isinstance(file, JobFile) else None


def _load(file: ScanFile) -> Scan:
    """Read a job's scan; what it holds must not make the server read files of its own."""
    volume = file.job.volume if isinstance(file, JobFile) and file.job is not None else None
    if volume is None:
        with confined():
            return read_scan(file)
    if volume.voxels.ndim != 3:
        raise ScanError(f"{file.id}: is not one 3D volume.", "Give an array [k, j, i].", code="scan_dimensions")
    scan = scan_from_affine(volume.voxels.T, np.asarray(volume.affine), "RAS")
    return replace(scan, id=file.id)


def _need(file: ScanFile) -> int:
    """Bytes that a job's scan takes."""
    volume = file.job.volume if isinstance(file, JobFile) and file.job is not None else None
    return scan_need(file) if volume is None else int(FACTOR * volume.voxels.nbytes) + EXTRA
