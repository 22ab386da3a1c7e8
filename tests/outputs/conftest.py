"""A small oblique scan of blobs, and results on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.synthetic import about, blobs, rotation
from trt_landmarks.geometry import Floats
from trt_landmarks.outputs.marks import Marks
from trt_landmarks.results.case import (
    CaseError,
    CaseResult,
    CaseWarning,
    KeySlice,
    Landmark,
    LandmarkStatus,
    Measurement,
)
from trt_landmarks.results.predictions import Predictions
from trt_landmarks.scan import Scan, write_scan

#: Where the landmarks are, LPS mm.
PLACES = {"a": [-8.0, 3, 61], "b": [0.5, -6, 55], "c": [0.5, 8, 63], "d $x_1$": [9.0, 1, 57.0], "out": [0.5, 30, 60]}
GROUPS = {"b": "mid", "c": "mid"}


@pytest.fixture(scope="module")
def scan() -> Scan:
    """Blobs at the places inside, in a scan that lies oblique in the world."""
    geometry = about((0, 0, 60), (40, 42, 36), (0.9, 0.8, 1.1), rotation(12, -20, 33))
    inside = np.array(list(PLACES.values()))[:4]
    return Scan("case one", None, blobs(geometry, inside, [1, 1, 1, 1], 1.0), geometry)


@pytest.fixture
def case(scan: Scan) -> CaseResult:
    """A result with every status."""
    return make_case("case one", scan)


@pytest.fixture
def marks(case: CaseResult) -> Marks:
    """The result, with two annotations."""
    return Marks(case, {"a": np.array([-8.0, 3, 61.5]), "b": np.array([0.5, -6, 55])}, GROUPS)


def make_case(case_id: str, scan: Scan, path: str = "scans/one.nii.gz", shift: float = 0.0) -> CaseResult:
    statuses: list[LandmarkStatus] = ["located", "located", "located", "low_confidence", "outside_scan"]
    found = []
    for (name, place), status in zip(PLACES.items(), statuses, strict=True):
        x, y, z = place[0] + shift, place[1], place[2]
        i, j, k = scan.geometry.world_to_voxel((x, y, z))
        found.append(Landmark(name, status, (x, y, z), (i, j, k), 0.1 if status != "located" else 0.9))
    measured = (
        Measurement("length", "distance", ("b", "c"), 16.1245, "mm", 0.25, "measured"),
        Measurement("opening", "angle", ("a", "b", "d $x_1$"), 92.5, "degree", None, "low_confidence"),
        Measurement("height", "distance-to-line", ("a", "b", "c"), 8.5, "mm", None, "measured"),
        Measurement("far", "distance", ("a", "out"), 28.3, "mm", None, "outside_scan"),
        Measurement("none", "angle", ("a", "b", "gone"), None, "degree", None, "undefined"),
    )
    slices = (KeySlice("mid", "left-right", 0.5, (0.5, 1.0, 59.0), (1.0, 0.0, 0.0)),)
    warnings = (CaseWarning("code", "odd <spacing>"),)
    return CaseResult(case_id, path, "ok", None, {"total": 12.5}, tuple(found), slices, warnings, measured)


def failed_case(case_id: str) -> CaseResult:
    return CaseResult(case_id, "scans/x.nii.gz", "failed", CaseError("scan_truncated", 'ends, early "cut"'))


@pytest.fixture
def results(case: CaseResult) -> Predictions:
    """One case that is ok and one that failed."""
    model, engine = {"name": "m", "sha256": "ab" * 32}, {"name": "onnxruntime", "precision": "fp32"}
    return Predictions("tiny", model, engine, [case, failed_case("bad")])


@pytest.fixture
def scan_file(scan: Scan, tmp_path: Path) -> Path:
    path = tmp_path / "scans" / "case one.nii.gz"
    path.parent.mkdir()
    write_scan(scan, path)
    return path


def place(name: str) -> Floats:
    return np.array(PLACES[name])
