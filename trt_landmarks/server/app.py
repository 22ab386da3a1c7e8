"""The server's addresses: health, metrics, the Open Inference Protocol, MONAI Label's, and those of the page."""

from __future__ import annotations

import asyncio
import json
import mmap
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from trt_landmarks import __version__
from trt_landmarks.errors import TrtlmError
from trt_landmarks.outputs import view_page
from trt_landmarks.results.case import CaseResult
from trt_landmarks.scan import ScanFile, read_scan
from trt_landmarks.scan.text_headers import confined
from trt_landmarks.server import monailabel, protocol
from trt_landmarks.server.guard import Application, Guard, status_of
from trt_landmarks.server.jobs import DONE, Job
from trt_landmarks.server.metrics import Metrics
from trt_landmarks.server.service import Service
from trt_landmarks.server.uploads import Upload, Uploads

#: Where volumes that came in a request would lie, if they were files.
_PLACE = Path("/")


class Server:
    """What all requests share.

    Args:
        service: localizes.
        metrics: counts.
        most: bytes of a request.
    """

    def __init__(self, service: Service, metrics: Metrics, most: int) -> None:
        self.service, self.metrics, self.most = service, metrics, most
        self.uploads = Uploads(most)
        self.jobs: dict[str, Job] = {}
        self._drawing = asyncio.Semaphore(1)  # scans that are read to be shown take memory of their own

    async def receive(self, request: Request) -> Upload:
        """Store what a request brings, if there is room for another scan.

        Raises:
            TrtlmError: if the queue is full, or the upload cannot be stored.
        """
        self.check_room()
        return await self.uploads.receive(request.headers.get("content-type", ""), request.stream())

    def check_room(self) -> None:
        """Refuse before anything is uploaded, rather than afterwards.

        Raises:
            TrtlmError: if the queue is full.
        """
        if self.service.queue.depth >= self.service.queue.most:
            raise TrtlmError("too many scans are waiting.", "Try again later.", code="queue_full")

    async def submit(self, upload: Upload, model: str | None, name: str = "", series: str = "all") -> Job:
        """Put an upload's scan into the queue; ``name`` is the case's, if it is not to be the file's."""
        file = await asyncio.to_thread(upload.scan, series)
        return self.service.submit(replace(file, id=name[:200]) if name else file, model)

    async def localize(self, upload: Upload, model: str | None, name: str = "") -> CaseResult:
        """The case of an upload's scan.

        Raises:
            TrtlmError: with the case's code, if it failed.
        """
        return await self.result(await self.submit(upload, model, name))

    async def result(self, job: Job) -> CaseResult:
        """The case of a job, when it is done.

        Raises:
            TrtlmError: with the case's code, if it failed.
        """
        case = await asyncio.wrap_future(job.result)
        if case.error is not None:
            raise TrtlmError(case.error.message, code=case.error.code)
        return case

    async def shown(self, job: Job) -> bytes:
        """The scan of a job as the page shows it, JSON."""
        upload = self.uploads.get(job.id)
        if upload is None:
            raise TrtlmError("the scan is no longer here.", "Send it again.", code="not_found")
        kept = upload.folder.parent / "shown.json"
        async with self._drawing:
            if not kept.is_file():
                case = await self.result(job)
                kept.write_bytes(await asyncio.to_thread(_drawn, job.file, case))
            return await asyncio.to_thread(kept.read_bytes)


def _drawn(file: ScanFile, case: CaseResult) -> bytes:
    with confined():
        scan = read_scan(file)
    return json.dumps(view_page.shown(scan, case)).encode()


def create_app(service: Service, metrics: Metrics, *, most: int, token: str | None = None) -> Application:
    """The application, guarded.

    Args:
        service: localizes; it is closed when the application ends.
        metrics: counts; the service's ``done`` is its.
        most: bytes of a request.
        token: that requests need; None for this machine only.
    """
    server = Server(service, metrics, most)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)
        server.uploads.close()

    app = FastAPI(title="trtlm", version=__version__, docs_url=None, redoc_url=None, openapi_url=None,
                  lifespan=lifespan, redirect_slashes=False)  # fmt: skip

    @app.exception_handler(TrtlmError)
    async def _failed(request: Request, error: TrtlmError) -> Response:
        metrics.refused(error.code)
        status = status_of(error.code)
        headers = {"Retry-After": "5"} if status == 503 else {}
        return JSONResponse({"error": str(error), "code": error.code}, status, headers)

    @app.exception_handler(ClientDisconnect)
    async def _left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)

    _add_health(app, server)
    _add_protocol(app, server)
    monailabel.add_routes(app, server)
    _add_page(app, server)
    return Guard(app, most, token)


def _add_health(app: FastAPI, server: Server) -> None:
    @app.get("/healthz")
    @app.get("/v2/health/live")
    @app.get("/v2/health/ready")
    async def _health() -> Response:
        return JSONResponse({"ready": server.service.ready}, 200 if server.service.ready else 503)

    @app.get("/metrics")
    async def _metrics() -> Response:
        text, kind = server.metrics.text()
        return Response(text, media_type=kind)


def _add_protocol(app: FastAPI, server: Server) -> None:
    """The Open Inference Protocol v2; every model has one version, 1."""
    service = server.service

    def check(version: str) -> None:
        if version != "1":
            raise TrtlmError(f"there is no version {version[:20]}.", "There is version 1.", code="model_missing")

    @app.get("/v2")
    @app.get("/v2/")
    async def _server() -> dict[str, Any]:
        return protocol.server_metadata()

    @app.get("/v2/models/{model}")
    @app.get("/v2/models/{model}/versions/{version}")
    async def _model(model: str, version: str = "1") -> dict[str, Any]:
        check(version)
        return protocol.model_metadata(service.bundle(model))

    @app.get("/v2/models/{model}/ready")
    @app.get("/v2/models/{model}/versions/{version}/ready")
    async def _ready(model: str, version: str = "1") -> Response:
        check(version)
        service.bundle(model)
        return Response(status_code=200 if service.ready else 503)

    @app.post("/v2/models/{model}/infer")
    @app.post("/v2/models/{model}/versions/{version}/infer")
    async def _infer(request: Request, model: str, version: str = "1") -> Response:
        check(version)
        bundle = service.bundle(model)
        server.check_room()
        if request.headers.get("content-encoding", "identity") != "identity":
            raise TrtlmError("the request is compressed.", "Send it as it is.", code="request_invalid")
        with tempfile.TemporaryFile() as file:
            size = 0
            async for chunk in request.stream():
                size += file.write(chunk)
            file.flush()
            body = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
        length = request.headers.get(protocol.HEADER_LENGTH)
        volume, asked = await asyncio.to_thread(protocol.decode, body, length)
        name = str(asked.get("id") or "volume")[:200]
        job = service.submit(ScanFile(name, _PLACE / name), model, volume)
        content, header_length = protocol.encode(bundle, await server.result(job), asked, job.id)
        if header_length is None:
            return Response(content, media_type="application/json")
        headers = {protocol.HEADER_LENGTH: str(header_length)}
        return Response(content, media_type="application/octet-stream", headers=headers)


def _add_page(app: FastAPI, server: Server) -> None:
    @app.get("/")
    async def _page() -> Response:
        return Response(view_page.served_page(), media_type="text/html", headers=view_page.HEADERS)

    @app.get("/static/{name}")
    async def _static(name: str) -> Response:
        kind = {"niivue.umd.js": "text/javascript", "page.js": "text/javascript", "page.css": "text/css"}.get(name)
        if kind is None:
            raise TrtlmError("there is no such file.", code="not_found")
        return Response((view_page.FOLDER / name).read_bytes(), media_type=kind)

    @app.get("/api/info")
    async def _info() -> dict[str, Any]:
        models = [
            {"name": bundle.name, "task": bundle.task.name, "landmarks": len(bundle.task.landmarks)}
            for bundle, _ in server.service.models.values()
        ]
        return {"version": __version__, "models": models, "most_bytes": server.most}

    @app.post("/api/scans", status_code=202)
    async def _send(request: Request, model: str = "", series: str = "all") -> dict[str, Any]:
        upload = await server.receive(request)
        try:
            job = await server.submit(upload, model or None, series=series)
        except BaseException:
            server.uploads.discard(upload)
            raise
        server.uploads.keep(upload, job.id)
        server.jobs = {id: one for id, one in server.jobs.items() if id in server.uploads}
        server.jobs[job.id] = job
        return {"id": job.id}

    def known(id: str) -> Job:
        if id not in server.jobs:
            raise TrtlmError("there is no such scan, or no longer.", "Send it again.", code="not_found")
        return server.jobs[id]

    @app.get("/api/scans/{id}")
    async def _state(id: str) -> dict[str, Any]:
        job = known(id)
        if job.state != DONE or not job.result.done():
            return {"state": job.state, "ahead": server.service.queue.ahead(job)}
        case = job.result.result()
        if case.error is not None:
            return {"state": DONE, "error": case.error.message, "code": case.error.code}
        groups = server.service.bundle(job.model).task.group_of
        return {"state": DONE, **view_page.page_data(server.service.predictions(job, case), groups)}

    @app.get("/api/scans/{id}/shown")
    async def _shown(id: str) -> Response:
        return Response(await server.shown(known(id)), media_type="application/json")
