"""What 3D Slicer's MONAI Label module asks of its server: info, session, infer.  Results are ``.mrk.json`` files.

Of the protocol only this part is here: no data store, no training.  The module's client follows no redirects, and
takes the result out of a multipart answer.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response

from trt_landmarks import __version__
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.errors import TrtlmError
from trt_landmarks.outputs.markups import case_text
from trt_landmarks.outputs.names import FileNames
from trt_landmarks.results.case import CaseResult

if TYPE_CHECKING:
    from trt_landmarks.server.app import Server


def info(bundles: list[Bundle]) -> dict[str, Any]:
    """What the module asks first; models of type ``detection`` give markups."""
    models = {
        bundle.name: {
            "type": "detection",
            "labels": {},
            "dimension": 3,
            "description": f"{len(bundle.task.landmarks)} landmarks of {bundle.task.name}",
            "config": {},
        }
        for bundle in bundles
    }
    empty: dict[str, Any] = {name: {} for name in ("trainers", "strategies", "scoring", "train_stats", "datastore")}
    return {"name": "trtlm", "description": "Landmarks", "version": __version__, "labels": [], "models": models} | empty


def answer(case: CaseResult) -> tuple[bytes, str]:
    """The result as the module takes it: a multipart body, and its content type."""
    boundary = secrets.token_hex(16)
    name = FileNames().name(case.id).replace('"', "_")
    warnings = [warning.message for warning in case.warnings]
    params = json.dumps({"label_names": {}, "latencies": dict(case.timing_ms), "warnings": warnings})
    parts = (
        ("params", "", params),
        ("image", f'; filename="{name}.mrk.json"', case_text(case)),
    )
    body = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{part}"{more}\r\n'
        f"Content-Type: application/json\r\n\r\n{content}\r\n"
        for part, more, content in parts
    )
    return f"{body}--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def add_routes(app: FastAPI, server: Server) -> None:
    """Answer the module's requests."""

    @app.get("/info")
    @app.get("/info/")
    async def _info() -> dict[str, Any]:
        return info([bundle for bundle, _ in server.service.models.values()])

    @app.put("/session")
    @app.put("/session/")
    async def _session(request: Request) -> dict[str, Any]:
        upload = await server.receive(request)
        upload.scan()
        return {"session_id": server.uploads.keep(upload)}

    @app.get("/session/{id}")
    async def _known(id: str) -> dict[str, Any]:
        if server.uploads.get(id) is None:
            raise _gone()
        return {"session_id": id}

    @app.delete("/session/{id}")
    async def _remove(id: str) -> dict[str, Any]:
        if not server.uploads.remove(id):
            raise _gone()
        return {}

    @app.post("/infer/{model}")
    async def _infer(request: Request, model: str, image: str = "", session_id: str = "") -> Response:
        """The scan is that of a session, or comes along."""
        sent = await server.receive(request)
        try:
            upload = server.uploads.get(session_id) if session_id else sent
            if upload is None:
                raise _gone()
            case = await server.localize(upload, model, name=image)
        finally:
            server.uploads.discard(sent)
        body, kind = answer(case)
        return Response(body, media_type=kind)


def _gone() -> TrtlmError:
    return TrtlmError("there is no such session, or no longer.", "Send the scan again.", code="not_found")
