"""3D Slicer's MONAI Label module: a client that makes its calls, as it makes them, gets a Slicer file."""

from __future__ import annotations

import email
import email.policy
import http.client
import json
import urllib.parse
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.server.conftest import Running
from trt_landmarks import Result, read_landmarks
from trt_landmarks.bundles.bundle import Bundle

LIMIT = "----------lImIt_of_the_form"


class Slicer:
    """Asks as the module does: a bare HTTP client that follows no redirect, and requests for the upload."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.parsed = urllib.parse.urlparse(address)

    def call(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> tuple[int, Any, bytes]:
        assert self.parsed.hostname is not None
        connection = http.client.HTTPConnection(self.parsed.hostname, self.parsed.port, timeout=60)
        headers = {"content-type": kind, "content-length": str(len(body or b""))} if body is not None else {}
        connection.request(method, self.parsed.path.rstrip("/") + path, body, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, response.headers, content

    def info(self) -> dict[str, Any]:
        status, _, content = self.call("GET", "/info/")
        assert status == 200
        return dict(json.loads(content))

    def create_session(self, path: Path) -> str:
        with path.open("rb") as file:
            answer = httpx.put(
                f"{self.address}/session/", files=[("files", (path.name, file))], data={"client_id": "me"}, timeout=60
            )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["session_id"])

    def infer(self, model: str, image: str, session: str, folder: Path) -> tuple[Path, dict[str, Any]]:
        field = f'--{LIMIT}\r\nContent-Disposition: form-data; name="params"\r\n\r\n{{"client_id": "me"}}\r\n'
        body = f"{field}--{LIMIT}--\r\n\r\n".encode()
        query = urllib.parse.urlencode({"image": image, "session_id": session})
        status, headers, content = self.call(
            "POST", f"/infer/{model}?{query}", body, f"multipart/form-data; boundary={LIMIT}"
        )
        assert status == 200, content
        head = f"Content-Type: {headers['content-type']}\r\n\r\n".encode()
        message = email.message_from_bytes(head + content, policy=email.policy.HTTP)
        form: dict[Any, Any] = {}
        files: dict[Any, Any] = {}
        for part in message.iter_parts():
            name = part.get_param("name", header="content-disposition")
            (files if part.get_filename() else form)[part.get_filename() or name] = part.get_content()
        ((name, text),) = files.items()
        assert isinstance(name, str)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        params = form["params"]
        return folder / name, json.loads(params)


@pytest.fixture
def slicer(server: Running) -> Slicer:
    return Slicer(server.address)


def test_the_points_arrive_as_a_slicer_file(
    slicer: Slicer, tiny_bundle: Bundle, scan_path: Path, expected: Result, tmp_path: Path
) -> None:
    models = slicer.info()["models"]
    assert models[tiny_bundle.name]["type"] == "detection"
    session = slicer.create_session(scan_path)
    assert slicer.call("GET", f"/session/{session}")[0] == 200
    path, params = slicer.infer(tiny_bundle.name, "Head of Slicer", session, tmp_path)
    assert path.name == "Head of Slicer.mrk.json" and params["label_names"] == {}
    content = json.loads(path.read_text())
    assert content["markups"][0]["name"] == "Head of Slicer"
    inside = dict(zip(expected.names, expected.points, strict=True))
    read = read_landmarks(path)
    for name, point in read.items():
        np.testing.assert_allclose(point, inside[name], rtol=0, atol=1e-4)
    assert len(read) == sum(status != "outside_scan" for status in expected.status)
    assert slicer.call("DELETE", f"/session/{session}")[0] == 200
    assert slicer.call("GET", f"/session/{session}")[0] == 404


def test_a_failure_says_its_code(slicer: Slicer, tiny_bundle: Bundle, tmp_path: Path) -> None:
    broken = tmp_path / "tmpx.nii.gz"
    broken.write_bytes(b"\x1f\x8b no scan")
    session = slicer.create_session(broken)
    body = f"--{LIMIT}--\r\n".encode()
    kind = f"multipart/form-data; boundary={LIMIT}"
    status, _, content = slicer.call("POST", f"/infer/{tiny_bundle.name}?session_id={session}", body, kind)
    answer = json.loads(content)
    assert status == 422 and answer["code"].startswith("scan_")
    assert "/tmp" not in answer["error"] and str(tmp_path) not in answer["error"]
    status, _, content = slicer.call("POST", f"/infer/{tiny_bundle.name}?session_id=none", body, kind)
    assert (status, json.loads(content)["code"]) == (404, "not_found")
