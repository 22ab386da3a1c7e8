"""What clients send: stored under safe names, scans of every kind as infer takes them, hostile files without harm."""

from __future__ import annotations

import io
import random
import time
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.scan.dicom_writing import write_series
from tests.server.conftest import MOST, Running
from trt_landmarks import Result
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.scan import Scan, write_scan
from trt_landmarks.server.uploads import _safe


def send(client: httpx.Client, files: list[tuple[str, bytes]], **query: str) -> dict[str, Any]:
    """The finished answer of the page's addresses, or the refusal."""
    form = [("files", (name, content)) for name, content in files]
    answer = client.post("/api/scans", files=form, params=query)
    if answer.status_code != 202:
        return dict(answer.json())
    address, end = f"/api/scans/{answer.json()['id']}", time.monotonic() + 60
    while time.monotonic() < end:
        state = client.get(address).json()
        if state["state"] == "done":
            return dict(state) | {"address": address}
        time.sleep(0.02)
    raise AssertionError("it is never done")


def points(state: dict[str, Any]) -> np.ndarray:
    assert "predictions" in state, state
    (case,) = state["predictions"]["cases"]
    return np.array([mark["position_lps_mm"] for mark in case["landmarks"]])


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_files_of_every_kind(client: httpx.Client, scan: Scan, expected: Result, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"head{suffix}"
    write_scan(scan, path)
    state = send(client, [(path.name, path.read_bytes())])
    np.testing.assert_allclose(points(state), expected.points, rtol=0, atol=1e-3)
    assert state["predictions"]["cases"][0]["id"] == "head" and state["markups"]["markups"][0]["name"] == "head"
    shown = client.get(f"{state['address']}/shown").json()
    assert len(shown["voxel_from_lps"]) == 4 and len(shown["volume"]) > 1000


def test_a_dicom_folder_and_a_zip_of_it(client: httpx.Client, scan: Scan, expected: Result, tmp_path: Path) -> None:
    write_series(tmp_path / "series", scan)
    slices = sorted((tmp_path / "series").iterdir())
    files = [(f"study/series/{path.name}", path.read_bytes()) for path in slices]
    state = send(client, files)
    np.testing.assert_allclose(points(state), expected.points, rtol=0, atol=0.05)  # DICOM prints fewer digits
    assert state["predictions"]["cases"][0]["id"] == "series"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files:
            archive.writestr(name, content)
    np.testing.assert_allclose(points(send(client, [("study.zip", packed.getvalue())])), points(state), atol=1e-6)


def test_what_is_refused_and_how(client: httpx.Client, scan_path: Path) -> None:
    good = scan_path.read_bytes()
    assert send(client, [("a.nii.gz", good[:1000])])["code"] == "scan_truncated"
    assert send(client, [("a.txt", b"/etc/passwd")])["code"] == "scan_format"
    assert send(client, [("a.nii.gz", good), ("b.nii.gz", good)])["code"] == "scan_series"
    assert send(client, [("a.nii.gz", good), ("a.nii.gz", good)])["code"] == "upload_invalid"
    assert send(client, [("a.nii.gz", good)], model="none")["code"] == "model_missing"
    assert client.post("/api/scans", content=b"x").json()["code"] == "upload_invalid"
    cut = {"content-type": "multipart/form-data; boundary=abc"}
    body = b'--abc\r\nContent-Disposition: form-data; name="files"; filename="a.nii"\r\n\r\nxx'
    assert client.post("/api/scans", content=body, headers=cut).json()["code"] == "upload_invalid"
    answer = client.get("/api/scans/none")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_header_cannot_make_the_server_read_its_own_files(client: httpx.Client) -> None:
    nrrd = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\nspace: left-posterior-superior\n"
    nrrd += "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
    meta = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementSpacing = 1 1 1\n"
    for name, text in (
        ("a.nhdr", f"{nrrd}data file: /etc/passwd\n\n"),
        ("a.nrrd", f"{nrrd}data file: ../../../../../../etc/passwd\n\n"),
        ("a.nrrd", f"{nrrd}datafile: /etc/passwd\n\n"),
        ("a.mhd", f"{meta}ElementDataFile = /etc/passwd\n"),
        ("a.mha", f"{meta}ElementDataFile = LOCAL\nElementDataFile = /etc/passwd\n"),
    ):
        assert send(client, [(name, text.encode())])["code"] == "archive_unsafe", name
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr(name, text)
        assert send(client, [("a.zip", packed.getvalue())])["code"] == "archive_unsafe", name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a/b.nii", "a/b.nii"), ("../../etc/passwd", "etc/passwd"), ("C:\\x\\y.nii", "C_/x/y.nii"), ("/", "scan"),
        ("..", "scan"), ("a\0b.nii", "a_b.nii"), ("x" * 300 + ".nii.gz", "x" * 193 + ".nii.gz"),
    ],
)  # fmt: skip
def test_names_stay_in_their_folder(name: str, safe: str) -> None:
    assert _safe(name) == Path(safe)


def test_hostile_uploads_do_no_harm(server: Running, tiny_bundle: Bundle, scan_path: Path, expected: Result) -> None:
    """120 damaged or random files, in turn with requests that are good; memory does not grow with them."""
    rng = random.Random(7)
    good = scan_path.read_bytes()
    names = ["a.nii.gz", "a.nii", "a.nrrd", "a.mha", "a.dcm", "a.npz", "a.zip", "a", "a.nhdr", "../a.mhd"]
    codes: dict[str, int] = {}
    memory = []
    for number in range(120):
        content = bytearray(good) if number % 3 else bytearray(rng.randbytes(rng.randint(0, 5000)))
        for _ in range(rng.randint(1, 20) if content else 0):
            content[rng.randrange(len(content))] = rng.randrange(256)
        if number % 5 == 0:
            content = content[: rng.randint(0, len(content))]
        state = send(server.client, [(rng.choice(names), bytes(content))])
        codes[state.get("code", "ok")] = codes.get(state.get("code", "ok"), 0) + 1
        if number % 30 == 29:
            assert np.abs(points(send(server.client, [("good.nii.gz", good)])) - expected.points).max() < 1e-4
            text = server.client.get("/metrics").text
            memory.append(
                float(next(line for line in text.splitlines() if line.startswith("trtlm_resident")).split()[1])
            )
    assert server.process.poll() is None
    assert "internal" not in codes, codes
    assert memory[-1] - memory[1] < 64 << 20, memory


def test_too_long_a_request_is_refused_before_it_is_stored(client: httpx.Client) -> None:
    def endless() -> Any:
        for _ in range(20):
            yield bytes(1 << 20)

    headers = {"content-type": "multipart/form-data; boundary=abc"}
    try:
        answer = client.post("/api/scans", content=endless(), headers=headers)
    except httpx.TransportError:  # the server has hung up already
        return
    assert (answer.status_code, answer.json()["code"]) in [(413, "upload_too_large"), (400, "upload_invalid")]
    assert MOST < 20 << 20
