"""A real server in a process of its own, with the small task's model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from trt_landmarks import Model, Result
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.scan import Scan, write_scan

#: Bytes that a request may have.
MOST = 8 << 20
TOKEN = "a-token-of-the-tests"


class Running:
    """A server that runs: its address, and its process."""

    def __init__(self, bundle: Path, *more: str) -> None:
        command = "from trt_landmarks.cli import main; main()"
        arguments = ("serve", "--model", str(bundle), "--port", "0", "--engine", "onnxruntime", "--threads", "1", *more)
        self.process = subprocess.Popen(
            [sys.executable, "-c", command, *arguments], stderr=subprocess.PIPE, text=True, env=os.environ.copy()
        )
        assert self.process.stderr is not None
        self.said: list[str] = []
        for line in self.process.stderr:
            self.said.append(line)
            if line.startswith("serving at "):
                break
        assert self.said and self.said[-1].startswith("serving at "), self.said
        self.address = self.said[-1].split()[-1].replace("TOKEN", TOKEN).rstrip("/")
        self.client = httpx.Client(base_url=self.address, timeout=60)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the server; gives its exit code."""
        self.client.close()
        self.process.send_signal(how)
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            self.said += stderr.readlines()
        return self.process.wait(30)


@pytest.fixture(scope="session")
def server(tiny_bundle: Bundle) -> Iterator[Running]:
    running = Running(tiny_bundle.root, "--max-upload", str(MOST), "--queue", "4")
    yield running
    assert running.stop() == 0
    assert not [line for line in running.said if "Traceback" in line], running.said


@pytest.fixture
def client(server: Running) -> httpx.Client:
    return server.client


@pytest.fixture(scope="session")
def scan_path(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    """An oblique piece of a real head, as a file."""
    from tests.scan_files import oblique_piece

    images = sorted((data_root / "mouse-skull-ct" / "posed" / "images").glob("*.nii.gz"))
    path = tmp_path_factory.mktemp("serve") / "piece.nii.gz"
    write_scan(oblique_piece(images[24]), path)
    return path


@pytest.fixture(scope="session")
def expected(tiny_bundle: Bundle, scan_path: Path) -> Result:
    """What ``trtlm infer`` finds in it."""
    with Model.open(tiny_bundle.root, engine="onnxruntime", threads=1) as model:
        return model.localize(scan_path)


@pytest.fixture
def scan(scan_path: Path) -> Scan:
    from trt_landmarks.scan import read_scan

    return read_scan(scan_path)
