"""DALI against the reference, on the CPU backend: every kind of scan, mixed batches, final points, failures."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.scan_files import oblique_piece
from tests.synthetic import HEAD, directions, geometries, rotation, scrambled, small_task, stored_otherwise, turned
from trt_landmarks.bundles.bundle import open_bundle
from trt_landmarks.engines.base import Engine
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.tensorrt.gpu import gpu_problem
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.errors import EngineError
from trt_landmarks.geometry import Floats, Geometry, Grid
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.nets.model import build_nets
from trt_landmarks.preprocessing import dali
from trt_landmarks.preprocessing.dali import TYPES, DaliPreprocessor, make_pipeline
from trt_landmarks.preprocessing.reference import Preprocessor, Range, ReferencePreprocessor
from trt_landmarks.preprocessing.sampling import intensity_range
from trt_landmarks.scan import Scan, read_scan
from trt_landmarks.system import install_command
from trt_landmarks.task.graphs import padded_size
from trt_landmarks.task.task import Intensity, Task

#: What DALI may differ by from the reference, of the range 0..1.
TOLERANCE = 1e-3
NUMBERS = sorted(str(dtype) for dtype in TYPES)
GPU = gpu_problem() is None


@pytest.fixture(scope="module")
def preprocessor() -> DaliPreprocessor:
    return DaliPreprocessor(threads=2, max_batch=3)


def noise(geometry: Geometry, dtype: str, seed: int) -> NDArray[Any]:
    """Noise over most of the type's range: neighbours differ by more than the type itself could hold."""
    values = np.random.default_rng(seed).uniform(0.001, 0.999, geometry.size[::-1])
    if np.dtype(dtype).kind == "f":
        return (values * 2000 - 1000).astype(dtype)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    return (values * (float(high) - float(low)) + float(low)).astype(dtype)


def ranges_of(scans: Sequence[Scan]) -> list[Range]:
    return [intensity_range(scan.voxels, Intensity()) for scan in scans]


def agree(preprocessor: DaliPreprocessor, scans: Sequence[Scan], grids: Sequence[Grid], ranges: Sequence[Range]) -> Any:
    found = preprocessor.coarse_volumes(scans, grids, ranges)
    expected = ReferencePreprocessor().coarse_volumes(scans, grids, ranges)
    assert found.shape == expected.shape == (len(scans), 1, *grids[0].shape[::-1]) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    assert found.min() >= 0 and found.max() <= 1
    return found


@given(st.data(), st.lists(st.tuples(geometries(largest=12), st.sampled_from(NUMBERS)), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_every_kind_of_scan(
    preprocessor: DaliPreprocessor, data: st.DataObject, kinds: list[tuple[Geometry, str]]
) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * 3))
    scans, grids = [], []
    for n, (geometry, dtype) in enumerate(kinds):
        scans.append(Scan(str(n), None, noise(geometry, dtype, n), geometry))
        kind = data.draw(st.sampled_from(["world", "oblique", "voxels", "faces"]))
        step = data.draw(st.floats(0.2, 3)) if kind != "faces" else 1
        x, y, z = (step * s for s in geometry.spacing)
        # "faces" lies on voxel centres or, shifted by half a voxel, on the faces between them: the border itself.
        start = [data.draw(st.integers(-4, 2 * n + 3)) / 2 for n in geometry.size]
        if kind != "faces":
            start = [data.draw(st.floats(-2, n + 1)) for n in geometry.size]
        axes = {"world": np.eye(3), "oblique": data.draw(directions())}.get(kind, geometry.direction)
        grids.append(Grid(shape, (x, y, z), geometry.voxel_to_world(start), axes))
    ranges = ranges_of(scans)
    assume(all(low < high for low, high in ranges))
    agree(preprocessor, scans, grids, ranges)


def test_the_border_by_hand(preprocessor: DaliPreprocessor) -> None:
    voxels = np.array([60, 100, 200, 50], np.uint8).reshape(1, 1, 4)
    scan = Scan("row", None, voxels, Geometry((4, 1, 1), (2, 1, 1), (10, 0, 0), np.eye(3)))
    # From half a voxel before the first one to a whole one behind the last.
    grid = Grid((11, 1, 1), (1, 1, 1), np.array([14.0, 0.5, -0.5]))
    expected = [0.3, 0.3, 0.4, 0.5, 0.75, 1, 0.625, 0.25, 0.25, 0, 0]
    np.testing.assert_allclose(preprocessor.coarse_volumes([scan], [grid], [(0, 200)]).ravel(), expected, atol=1e-6)
    # A hair more than half a voxel outside, on both sides.
    grid = Grid((3, 1, 1), (4.001, 1, 1), np.array([13.0, 0, 0]))
    np.testing.assert_allclose(preprocessor.coarse_volumes([scan], [grid], [(0, 200)]).ravel(), [0, 0.75, 0], atol=1e-6)


@pytest.mark.parametrize("turn", [(0, 0, 0), (13, -37, 71)])
def test_rounding_does_not_decide_what_is_outside(
    preprocessor: DaliPreprocessor, turn: tuple[float, float, float]
) -> None:
    """Positions on the half voxel itself count as inside, in all 48 ways to store the scan."""
    size = (7, 9, 11)
    geometry = Geometry(size, (0.1, 0.3, 0.7), (-77.7, 33.3, 1.1), rotation(*turn))
    scan = Scan("x", None, np.full(size[::-1], 5, np.int16), geometry)
    grid = Grid((8, 10, 12), geometry.spacing, geometry.centre, geometry.direction)
    stored = [other for other, _ in stored_otherwise(scan)]
    assert (preprocessor.coarse_volumes(stored, [grid] * 48, [(0, 5)] * 48) == 1).all()


@pytest.fixture(scope="module")
def real_scans(data_root: Path, mouse_scans: list[Path]) -> list[Scan]:
    """Raw and posed heads and an oblique piece, of different size, spacing, direction and number type."""
    raw = sorted((data_root / "mouse-skull-ct" / "raw" / "images").glob("*.nii.gz"))
    posed = read_scan(mouse_scans[0])
    lying = turned(read_scan(raw[3]), rotation(15, -25, 40))
    shifted = Scan(posed.id, posed.path, posed.voxels.astype(np.uint16) * 200 + 9000, posed.geometry)
    scans = [read_scan(raw[0]), oblique_piece(mouse_scans[3]), posed, lying, shifted, read_scan(raw[1])]
    scans += [Scan("float", None, scans[0].voxels * np.float32(1.7) - 40, scans[0].geometry)]
    assert len({scan.geometry.size for scan in scans}) == 5 and len({scan.voxels.dtype for scan in scans}) == 4
    return scans


def test_real_scans_in_one_batch(preprocessor: DaliPreprocessor, real_scans: list[Scan]) -> None:
    grids = [Grid((39, 52, 46), (0.5, 0.6, 0.4), scan.geometry.centre) for scan in real_scans]
    found = agree(preprocessor, real_scans, grids, ranges_of(real_scans))
    assert all(np.ptp(volume) > 0.8 for volume in found)
    alone = DaliPreprocessor(threads=1, max_batch=1).coarse_volumes(real_scans, grids, ranges_of(real_scans))
    np.testing.assert_array_equal(found, alone)


def hundredth_of_a_voxel(
    task: Task, mean_shape: Floats, engine: Engine, scans: Sequence[Scan], preprocessor: DaliPreprocessor
) -> None:
    expected = Localizer(task, mean_shape, engine).localize_batch(scans)
    found = Localizer(task, mean_shape, engine, preprocessor).localize_batch(scans)
    for scan, one, other in zip(scans, found, expected, strict=True):
        distance = scan.geometry.world_to_voxel(one.points) - scan.geometry.world_to_voxel(other.points)
        assert np.abs(distance).max() <= 0.01, scan.id
        np.testing.assert_allclose(one.confidence, other.confidence, atol=1e-3)
        assert not np.array_equal(one.coarse_points, other.coarse_points)  # it was DALI indeed


def test_points_of_the_shipped_model(preprocessor: DaliPreprocessor, mouse_scans: list[Path]) -> None:
    oblique = turned(read_scan(mouse_scans[2]), rotation(4, -6, 8))
    bundle = open_bundle("mouse-skull")
    engine = OnnxRuntimeEngine(bundle.graphs)
    hundredth_of_a_voxel(bundle.task, bundle.mean_shape, engine, [oblique], preprocessor)


def test_points_of_random_nets(preprocessor: DaliPreprocessor, real_scans: list[Scan]) -> None:
    task = small_task(intensity={}, symmetry=None)
    hundredth_of_a_voxel(task, HEAD, TorchEngine(scrambled(build_nets(task))), real_scans, preprocessor)


def three_scans() -> tuple[list[Scan], list[Grid], list[Range]]:
    scans = []
    for n, size in enumerate([(9, 8, 7), (5, 11, 6), (6, 6, 13)]):
        geometry = Geometry(size, (1, 1.5, 2), (3, -4, 5), rotation(10 * n, 5, -20))
        scans.append(Scan(f"scan{n}", None, noise(geometry, "uint8", n), geometry))
    return scans, [Grid((8, 7, 6), (1, 1, 1), scan.geometry.centre) for scan in scans], ranges_of(scans)


def test_one_graph_serves_batches_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def counted(dtype: np.dtype[Any], *more: Any, **settings: Any) -> Any:
        made.append(dtype)
        return make_pipeline(dtype, *more, **settings)

    monkeypatch.setattr(dali, "make_pipeline", counted)
    scans, grids, ranges = three_scans()
    reused = DaliPreprocessor(threads=1, max_batch=2)
    for count in (1, 3, 2, 1, 3):
        agree(reused, scans[:count], grids[:count], ranges[:count])
    assert made == [np.uint8]
    scans[1] = Scan("int16", None, scans[1].voxels.astype(np.int16) * 100, scans[1].geometry)
    agree(reused, scans, grids, ranges_of(scans))
    assert made == [np.uint8, np.int16]


def test_threads_do_not_disturb_each_other() -> None:
    scans, grids, ranges = three_scans()
    expected = DaliPreprocessor(threads=1).coarse_volumes(scans, grids, ranges)
    shared = DaliPreprocessor(threads=3)
    wrong: list[int] = []

    def work(first: int) -> None:
        rows = [(first + n) % 3 for n in range(3)]
        for _ in range(20):
            chosen = [[values[row] for row in rows] for values in (scans, grids, ranges)]
            if not np.array_equal(shared.coarse_volumes(*chosen), expected[rows]):  # type: ignore[arg-type]
                wrong.append(first)

    workers = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_after_a_failure_it_starts_afresh() -> None:
    scans, grids, ranges = three_scans()
    failing = DaliPreprocessor(threads=1)
    flat = Scan("flat", None, scans[0].voxels[0], scans[0].geometry)
    for _ in range(2):
        with pytest.raises(EngineError, match=r"DALI 2\.\d.* failed on scan0, flat: .*dimension") as caught:
            failing.coarse_volumes([scans[0], flat], grids[:2], ranges[:2])
        assert caught.value.code == "preprocessing_failed" and "--preprocess reference" in caught.value.remedy
        assert "\n" not in str(caught.value) and "/" not in caught.value.message
        agree(failing, scans, grids, ranges)


def test_an_interrupted_run_leaves_nothing_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    scans, grids, ranges = three_scans()
    interrupted = DaliPreprocessor(threads=1)
    agree(interrupted, scans[:1], grids[:1], ranges[:1])
    with monkeypatch.context() as patched:

        def outputs(*stream: object) -> None:
            raise KeyboardInterrupt

        patched.setattr(interrupted._free[np.dtype("uint8"), False][0], "outputs", outputs)
        with pytest.raises(KeyboardInterrupt):
            interrupted.coarse_volumes(scans[1:2], grids[1:2], ranges[1:2])
    agree(interrupted, scans[2:], grids[2:], ranges[2:])


def test_a_number_type_that_dali_has_not() -> None:
    scans, grids, _ = three_scans()
    scan = Scan("yes-no", None, scans[0].voxels > 100, scans[0].geometry)
    with pytest.raises(EngineError, match="yes-no: it takes no voxels of type bool"):
        DaliPreprocessor(threads=1).coarse_volumes([scan], grids[:1], [(0, 1)])


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(EngineError, match="DALI is not installed") as caught:
        DaliPreprocessor()
    assert install_command("dali") in caught.value.remedy


def whole(preprocessor: Preprocessor, scan: Scan, grid: Grid) -> tuple[Any, Any]:
    return preprocessor.scan_volumes(scan, grid, intensity_range(scan.voxels, Intensity()), None)


def test_voxels_for_the_whole_method(preprocessor: DaliPreprocessor, real_scans: list[Scan]) -> None:
    for scan in real_scans:
        grid = Grid((39, 52, 46), (0.5, 0.6, 0.4), scan.geometry.centre)
        volume, voxels = whole(preprocessor, scan, grid)
        expected, padded = whole(ReferencePreprocessor(), scan, grid)
        np.testing.assert_allclose(volume, expected, rtol=0, atol=TOLERANCE)
        np.testing.assert_array_equal(voxels, padded)
        assert voxels.shape == (1, 1, *padded_size(scan.voxels.shape)) and voxels.dtype == np.float32


def test_outputs_that_somebody_has_are_not_overwritten_and_buffers_stay_where_they_are() -> None:
    scans, grids, ranges = three_scans()
    scans = [Scan(scan.id, None, scan.voxels.astype(np.int16), scan.geometry) for scan in scans]
    shared, addresses = DaliPreprocessor(threads=1), []
    runs = [shared._run([scans[n]], [grids[n]], [ranges[n]], whole=True) for n in (0, 1)]
    both = [np.asarray(run.outputs[1].as_cpu()[0]) for run in runs]
    for n, array in enumerate(both):
        np.testing.assert_array_equal(array[..., 0], whole(ReferencePreprocessor(), scans[n], grids[n])[1][0, 0])
    del runs, both
    for n in (0, 1, 2, 1, 0):  # of one padded size
        run = shared._run([scans[n]], [grids[n]], [ranges[n]], whole=True)
        addresses.append(np.asarray(run.outputs[1].as_cpu()[0]).ctypes.data)
        del run
    assert len(set(addresses)) == 1


@pytest.mark.skipif(GPU, reason="there is a GPU")
@pytest.mark.parametrize("dtype", NUMBERS)
def test_without_a_gpu(dtype: str) -> None:
    with pytest.raises(EngineError, match="cannot run on a GPU here"):
        DaliPreprocessor(device_id=0)
    # The GPU's graph is put together, where every operator checks on which device its inputs are; it cannot be built.
    graph = make_pipeline(np.dtype(dtype), gpu=True, whole=True, batch_size=2, num_threads=1, device_id=None)
    with pytest.raises(RuntimeError, match="requires a CUDA-capable GPU"):
        graph.build()


@pytest.mark.skipif(not GPU, reason="there is no GPU")
def test_on_a_gpu(real_scans: list[Scan]) -> None:
    on_gpu = DaliPreprocessor(device_id=0, threads=2)
    grids = [Grid((39, 52, 46), (0.5, 0.6, 0.4), scan.geometry.centre) for scan in real_scans]
    agree(on_gpu, real_scans, grids, ranges_of(real_scans))
