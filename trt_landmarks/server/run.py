"""``trtlm serve``: open the models, listen, and stop cleanly."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.errors import TrtlmError
from trt_landmarks.runs.workers import Workers, open_workers, within_memory
from trt_landmarks.server.app import create_app
from trt_landmarks.server.guard import LOOPBACK, read_token
from trt_landmarks.server.metrics import Metrics
from trt_landmarks.server.service import Service

#: Seconds that requests under way get when the server stops.
_GRACE = 10


@dataclass(frozen=True)
class Settings:
    """How a server runs.

    Attributes:
        host: address to listen at.
        port: the same; 0 for any that is free.
        token_file: file with the token that requests need; needed for hosts that others reach.
        most_bytes: of a request.
        queue: scans that wait or are under way, at most.
        timeout: seconds for reading a scan, and for computing it.
        memory: bytes for the whole process; None for no limit.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    most_bytes: int = 1 << 30
    queue: int = 32
    timeout: float | None = 300.0
    memory: int | None = None


def open_models(
    models: Sequence[str | None],
    memory: int | None,
    *,
    engine: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    devices: tuple[int, ...] = (),
    jobs: int | None = None,
) -> tuple[list[tuple[Bundle, Workers]], int | None]:
    """The models with what works on them, and the bytes that are left for scans.

    Args:
        models: names or folders; None for the default.
        memory: bytes for the whole process; None for no limit.
        engine: see :func:`~trt_landmarks.runs.workers.open_workers`.
        precision: the same.
        threads: the same.
        devices: the same.
        jobs: the same; None for one: a scan that comes alone then has all cores.

    Raises:
        TrtlmError: if a model or an engine cannot be had, two models have one name, or memory does not suffice.
    """
    bundles = [open_bundle(model) for model in models]
    names = [bundle.name for bundle in bundles]
    if len(set(names)) < len(names):
        raise TrtlmError(f"two models are called the same: {', '.join(names)}.", "Rename a folder.", code="usage")

    def opened(bundle: Bundle, jobs: int | None) -> Workers:
        return open_workers(bundle, 1, engine=engine, precision=precision, threads=threads, devices=devices, jobs=jobs)

    served = [(bundle, opened(bundle, jobs)) for bundle in bundles]
    if memory is None:
        return served, None
    limited = [
        (bundle, within_memory(workers, memory, 1, lambda count, bundle=bundle: opened(bundle, count)))  # type: ignore[misc]
        for bundle, workers in served
    ]
    return limited, min(workers.memory.size for _, workers in limited if workers.memory is not None)


def serve(
    models: Sequence[tuple[Bundle, Workers]], scans: int | None, settings: Settings, say: Callable[[str], None]
) -> int:
    """Answer requests until SIGTERM or Ctrl-C; the exit code is 0, or 2 if no more scans could be computed.

    Args:
        models: what :func:`open_models` gives.
        scans: bytes for scans in memory.
        settings: how.
        say: told where the server is, when it is ready.

    Raises:
        TrtlmError: if it must not or cannot listen there.
    """
    token = None if settings.token_file is None else read_token(settings.token_file)
    if token is None and settings.host not in LOOPBACK:
        message = f"--host {settings.host} is reached by others."
        raise TrtlmError(message, "Give --token-file, with a secret that they know.", code="token_missing")
    listener = _listen(settings.host, settings.port)
    broken = False

    def stop() -> None:
        nonlocal broken
        broken = server.should_exit = True

    service = Service(
        models, most=settings.queue, timeout=settings.timeout, memory=scans, broken=stop,
        done=lambda job, case: metrics.done(job, case),
    )  # fmt: skip
    metrics = Metrics(lambda: service.queue.depth)
    app = create_app(service, metrics, most=settings.most_bytes, token=token)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="on", ws="none",
        timeout_graceful_shutdown=_GRACE,
    )  # fmt: skip
    server = uvicorn.Server(config)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    say(f"http://{host}:{listener.getsockname()[1]}{'/t/TOKEN' if token else ''}/")
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:  # the server raises a signal again when it has stopped; then it is nobody's
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listener.close()
    return 2 if broken else 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=256)
        # Answers come in two pieces, and the second is not to wait until the first has arrived: 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"{host}:{port}: cannot listen there: {reason}."
        raise TrtlmError(message, "Name another --port.", code="port_taken") from None
