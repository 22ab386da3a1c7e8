"""Graphs over a whole scan: the same landmarks as the host's two stages give, at every precision and for any scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.synthetic import Judge, rotation
from trt_landmarks.bundles.builds import find_build
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.errors import EngineError
from trt_landmarks.export.whole_scan import write_resident
from trt_landmarks.geometry import Geometry
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.localization.whole_scan import ResidentLocalizer
from trt_landmarks.scan import Scan
from trt_landmarks.task.graphs import LAYOUTS, SCAN_INPUTS, profiles


def scans() -> list[Scan]:
    """Smooth noise in volumes of different size, spacing, direction and type."""
    rng = np.random.default_rng(1)
    found = []
    for size, spacing, degrees, dtype in (
        ((20, 22, 24), (1.0, 1.0, 1.0), (0, 0, 0), np.uint8),
        ((31, 25, 40), (0.7, 0.9, 0.5), (10, -20, 35), np.int16),
        ((18, 30, 17), (1.5, 0.8, 1.2), (180, 5, 90), np.float32),
    ):
        noise = rng.normal(size=size[::-1])
        for axis in range(3):
            noise = np.mean([np.roll(noise, shift, axis) for shift in range(-2, 3)], axis=0)
        voxels = ((noise - noise.min()) / np.ptp(noise) * 250).astype(dtype)
        geometry = Geometry(size, spacing, (100.0, -50.0, 20.0), rotation(*degrees))
        found.append(Scan("noise", None, voxels, geometry))
    return found


@pytest.fixture(scope="module")
def written(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    folder = tmp_path_factory.mktemp("resident")
    return {
        layout: write_resident(tiny_bundle.task, tiny_bundle.mean_shape, tiny_bundle.graphs, layout, folder)
        for layout in LAYOUTS
    }


def close(one: Localizer | ResidentLocalizer, other: Localizer, scan: Scan, mm: float) -> None:
    found, expected = one.localize(scan), other.localize(scan)
    np.testing.assert_allclose(found.coarse_points, expected.coarse_points, atol=mm)
    near = np.linalg.norm(found.points - expected.points, axis=-1) < mm
    assert near.mean() >= 0.8, (found.points, expected.points)  # random nets: a maximum may lie in two places
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=20 * mm)
    assert [plane.group for plane in found.slices] == [plane.group for plane in expected.slices]
    for a, b in zip(found.slices, expected.slices, strict=True):
        np.testing.assert_allclose(a.normal, b.normal, atol=mm)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_landmarks_as_on_the_host(
    tiny_bundle: Bundle, written: dict[str, dict[str, Path]], layout: str
) -> None:
    host = Localizer(tiny_bundle.task, tiny_bundle.mean_shape, OnnxRuntimeEngine(tiny_bundle.graphs))
    resident = ResidentLocalizer(tiny_bundle.task, OnnxRuntimeEngine(written[layout]), layout)
    for scan in scans():
        close(resident, host, scan, 2e-3)
    together = resident.localize_batch(scans())
    np.testing.assert_array_equal(together[1].points, resident.localize(scans()[1]).points)
    judging = ResidentLocalizer(tiny_bundle.task, resident.engine, layout, Judge(False)).localize(scans()[1])
    np.testing.assert_array_equal(judging.points, together[1].points)
    assert judging.reliability is not None and together[1].reliability is None


def test_nets_of_lower_precision(built_bundle: Bundle, tmp_path: Path) -> None:
    half = find_build(built_bundle, "onnxruntime", "fp16")
    assert half is not None
    files = write_resident(built_bundle.task, built_bundle.mean_shape, half.files, "one", tmp_path)
    host = Localizer(built_bundle.task, built_bundle.mean_shape, OnnxRuntimeEngine(half.files, "fp16"))
    resident = ResidentLocalizer(built_bundle.task, OnnxRuntimeEngine(files, "fp16"), "one")
    close(resident, host, scans()[1], 2e-2)
    model = onnx.load(files["scan"])
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert set(kinds.values()) == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_are_those_of_the_profile(tiny_bundle: Bundle, written: dict[str, dict[str, Path]], layout: str) -> None:
    shapes = profiles(tiny_bundle.task, layout)
    for graph, path in written[layout].items():
        inputs = [value.name for value in onnx.load(path).graph.input]
        assert inputs[:4] == list(SCAN_INPUTS) and set(inputs) == set(shapes[graph])


def test_values_that_are_not_numbers_are_an_error(tiny_bundle: Bundle, written: dict[str, dict[str, Path]]) -> None:
    scan = scans()[0]
    voxels = scan.voxels.astype(np.float32)
    voxels[10] = np.nan
    resident = ResidentLocalizer(tiny_bundle.task, OnnxRuntimeEngine(written["pair"]), "pair")
    with pytest.raises(EngineError, match="graph scan-coarse gave values that are not numbers"):
        resident.localize(Scan("nan", None, voxels, scan.geometry))


def test_names_of_one_machine_stay_out(written: dict[str, dict[str, Path]]) -> None:
    content = written["one"]["scan"].read_bytes()
    assert b".py" not in content and str(Path(__file__).parents[2]).encode() not in content
