"""The localizer's geometry, with engines that know the truth and with small random nets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.synthetic import (
    HEAD,
    about,
    blobs,
    field,
    head_geometry,
    rotation,
    scrambled,
    single,
    small_task,
    stored_otherwise,
    turned,
    voxel_positions,
)
from trt_landmarks.engines.base import Arrays
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.errors import EngineError
from trt_landmarks.geometry import Floats, Geometry, Grid, rigid_rotation
from trt_landmarks.localization.localizer import Localizer, coarse_grid
from trt_landmarks.nets.model import build_nets
from trt_landmarks.scan import Scan, read_scan
from trt_landmarks.task.graphs import COARSE, INDEPENDENT
from trt_landmarks.task.task import Task, load_task

#: What the coarse stage of the engine below is wrong by, mm.
MISS = np.random.default_rng(4).uniform(-0.8, 0.8, HEAD.shape)
WORLD = 400.0  # mm; the ramps below run from -WORLD to WORLD


def ramps(geometry: Geometry) -> list[Scan]:
    """Three scans whose voxels are their own world coordinates x, y and z: samples of them tell where they lie."""
    place = voxel_positions(geometry)
    return [Scan("xyz"[n], None, np.ascontiguousarray(place[..., n]), geometry) for n in range(3)]


@dataclasses.dataclass
class Surveyor:
    """An engine that sees from the three :func:`ramps` where its patches lie, and answers with the truth.

    It fits the affine map from offsets in the patch to the world, so it shares no formula with the localizer.
    """

    task: Task
    truth: Floats
    name: str = "surveyor"
    precision: str = "fp32"
    provider: str = "none"
    centres: dict[str, Floats] = dataclasses.field(default_factory=dict)
    axes: dict[str, Floats] = dataclasses.field(default_factory=dict)

    def run(self, graph: str, *arrays: NDArray[np.float32]) -> Arrays:
        (array,) = arrays
        spacing = self.task.coarse.spacing_mm if graph == COARSE else self.task.fine.spacing_mm
        members = {f"group-{group.name}": self.task.members(group) for group in self.task.groups}
        members[INDEPENDENT] = self.task.independent
        maps = [self._map(array[:, n].astype(np.float64), spacing) for n in range(array.shape[1])]
        self.centres[graph] = np.array([centre for centre, _ in maps])
        self.axes[graph] = np.array([axes for _, axes in maps])
        if graph == COARSE:
            ((centre, axes),) = maps
            offsets = (self.truth + MISS - centre) @ np.linalg.inv(axes).T
            return (np.stack([single(offsets)] * 3),)
        rows = list(members[graph])
        offsets = np.array([
            np.linalg.solve(axes, self.truth[row] - centre) for row, (centre, axes) in zip(rows, maps, strict=True)
        ])  # fmt: skip
        outputs: list[Floats] = [offsets, np.linspace(0.1, 0.9, len(rows))]
        if graph != INDEPENDENT:
            axis = next(g.axis_index for g in self.task.groups if graph.endswith(g.name))
            outputs.append(offsets[:, axis].mean())
        return tuple(single(np.stack([output] * 3)) for output in outputs)

    @staticmethod
    def _map(samples: Floats, spacing: tuple[float, ...]) -> tuple[Floats, Floats]:
        """Centre and axes of one patch, from its samples ``[3, Z, Y, X]`` of the three ramps."""
        z, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in samples.shape[1:]), indexing="ij")
        offsets = np.stack([x, y, z, np.ones_like(x)], axis=-1) * [*spacing, 1]
        seen = ((samples > 0.0) & (samples < 1)).all(axis=0)
        assert seen.sum() > 20
        solution, residual, *_ = np.linalg.lstsq(offsets[seen], (samples[:, seen].T * 2 - 1) * WORLD, rcond=None)
        assert (residual < 1e-4).all()
        return solution[3], solution[:3].T


def surveyed(**changes: object) -> Task:
    return small_task(intensity={"method": "window", "low": -WORLD, "high": WORLD}, **changes)


def fine(**changes: object) -> dict[str, object]:
    return small_task().fine.model_dump() | changes


CENTRE = np.array([40, -25, 130.0])
POSE = rotation(12, -20, 35)
GEOMETRIES = {
    "upright": head_geometry(),
    "mirrored": head_geometry(mirrored=True),
    "oblique": head_geometry(rotation(20, 30, -50)),
    "oblique and mirrored": head_geometry(rotation(-70, 10, 25), mirrored=True),
    "lying": head_geometry(np.array([[0, 0, -1], [1, 0, 0], [0, -1, 0.0]])),
}


def big(geometry: Geometry) -> Geometry:
    """The same way to store a volume, large enough that no patch leaves it."""
    return about(CENTRE, (38, 40, 36), (1.1, 1.0, 1.2), geometry.direction)


@pytest.mark.parametrize("frame", ["scan", "anatomy"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_true_offsets_give_back_the_true_landmarks(name: str, frame: str) -> None:
    task = surveyed(fine=fine(frame=frame, spacing_mm=[0.75, 0.6, 0.9]))
    truth = HEAD @ POSE.T + CENTRE + [0.5, -0.3, 0.2]
    engine = Surveyor(task, truth)
    for found in Localizer(task, HEAD, engine).localize_batch(ramps(big(GEOMETRIES[name]))):
        np.testing.assert_allclose(found.points, truth, atol=1e-4)
        np.testing.assert_allclose(found.coarse_points, truth + MISS, atol=1e-4)
        assert found.points.dtype == np.float64
        np.testing.assert_allclose(found.confidence[list(task.independent)], np.linspace(0.1, 0.9, 4), atol=1e-6)
        (plane,) = found.slices
        rows = list(task.members(task.groups[0]))
        assert abs((truth[rows].mean(0) - plane.point) @ plane.normal) < 1e-4
        axes = np.eye(3) if frame == "scan" else rigid_rotation(HEAD, truth + MISS)
        np.testing.assert_allclose(axes, np.eye(3) if frame == "scan" else POSE, atol=0.1)
        np.testing.assert_allclose(plane.normal, axes[:, 0], atol=1e-6)
        assert plane.group.name == "mid" and plane.position_mm == plane.point[0]
    for graph, members in Localizer(task, HEAD, engine).members.items():
        np.testing.assert_allclose(engine.axes[graph], np.broadcast_to(axes, (len(members), 3, 3)), atol=1e-4)
    # Independent patches lie about the coarse points; the group's in one slice, moved along the normal only.
    np.testing.assert_allclose(engine.centres[INDEPENDENT], (truth + MISS)[list(task.independent)], atol=1e-4)
    moved = engine.centres["group-mid"] - (truth + MISS)[rows]
    along = engine.centres["group-mid"] @ axes[:, 0]
    np.testing.assert_allclose(along, ((truth + MISS)[rows] @ axes[:, 0]).mean(), atol=1e-4)
    np.testing.assert_allclose(moved - np.outer(moved @ axes[:, 0], axes[:, 0]), 0, atol=1e-4)
    assert np.abs(moved).max() > 0.05


@pytest.mark.parametrize("axis", ["anterior-posterior", "superior-inferior"])
def test_groups_along_other_axes(axis: str) -> None:
    group = {"name": "flat", "axis": axis, "landmarks": ["jaw-r", "ear-l"]}
    task = surveyed(groups=[group], symmetry=None)
    truth = HEAD @ POSE.T + CENTRE
    engine = Surveyor(task, truth)
    found = Localizer(task, HEAD, engine).localize_batch(ramps(big(GEOMETRIES["oblique"])))[0]
    np.testing.assert_allclose(found.points, truth, atol=1e-4)
    index = task.groups[0].axis_index
    normal = rigid_rotation(HEAD, truth + MISS)[:, index]
    (plane,) = found.slices
    np.testing.assert_allclose(plane.normal, normal, atol=1e-6)
    assert plane.position_mm == plane.point[index]
    assert np.ptp(engine.centres["group-flat"] @ normal) < 1e-4


def scrambled_engine(task: Task) -> TorchEngine:
    return TorchEngine(scrambled(build_nets(task)))


def textured(geometry: Geometry, seed: int = 0) -> Scan:
    return Scan(f"head-{seed}", None, field(voxel_positions(geometry), seed).astype(np.float32), geometry)


@pytest.fixture(scope="module")
def mixed() -> list[Scan]:
    """Scans of different sizes, types and directions."""
    scans = [textured(geometry, seed) for seed, geometry in enumerate(GEOMETRIES.values())]
    first = scans[0]
    scans[0] = Scan(first.id, None, (first.voxels * 200).astype(np.uint8), first.geometry)
    return scans


@pytest.mark.parametrize("frame", ["scan", "anatomy"])
def test_a_batch_gives_what_its_scans_give_alone(mixed: list[Scan], frame: str) -> None:
    task = small_task(fine=fine(frame=frame), intensity={"low": 1, "high": 99})
    localizer = Localizer(task, HEAD, scrambled_engine(task))
    alone = [localizer.localize(scan) for scan in mixed]
    assert np.ptp([found.points for found in alone], axis=0).max() > 1  # the scans are told apart
    for order in (range(5), [4, 2, 0, 1, 3]):
        together = localizer.localize_batch([mixed[n] for n in order])
        for n, found in zip(order, together, strict=True):
            np.testing.assert_allclose(found.points, alone[n].points, atol=1e-4)
            np.testing.assert_allclose(found.confidence, alone[n].confidence, atol=1e-5)
            np.testing.assert_allclose(found.coarse_points, alone[n].coarse_points, atol=1e-4)
            np.testing.assert_allclose(found.slices[0].point, alone[n].slices[0].point, atol=1e-4)
    assert localizer.localize_batch([]) == []


def test_timing_names_every_stage(mixed: list[Scan]) -> None:
    task = small_task()
    found = Localizer(task, HEAD, scrambled_engine(task)).localize_batch(mixed[:2])
    stages = ["normalize", "coarse_resample", "coarse", "patch_sampling", "fine_independent", "fine_correlated"]
    assert list(found[0].timing_ms) == stages
    assert all(ms > 0 for ms in found[0].timing_ms.values())
    found[0].timing_ms["read"] = 1
    assert "read" not in found[1].timing_ms


def test_inputs_are_those_of_the_nets(mixed: list[Scan]) -> None:
    """What calibration is given is what the engine is given."""
    seen: dict[str, NDArray[np.float32]] = {}
    task = small_task()
    engine = scrambled_engine(task)
    run = engine.run

    def listen(graph: str, *arrays: NDArray[np.float32]) -> Arrays:
        (seen[graph],) = arrays
        return run(graph, *arrays)

    engine.run = listen  # type: ignore[method-assign]
    localizer = Localizer(task, HEAD, engine)
    found = localizer.localize(mixed[2])
    np.testing.assert_array_equal(seen[COARSE][0], localizer.coarse_volume(mixed[2]))
    patches = localizer.patches(mixed[2], found.coarse_points)
    assert set(patches) | {COARSE} == set(seen)
    for graph, array in patches.items():
        np.testing.assert_array_equal(seen[graph][0], array)
    for array in seen.values():
        assert array.dtype == np.float32 and array.min() >= 0 and array.max() <= 1 and np.ptp(array) > 0.2
    assert seen[COARSE].shape == (1, 1, 9, 14, 10) and seen["group-mid"].shape == (1, 3, 8, 8, 8)


def test_no_groups(mixed: list[Scan]) -> None:
    task = small_task(groups=[])
    found = Localizer(task, HEAD, scrambled_engine(task)).localize(mixed[1])
    assert found.slices == () and "fine_correlated" not in found.timing_ms
    assert (found.points != found.coarse_points).all()


def test_nothing_but_a_group(mixed: list[Scan]) -> None:
    landmarks = list(small_task().landmarks)
    task = small_task(groups=[{"name": "all", "axis": "superior-inferior", "landmarks": landmarks[::-1]}])
    localizer = Localizer(task, HEAD, scrambled_engine(task))
    assert set(localizer.members) == {"group-all"}
    found = localizer.localize(mixed[1])
    assert "fine_independent" not in found.timing_ms
    assert (found.points != found.coarse_points).all() and (found.confidence > 0).any()


def test_no_slice_branch_no_key_slice(mixed: list[Scan]) -> None:
    task = small_task(correlated={"slice_branch": False})
    assert Localizer(task, HEAD, scrambled_engine(task)).localize(mixed[0]).slices == ()


def test_two_landmarks_have_no_pose(mixed: list[Scan]) -> None:
    task = small_task(landmarks=["a", "b"], groups=[], symmetry=None)
    found = Localizer(task, HEAD[:2], scrambled_engine(task)).localize(mixed[2])
    assert np.isfinite(found.points).all()


@pytest.mark.parametrize("broken", [COARSE, INDEPENDENT, "group-mid"])
def test_an_engine_that_gives_no_numbers_is_an_error(mixed: list[Scan], broken: str) -> None:
    task = small_task()
    engine = scrambled_engine(task)
    run = engine.run

    def overflow(graph: str, *arrays: NDArray[np.float32]) -> Arrays:
        outputs = run(graph, *arrays)
        if graph == broken:
            outputs[-1].flat[-1] = np.nan
        return outputs

    engine.run = overflow  # type: ignore[method-assign]
    with pytest.raises(EngineError, match=f"torch in fp32: graph {broken} gave values that are not numbers") as caught:
        Localizer(task, HEAD, engine).localize(mixed[0])
    assert caught.value.code == "engine_output" and caught.value.remedy


def test_what_lies_outside_the_scan_is_background() -> None:
    """Outside takes the value that becomes 0, also where voxel value 0 is not the lowest."""
    geometry = head_geometry()
    voxels = (np.full(geometry.size[::-1], -500) + 900 * field(voxel_positions(geometry))).astype(np.int16)
    task = small_task(coarse={"shape": [20, 20, 20], "field_of_view_mm": [60, 60, 60], "width": 2}, intensity={})
    volume = Localizer(task, HEAD, scrambled_engine(task)).coarse_volume(Scan("x", None, voxels, geometry))
    assert (volume[0, 0] == 0).all() and (volume[0, :, :, -1] == 0).all()
    assert volume[0, 8:12, 8:12, 8:12].mean() > 0.2


# --- one real scan, stored in every way ---------------------------------------------------------------------


def real_head(path: Path) -> Scan:
    """Every second voxel, of one size that differs along each axis."""
    scan = read_scan(path)
    voxels = np.ascontiguousarray(scan.voxels[:90:2, ::2, ::2])
    g = scan.geometry
    size = (voxels.shape[2], voxels.shape[1], voxels.shape[0])
    spacing = (2 * g.spacing[0], 2 * g.spacing[1], 2 * g.spacing[2])
    assert len(set(size)) == 3
    return Scan(scan.id, path, voxels, Geometry(size, spacing, g.origin, g.direction))


@pytest.fixture(scope="module")
def real_localizer(repo_root: Path, data_root: Path) -> Callable[[str], tuple[Localizer, Floats]]:
    from trt_landmarks.data.dataset import load_dataset

    full = load_task(repo_root / "tasks" / "mouse-skull.yaml")
    points = load_dataset(data_root / "mouse-skull-ct" / "posed", full).cases[2].points

    def build(frame: str) -> tuple[Localizer, Floats]:
        task = small_task(
            landmarks=list(full.landmarks), groups=[group.model_dump() for group in full.groups], symmetry=None,
            intensity={}, coarse={"shape": [13, 20, 12], "field_of_view_mm": [20.8, 31.2, 18.4], "width": 2},
            fine=fine(shape=[12, 12, 12], spacing_mm=[0.4, 0.4, 0.4], heatmap_sigma_mm=0.8, frame=frame),
        )  # fmt: skip
        nets = scrambled(build_nets(task))
        shape: NDArray[np.float32] = points.astype(np.float32)
        import torch

        nets[COARSE].mean_shape.copy_(torch.from_numpy(shape))  # type: ignore[operator, union-attr]
        return Localizer(task, points, TorchEngine(nets)), points

    return build


@pytest.mark.parametrize(("frame", "oblique"), [("scan", False), ("anatomy", False), ("scan", True)])
def test_a_real_scan_stored_in_all_48_ways(
    mouse_scans: list[Path], real_localizer: Callable[[str], tuple[Localizer, Floats]], frame: str, oblique: bool
) -> None:
    localizer, points = real_localizer(frame)
    scan = real_head(mouse_scans[2])
    if oblique:
        scan = turned(scan, rotation(9, -14, 21))
        points = points @ rotation(9, -14, 21).T
    volume = localizer.coarse_volume(scan)
    patches = localizer.patches(scan, points)
    expected = localizer.localize(scan)
    assert np.ptp(volume) > 0.8 and np.linalg.norm(expected.points - expected.coarse_points, axis=1).min() > 0.01
    for other, order in stored_otherwise(scan):
        np.testing.assert_allclose(other.geometry.centre, scan.geometry.centre, atol=1e-9, err_msg=str(order))
        np.testing.assert_allclose(localizer.coarse_volume(other), volume, atol=1e-4)
        for graph, array in localizer.patches(other, points).items():
            np.testing.assert_allclose(array, patches[graph], atol=1e-4)
        found = localizer.localize(other)
        np.testing.assert_allclose(found.points, expected.points, rtol=0, atol=0.02 * 0.4)
        voxels = other.geometry.world_to_voxel(found.points)
        here = scan.geometry.world_to_voxel(expected.points)[:, list(order)]
        size = np.asarray(other.geometry.size)
        mirrored = np.linalg.norm(voxels - here, axis=0) > np.linalg.norm(size - 1 - voxels - here, axis=0)
        np.testing.assert_allclose(np.where(mirrored, size - 1 - voxels, voxels), here, atol=0.02)


def test_a_blob_is_found_where_it_is() -> None:
    """From the scan's bright spots to the world, with nothing but a centre of mass as the net."""
    task = small_task(groups=[], symmetry=None)
    geometry = head_geometry(rotation(5, 10, 15), mirrored=True)
    truth = HEAD @ rotation(5, 10, 15).T + CENTRE
    scan = Scan("blobs", None, blobs(geometry, truth, [1] * 7, width=1.2), geometry)

    class CentreOfMass:
        name = precision = provider = "test"

        def run(self, graph: str, *arrays: NDArray[np.float32]) -> Arrays:
            (array,) = arrays
            if graph == COARSE:
                return (single(truth + MISS - geometry.centre)[None],)
            z, y, x = np.meshgrid(*(np.arange(8) - 3.5,) * 3, indexing="ij")
            weights = array[0] ** 3
            offsets = np.stack([(weights * g).sum((1, 2, 3)) / weights.sum((1, 2, 3)) for g in (x, y, z)], axis=-1)
            return single(offsets * 0.75)[None], np.ones((1, 7), np.float32)

    found = Localizer(task, HEAD, CentreOfMass()).localize(scan)
    assert np.linalg.norm(found.points - truth, axis=1).max() < 0.15
    assert np.linalg.norm(found.coarse_points - truth, axis=1).mean() > 0.5


def test_the_coarse_grid_lies_about_the_middle_along_the_world() -> None:
    task = small_task()
    for geometry in GEOMETRIES.values():
        grid: Grid = coarse_grid(task, Scan("x", None, np.zeros(1), geometry))
        np.testing.assert_allclose(grid.centre, CENTRE, atol=1e-9)
        np.testing.assert_array_equal(grid.axes, np.eye(3))
        assert grid.shape == (10, 14, 9)
        np.testing.assert_allclose(np.asarray(grid.shape) * grid.spacing, [24, 34, 22])
