"""DICOM reports are judged by dciodvfy (Debian: dicom3tools)."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.integration.conftest import program
from tests.outputs.test_dicom_sr import TAGS
from tests.scan.dicom_writing import write_series
from trt_landmarks import Model, read_scan
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.outputs.dicom_sr import write_report
from trt_landmarks.scan import ScanFile

pytestmark = pytest.mark.integration


def test_dciodvfy_finds_no_error(tiny_bundle: Bundle, scan_path: Path, tmp_path: Path) -> None:
    judge = program("dciodvfy")
    scan = read_scan(scan_path)
    write_series(tmp_path / "head", replace(scan, voxels=(scan.voxels * 1000).astype(np.int16)), tags=TAGS)
    with Model.open(tiny_bundle.root, engine="onnxruntime", threads=1) as model:
        case = model.localize(tmp_path / "head").case
    path = tmp_path / "report.dcm"
    write_report(path, case, ScanFile("head", tmp_path / "head"), "tiny", "ab" * 32)
    said = subprocess.run([judge, "-new", str(path)], capture_output=True, text=True, check=False)
    lines = (said.stdout + said.stderr).splitlines()
    assert any("Comprehensive3DSR" in line for line in lines), lines
    assert not [line for line in lines if line.startswith("Error")], lines
