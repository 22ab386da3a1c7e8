"""Programs that are not Python packages: tests that need one are skipped, with a reason, where it is not installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.server.conftest import Running
from tests.synthetic import about, blobs, rotation
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.scan import Scan, write_scan

#: Draw without a GPU, and ask nobody on the network.
FLAGS = (
    "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def program(name: str) -> str:
    """The path of a program."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    path = program("chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as control:
        chromium = control.chromium.launch(executable_path=path, args=list(FLAGS), headless=True)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def scan_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blobs in a scan that lies oblique in the world."""
    geometry = about((0, 0, 60), (60, 63, 54), (0.6, 0.55, 0.7), rotation(12, -20, 33))
    places = np.array([[-8.0, 3, 61], [0.5, -6, 55], [0.5, 8, 63], [9.0, 1, 57.0]])
    scan = Scan("head", None, blobs(geometry, places, [1, 1, 1, 1], 2.0), geometry)
    path = tmp_path_factory.mktemp("page") / "head.nii.gz"
    write_scan(scan, path)
    return path


@pytest.fixture(scope="session")
def server(tiny_bundle: Bundle) -> Iterator[Running]:
    running = Running(tiny_bundle.root)
    yield running
    assert running.stop() == 0
