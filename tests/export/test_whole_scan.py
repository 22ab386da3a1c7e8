"""Graphs over a whole scan: the same landmarks as the host's two stages give, at every precision and for any scan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from tests.synthetic import Judge, rotation
from trt_landmarks.bundles.builds import find_build
from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.engines.base import Input
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.errors import EngineError
from trt_landmarks.export.whole_scan import write_whole_scan
from trt_landmarks.geometry import Geometry, Grid
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.localization.whole_scan import WholeScanLocalizer
from trt_landmarks.preprocessing.dali import DaliPreprocessor
from trt_landmarks.preprocessing.reference import Preprocessor, Range, ReferencePreprocessor
from trt_landmarks.scan import Scan, read_scan
from trt_landmarks.task.graphs import SCAN, SCAN_INPUTS, scan_profile


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
def written(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "scan.onnx"
    write_whole_scan(tiny_bundle.task, tiny_bundle.mean_shape, tiny_bundle.graphs, path)
    return path


def close(one: WholeScanLocalizer, other: Localizer, scan: Scan, mm: float) -> None:
    found, expected = one.localize(scan), other.localize(scan)
    np.testing.assert_allclose(found.coarse_points, expected.coarse_points, atol=mm)
    near = np.linalg.norm(found.points - expected.points, axis=-1) < mm
    assert near.mean() >= 0.8, (found.points, expected.points)  # random nets: a maximum may lie in two places
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=20 * mm)
    assert [plane.group for plane in found.slices] == [plane.group for plane in expected.slices]
    for a, b in zip(found.slices, expected.slices, strict=True):
        np.testing.assert_allclose(a.normal, b.normal, atol=mm)


@pytest.mark.parametrize("preprocessor", [ReferencePreprocessor, DaliPreprocessor])
def test_the_same_landmarks_as_on_the_host(
    tiny_bundle: Bundle, written: Path, preprocessor: Callable[[], Preprocessor]
) -> None:
    host = Localizer(tiny_bundle.task, tiny_bundle.mean_shape, OnnxRuntimeEngine(tiny_bundle.graphs))
    whole = WholeScanLocalizer(tiny_bundle.task, OnnxRuntimeEngine({SCAN: written}), preprocessor())
    for scan in scans():
        close(whole, host, scan, 2e-3)
    together = whole.localize_batch(scans())
    np.testing.assert_array_equal(together[1].points, whole.localize(scans()[1]).points)
    judging = WholeScanLocalizer(tiny_bundle.task, whole.engine, whole.preprocessor, Judge(False)).localize(scans()[1])
    np.testing.assert_array_equal(judging.points, together[1].points)
    assert judging.reliability is not None and together[1].reliability is None


def test_the_shipped_model_on_a_real_scan(mouse_scans: list[Path], tmp_path: Path) -> None:
    bundle, scan = open_bundle("mouse-skull"), read_scan(mouse_scans[0])
    write_whole_scan(bundle.task, bundle.mean_shape, bundle.graphs, tmp_path / "scan.onnx")
    expected = Localizer(bundle.task, bundle.mean_shape, OnnxRuntimeEngine(bundle.graphs)).localize(scan)
    whole = WholeScanLocalizer(bundle.task, OnnxRuntimeEngine({SCAN: tmp_path / "scan.onnx"}), DaliPreprocessor())
    apart = np.linalg.norm(whole.localize(scan).points - expected.points, axis=-1)
    assert apart.max() < 0.02 * min(scan.geometry.spacing)


def test_the_engine_s_stream_is_what_the_preprocessor_is_told(tiny_bundle: Bundle) -> None:
    """So DALI lets that stream wait, and what the engine enqueues there reads finished data."""
    told: list[int | None] = []

    class Told(ReferencePreprocessor):
        def scan_volumes(self, scan: Scan, grid: Grid, intensities: Range, stream: int | None) -> tuple[Input, Input]:
            told.append(stream)
            raise EngineError("enough")

    for engine in (SimpleNamespace(stream=77), SimpleNamespace()):
        with pytest.raises(EngineError, match="enough"):
            WholeScanLocalizer(tiny_bundle.task, engine, Told()).localize(scans()[0])  # type: ignore[arg-type]
    assert told == [77, None]


def test_nets_of_lower_precision(built_bundle: Bundle, tmp_path: Path) -> None:
    half = find_build(built_bundle, "onnxruntime", "fp16")
    assert half is not None
    write_whole_scan(built_bundle.task, built_bundle.mean_shape, half.files, tmp_path / "scan.onnx")
    host = Localizer(built_bundle.task, built_bundle.mean_shape, OnnxRuntimeEngine(half.files, "fp16"))
    whole = WholeScanLocalizer(built_bundle.task, OnnxRuntimeEngine({SCAN: tmp_path / "scan.onnx"}, "fp16"))
    close(whole, host, scans()[1], 2e-2)
    model = onnx.load(tmp_path / "scan.onnx")
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    assert set(kinds.values()) == {onnx.TensorProto.FLOAT}


def test_inputs_are_those_of_the_profile(tiny_bundle: Bundle, written: Path) -> None:
    inputs = [value.name for value in onnx.load(written).graph.input]
    assert inputs == list(SCAN_INPUTS) == list(scan_profile(tiny_bundle.task))


def test_values_that_are_not_numbers_are_an_error(tiny_bundle: Bundle, written: Path) -> None:
    scan = scans()[0]
    voxels = scan.voxels.astype(np.float32)
    voxels[10] = np.nan
    whole = WholeScanLocalizer(tiny_bundle.task, OnnxRuntimeEngine({SCAN: written}))
    with pytest.raises(EngineError, match="graph scan gave values that are not numbers"):
        whole.localize(Scan("nan", None, voxels, scan.geometry))


def test_names_of_one_machine_stay_out(written: Path) -> None:
    content = written.read_bytes()
    assert b".py" not in content and str(Path(__file__).parents[2]).encode() not in content
