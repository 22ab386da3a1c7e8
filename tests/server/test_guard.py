"""Who is let in: this machine's programs without a token, others with it, no other site's pages."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.conftest import TOKEN, Running
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.errors import TrtlmError
from trt_landmarks.server.guard import read_token
from trt_landmarks.server.run import Settings, serve


@pytest.fixture(scope="module")
def guarded(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(f"{TOKEN}\n")
    running = Running(tiny_bundle.root, "--host", "0.0.0.0", "--token-file", str(file))
    yield running
    assert running.stop(signal.SIGINT) == 0


def test_a_token_is_needed_for_all_but_health(guarded: Running) -> None:
    port = httpx.URL(guarded.address).port
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/v2/health/live").status_code == 200
        for path in ("/", "/v2", "/metrics", "/info/", "/api/info", "/t/wrong/v2", "/static/page.js"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()["code"]) == (401, "token_wrong"), path
        assert client.get(f"/t/{TOKEN}/v2").json()["name"] == "trtlm"
        assert client.get(f"/t/{TOKEN}/").status_code == 200
        assert client.get("/v2", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert client.get("/v2", headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401


def test_other_sites_pages_are_not_let_in(client: httpx.Client) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": ""}):
        answer = client.get("/v2", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "origin_wrong"), headers
    host = client.base_url.netloc.decode()
    assert client.get("/v2", headers={"Origin": f"http://{host}"}).status_code == 200


def test_hosts_that_others_reach_need_a_token() -> None:
    with pytest.raises(TrtlmError) as refused:
        serve([], None, Settings(host="0.0.0.0"), print)
    assert refused.value.code == "token_missing"


@pytest.mark.parametrize("content", ["", "short", "has spaces in it, many", "with/slash/in/its/middle"])
def test_a_token_that_cannot_be_used(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(TrtlmError) as refused:
        read_token(path)
    assert refused.value.code == "token_invalid"
    with pytest.raises(TrtlmError):
        read_token(tmp_path / "none")


def test_a_port_that_is_taken(server: Running) -> None:
    with pytest.raises(TrtlmError) as refused:
        serve([], None, Settings(port=httpx.URL(server.address).port or 0), print)
    assert refused.value.code == "port_taken"
