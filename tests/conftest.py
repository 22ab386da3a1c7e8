"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_root(repo_root: Path) -> Path:
    """The folder of real data: ``TRTLM_DATA``, or ``shared/data`` next to the checkout."""
    folder = Path(os.environ.get("TRTLM_DATA", repo_root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set TRTLM_DATA")
    return folder


@pytest.fixture(scope="session")
def mouse_scans(data_root: Path) -> list[Path]:
    """The real micro-CT heads in standard pose."""
    scans = sorted((data_root / "mouse-skull-ct" / "posed" / "images").glob("*.nii.gz"))
    if not scans:
        pytest.skip(f"no mouse-skull-ct in {data_root}")
    return scans
