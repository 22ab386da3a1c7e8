"""Who may ask, how much they may send, and how a failure is answered."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

from trt_landmarks.errors import TrtlmError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Hosts that only this machine reaches.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Characters that a token has at least.
SHORTEST_TOKEN = 16
#: What anybody may ask: whether the server is well.
_OPEN = ("/healthz", "/v2/health/live", "/v2/health/ready")
#: Codes that are not the scan's fault, and how HTTP says them; all others are 422.
STATUS = {
    "model_missing": 404, "not_found": 404, "request_invalid": 400, "upload_invalid": 400, "usage": 400,
    "token_wrong": 401, "origin_wrong": 403, "upload_too_large": 413, "scan_memory": 413, "queue_full": 503,
    "server_stopping": 503, "worker_died": 503, "timeout": 504, "internal": 500, "engine_unavailable": 500,
    "out_of_memory": 507, "upload_failed": 507,
}  # fmt: skip


def status_of(code: str) -> int:
    """The HTTP status of an error's code."""
    return STATUS.get(code, 422)


def read_token(path: Path) -> str:
    """The token in a file: all of it but white space at its ends.

    Raises:
        TrtlmError: if it cannot be read, is too short, or would not fit into an address.
    """
    try:
        token = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        raise TrtlmError(f"{path}: the token cannot be read.", "Name a text file.", code="token_invalid") from None
    if len(token) < SHORTEST_TOKEN or not token.replace("-", "").replace("_", "").isalnum():
        remedy = "Make one, for example with 'openssl rand -hex 32'."
        message = f"{path}: the token needs {SHORTEST_TOKEN} letters and digits or more."
        raise TrtlmError(message, remedy, code="token_invalid")
    return token


class Guard:
    """Lets in who may ask.

    A token is in the header ``Authorization: Bearer TOKEN``, or in front of the path, ``/t/TOKEN/...``, for programs
    that only know an address, such as a browser or 3D Slicer.  Without a token only programs on this machine are
    let in, and no pages of other sites that a browser shows.

    Args:
        app: what is guarded.
        most: bytes of a request.
        token: that a request must have; None for none.
    """

    def __init__(self, app: Application, most: int, token: str | None = None) -> None:
        self._app, self._most, self._token = app, most, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do so."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        try:
            scope = self._admitted(scope, headers)
            if int(headers.get(b"content-length") or 0) > self._most:
                raise self._too_large()
        except ValueError:
            await _refuse(send, TrtlmError("the length is no number.", code="request_invalid"))
            return
        except TrtlmError as error:
            await _refuse(send, error)
            return
        got = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            if got > self._most:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _admitted(self, scope: Scope, headers: dict[bytes, bytes]) -> Scope:
        """The request, without the token in its path."""
        path = str(scope["path"])
        given = headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        if path.startswith("/t/"):
            _, _, text, *rest = path.split("/", 3)
            given, path = text.encode(), "/" + "".join(rest)
            scope = {**scope, "path": path, "raw_path": path.encode()}
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if self._token is not None:
            if path not in _OPEN and not hmac.compare_digest(given, self._token.encode()):
                raise TrtlmError("the token is missing or wrong.", "Send it: /t/TOKEN/...", code="token_wrong")
        elif host.rpartition(":")[0].strip("[]") not in LOOPBACK and host.strip("[]") not in LOOPBACK:
            raise TrtlmError("this server answers on this machine only.", "Use 127.0.0.1.", code="origin_wrong")
        if origin and origin.partition("://")[2] != host:
            raise TrtlmError("another site's page asks.", "Open the server's own page.", code="origin_wrong")
        return scope

    def _too_large(self) -> TrtlmError:
        message = f"the request is longer than {self._most / 2**20:,.0f} MiB."
        return TrtlmError(message, "Crop the scan, or raise --max-upload.", code="upload_too_large")


async def _refuse(send: Send, error: TrtlmError) -> None:
    from starlette.responses import JSONResponse

    response = JSONResponse({"error": str(error), "code": error.code}, status_of(error.code))
    await response({"type": "http"}, _nothing, send)


async def _nothing() -> MutableMapping[str, Any]:
    return {"type": "http.disconnect"}
