"""The queue and its limits, with localizers that do what a test wants."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.errors import TrtlmError
from trt_landmarks.localization.result import Localization
from trt_landmarks.runs.workers import Workers, open_workers
from trt_landmarks.scan import Scan, ScanFile
from trt_landmarks.server.jobs import Job, Volume
from trt_landmarks.server.service import Service


@pytest.fixture(scope="module")
def opened(tiny_bundle: Bundle) -> Workers:
    return open_workers(tiny_bundle, 1, engine="onnxruntime", threads=1)


@pytest.fixture
def served(tiny_bundle: Bundle, opened: Workers) -> Iterator[Callable[..., Service]]:
    """Opens a service whose localizer first calls ``before``."""
    services: list[Service] = []

    class Slow:
        task, engine = tiny_bundle.task, opened.engine

        def __init__(self, before: Callable[[], object]) -> None:
            self.before = before

        def localize_batch(self, scans: list[Scan]) -> list[Localization]:
            self.before()
            return opened.localizers[0].localize_batch(scans)

    def open_service(before: Callable[[], object] = lambda: None, **limits: Any) -> Service:
        workers = Workers([Slow(before)], opened.engine, "", "")  # type: ignore[list-item]
        services.append(Service([(tiny_bundle, workers)], **limits))
        return services[-1]

    yield open_service
    for service in services:
        service.close()


def volume(scan: Scan) -> Volume:
    return Volume(scan.voxels, np.diag([-1.0, -1, 1, 1]) @ scan.geometry.voxel_to_world_matrix)


def ask(service: Service, scan: Scan) -> Job:
    return service.submit(ScanFile("one", Path("/one")), None, volume(scan))


def test_many_at_once_all_get_the_same_result(served: Callable[..., Service], scan: Scan) -> None:
    counted: list[str] = []
    service = served(done=lambda job, case: counted.append(case.status))
    cases = [job.result.result(30) for job in [ask(service, scan) for _ in range(12)]]
    assert {case.landmarks for case in cases} == {cases[0].landmarks} and cases[0].landmarks
    assert counted == ["ok"] * 12 and service.queue.depth == 0


def test_a_full_queue_refuses_and_later_takes_again(served: Callable[..., Service], scan: Scan) -> None:
    go = threading.Event()
    service = served(lambda: go.wait(20), most=3)
    jobs = [ask(service, scan) for _ in range(3)]
    with pytest.raises(TrtlmError) as refused:
        ask(service, scan)
    assert refused.value.code == "queue_full"
    go.set()
    assert all(job.result.result(30).status == "ok" for job in jobs)
    assert ask(service, scan).result.result(30).status == "ok"


def test_a_scan_that_takes_too_long_fails_and_the_next_does_not(served: Callable[..., Service], scan: Scan) -> None:
    stuck = threading.Event()
    waits = [30.0, 0.0]
    service = served(lambda: stuck.wait(waits.pop(0)), timeout=1.0)
    first, second = ask(service, scan), ask(service, scan)
    error = first.result.result(30).error
    assert error is not None and error.code == "timeout"
    assert second.result.result(30).status == "ok"
    stuck.set()


def test_a_scan_that_needs_more_memory_than_there_is_fails(served: Callable[..., Service], scan: Scan) -> None:
    service = served(memory=1 << 20)
    error = ask(service, scan).result.result(30).error
    assert error is not None and error.code == "scan_memory"


def test_stopping_fails_what_waits_and_takes_no_more(served: Callable[..., Service], scan: Scan) -> None:
    go = threading.Event()
    service = served(lambda: go.wait(3))
    jobs = [ask(service, scan) for _ in range(4)]
    service.close()
    go.set()
    codes = [error.code for job in jobs if (error := job.result.result(30).error) is not None]
    assert "server_stopping" in codes
    with pytest.raises(TrtlmError) as refused:
        ask(service, scan)
    assert refused.value.code == "server_stopping" and not service.ready


def test_a_thread_that_dies_ends_the_service_aloud(served: Callable[..., Service], scan: Scan) -> None:
    broken = threading.Event()
    service = served(lambda: _die(), broken=broken.set)
    error = ask(service, scan).result.result(30).error
    assert error is not None and error.code == "worker_died"
    assert broken.wait(5) and not service.ready
    with pytest.raises(TrtlmError) as refused:
        ask(service, scan)
    assert refused.value.code == "worker_died"


def _die() -> None:
    raise SystemExit("gone")


def test_who_is_asked_for_and_where_it_stands(served: Callable[..., Service], scan: Scan) -> None:
    go = threading.Event()
    service = served(lambda: go.wait(20))
    jobs = [ask(service, scan) for _ in range(5)]
    end = time.monotonic() + 5
    while jobs[0].state != "computing" and time.monotonic() < end:
        time.sleep(0.01)
    assert jobs[0].state == "computing" and service.queue.ahead(jobs[4]) > service.queue.ahead(jobs[3])
    go.set()
    jobs[-1].result.result(30)
    with pytest.raises(TrtlmError) as unknown:
        service.submit(ScanFile("one", Path("/one")), "other")
    assert unknown.value.code == "model_missing"
