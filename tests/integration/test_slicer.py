"""3D Slicer's own code (the package slicer-core, 800 MB with VTK) reads our files, and we read what it saves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trt_landmarks import Model, read_landmarks
from trt_landmarks.bundles.bundle import Bundle

pytestmark = pytest.mark.integration


def test_slicer_reads_moves_and_saves_the_points(tiny_bundle: Bundle, scan_path: Path, tmp_path: Path) -> None:
    slicer = pytest.importorskip("slicer_core", reason="slicer-core is not installed (pip install slicer-core)")
    with Model.open(tiny_bundle.root, engine="onnxruntime", threads=1) as model:
        result = model.localize(scan_path)
    path = tmp_path / "head.mrk.json"
    result.write_markups(path)
    scene = slicer.vtkMRMLScene()
    storage = slicer.vtkMRMLMarkupsJsonStorageNode()
    scene.AddNode(storage)
    storage.AddNewMarkupsNodeFromFile(str(path))
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 1
    node = scene.GetNthNodeByClass(0, "vtkMRMLMarkupsFiducialNode")
    assert node.GetName() == "head" and node.GetNumberOfControlPoints() == len(result.names)
    to_ras = np.array([-1, -1, 1])
    for number, mark in enumerate(result.case.landmarks):
        assert node.GetNthControlPointLabel(number) == mark.name
        assert node.GetNthControlPointDescription(number).startswith(mark.status.replace("_", " "))
        shown = node.GetNthControlPointPositionStatus(number) == node.PositionDefined
        assert shown == (mark.status != "outside_scan")
        if shown:
            place = np.array(node.GetNthControlPointPosition(number)) * to_ras
            np.testing.assert_allclose(place, mark.position_lps_mm, atol=1e-5)

    node.SetNthControlPointPosition(0, 1.0, 2.0, 3.0)
    saved = tmp_path / "saved" / "head.mrk.json"
    saved.parent.mkdir()
    storage.SetFileName(str(saved))
    assert storage.WriteData(node)
    np.testing.assert_allclose(read_landmarks(saved)[result.names[0]], [-1, -2, 3], atol=1e-6)
