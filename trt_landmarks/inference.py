"""Inference over many scans: one bad scan never stops the rest, and nothing computed is lost.

Reading, computing and writing overlap (:mod:`trt_landmarks.pipeline`): readers and workers have threads of their
own, and the caller's thread puts the results in order and writes them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trt_landmarks.case_result import CaseError, CaseResult, CaseWarning, KeySlice, Landmark
from trt_landmarks.engines.base import Cancellable
from trt_landmarks.errors import ScanError, TrtlmError
from trt_landmarks.localizer import Localization, Localizer
from trt_landmarks.measurements import measure
from trt_landmarks.pipeline import Pipeline
from trt_landmarks.predictions import Predictions
from trt_landmarks.resident import ResidentLocalizer
from trt_landmarks.scan import Scan, ScanFile, read_scan
from trt_landmarks.scan.anonymize import reason

AnyLocalizer = Localizer | ResidentLocalizer

#: Called after every case: the case, how many are done, how many there are.
Progress = Callable[[CaseResult, int, int], None]
#: Called in a worker's thread with each case that is ok and its scan, which is let go afterwards.
Look = Callable[[CaseResult, Scan], None]

#: Seconds between intermediate writes of the results file, at least; the more results there are, the longer it takes,
#: and writing may have this share of the time.
SAVE_SECONDS = 5.0
SAVE_SHARE = 0.05

#: Workers that share a folder on the CPU, at most: each takes memory for what it computes.
MOST_WORKERS = 4
#: Readers beside GPUs, at most: each takes memory for what it reads.
MOST_READERS = 8


class _Read(NamedTuple):
    """A scan that was read, and how long that took."""

    file: ScanFile
    scan: Scan
    milliseconds: float


def infer(
    files: Sequence[ScanFile],
    localizers: Sequence[AnyLocalizer],
    predictions: Predictions,
    *,
    out: Path | None = None,
    batch: int = 1,
    readers: int | None = None,
    progress: Progress = lambda case, done, count: None,
    look: Look = lambda case, scan: None,
) -> Predictions:
    """Localize in every file and add a case to ``predictions`` for each, in order.

    The results are those of one localizer that takes batch after batch, whatever finishes first.

    Args:
        files: what :func:`trt_landmarks.scan.find_scans` found.
        localizers: each computes in a thread of its own, such as one for every GPU; they share the files.  They may
            share an engine that runs in several threads at once.
        predictions: receives the cases.
        out: results file, written every few seconds, when interrupted, and at the end.
        batch: scans that go through the nets together.
        readers: threads that read scans ahead; None for as many as help, see :func:`readers_for`.
        progress: called after every case, in order.
        look: called with every scan that was localized, to draw it for example; it must not raise.

    Raises:
        PredictionsError: if ``out`` cannot be written (found out before the first scan is read).
        PipelineError: if a thread dies of anything but a failure of a scan.
    """
    if out is not None:
        predictions.write(out)

    def cancel() -> None:
        for localizer in localizers:
            if isinstance(localizer.engine, Cancellable):
                localizer.engine.cancel()

    pipeline = Pipeline(
        files,
        _read,
        [partial(_localize_files, localizer=localizer, look=look) for localizer in localizers],
        batch=max(1, batch),
        readers=readers or readers_for(localizers),
        name=lambda file: file.shown,
        cancel=cancel,
    )
    saved, pause = time.monotonic(), SAVE_SECONDS
    try:
        done = 0
        for cases in pipeline:
            predictions.cases += cases  # all of them, before progress can be interrupted
            for case in cases:
                done += 1
                progress(case, done, len(files))
            if out is not None and time.monotonic() - saved > pause:
                start = time.monotonic()
                predictions.write(out)
                saved = time.monotonic()
                pause = max(SAVE_SECONDS, (saved - start) / SAVE_SHARE)
    finally:
        try:
            for cases in pipeline.close():
                predictions.cases += cases
        finally:
            if out is not None:
                predictions.write(out)
    return predictions


def side_by_side(batches: int, threads: int | None = None) -> tuple[int, int | None]:
    """How many workers share a folder on the CPU, and how many threads each of them has.

    Workers of one thread each get more done than one worker with all threads, which wait for each other between
    operators (on two cores 1.2 times as much: ``benchmarks/results/throughput.md``; more cores were not measured).
    But the last batches then run on a part of the cores, so that every worker should have two batches at least.

    Args:
        batches: how many there are to compute.
        threads: of all workers together; None for all cores.

    Returns:
        Workers, at most :data:`MOST_WORKERS`, and threads each; None lets the engine take all cores.
    """
    cores = threads or _cores()
    workers = min(cores, MOST_WORKERS, batches // 2)
    return (workers, -(-cores // workers)) if workers > 1 else (1, threads)


def readers_for(localizers: Sequence[AnyLocalizer]) -> int:
    """How many threads read: on the CPU one for each worker, beside GPUs one for each core.

    On the CPU, reading takes its time from computing: two readers beside two workers are hardly better than one
    (``benchmarks/results/throughput-large.md``).  A GPU leaves the cores to reading, and two readers on two cores get
    twice as much done as one (the same table); how many a GPU keeps busy was not measured.
    """
    if any(localizer.engine.provider == "GPU" for localizer in localizers):
        return min(_cores(), MOST_READERS)
    return len(localizers)


def case_result(file: ScanFile, scan: Scan, found: Localization, localizer: AnyLocalizer) -> CaseResult:
    """A localization as a case of the results file."""
    task = localizer.task
    inside = scan.geometry.contains(found.points)
    voxels = scan.geometry.world_to_voxel(found.points)
    landmarks = []
    for n, name in enumerate(task.landmarks):
        status = "located" if found.confidence[n] >= task.low_confidence_below else "low_confidence"
        landmarks.append(
            Landmark(
                name,
                status if inside[n] else "outside_scan",
                _triple(found.points[n]),
                _triple(voxels[n]),
                float(np.clip(found.confidence[n], 0, 1)),
            )
        )
    slices = tuple(
        KeySlice(plane.group.name, plane.group.axis, plane.position_mm, _triple(plane.point), _triple(plane.normal))
        for plane in found.slices
    )
    warnings = tuple(CaseWarning(one.code, one.message) for one in scan.warnings)
    measured = measure(task.measurements, landmarks)
    return CaseResult(file.id, file.shown, "ok", None, found.timing_ms, tuple(landmarks), slices, warnings, measured)


def _read(file: ScanFile) -> _Read | CaseResult:
    """A scan, or the failed case of one that cannot be read."""
    start = time.perf_counter()
    try:
        scan = read_scan(file)
    except (TrtlmError, MemoryError, OSError) as error:
        return _failed(file, error)
    return _Read(file, scan, 1000 * (time.perf_counter() - start))


def _localize_files(files: Sequence[_Read | CaseResult], localizer: AnyLocalizer, look: Look) -> list[CaseResult]:
    """Results of a batch of files, in order; what cannot be read or localized is a failed case."""
    scans = [file for file in files if isinstance(file, _Read)]
    cases = _localize_scans(scans, localizer)
    for read, case in zip(scans, cases, strict=True):
        if case.status == "ok":
            look(case, read.scan)
    located = iter(cases)
    return [next(located) if isinstance(file, _Read) else file for file in files]


def _localize_scans(scans: Sequence[_Read], localizer: AnyLocalizer) -> list[CaseResult]:
    """Results of a batch of scans; if it fails, its scans go through one by one, so that one cannot fail the others."""
    try:
        cases = []
        for read, found in zip(scans, localizer.localize_batch([read.scan for read in scans]), strict=True):
            found.timing_ms["read"] = read.milliseconds
            found.timing_ms["total"] = sum(found.timing_ms.values())
            cases.append(case_result(read.file, read.scan, found, localizer))
        return cases
    except (TrtlmError, MemoryError) as error:
        if len(scans) == 1:
            return [_failed(scans[0].file, error)]
    return [case for read in scans for case in _localize_scans([read], localizer)]


def _failed(file: ScanFile, error: Exception) -> CaseResult:
    if isinstance(error, MemoryError):
        message = f"{file.path}: does not fit in memory."
        error = ScanError(message, "Free memory or crop the scan.", code="out_of_memory")
    elif not isinstance(error, TrtlmError):
        error = ScanError(f"{file.path}: cannot be read: {error}.")
    return CaseResult(file.id, file.shown, "failed", CaseError(error.code, reason(file, error)))


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return (x, y, z)
