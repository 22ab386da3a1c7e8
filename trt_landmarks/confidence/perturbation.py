"""Annotated scans made harder, their truth known by geometry: what confidence is learnt from and measured on.

A validation set is small and a good net makes few large errors in it.  So its scans are turned, moved, scaled,
blurred, cut off and covered; the annotation goes with them.  All strengths are relative to the task's patches or to
the scan's intensities, so that they mean the same for every task.

Every kind but ``clean`` and ``mix`` comes *mild*, within what a user may expect of a model, and *hard*, beyond it;
``erase`` and ``metal`` are always hard.  ``wrong`` scans show no such anatomy at all, or show it lying wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.geometry import Floats, Geometry
from trt_landmarks.preprocessing.sampling import intensity_range
from trt_landmarks.scan import Scan
from trt_landmarks.task.task import Task

MILD, HARD, WRONG = "mild", "hard", "wrong"
#: Kinds of a ``mix``: several mild ones, one after the other.
MIXED = ("turn", "scale", "noise", "blur")


@dataclass(frozen=True)
class Perturbed:
    """A changed scan.

    Attributes:
        scan: the scan.
        points: ``[N, 3]`` LPS mm, where its landmarks are now; NaN where not annotated.
        kind: what was done.
        range: ``mild``, ``hard`` or ``wrong``; ``clean`` scans are mild.
        strength: how much of it; its unit is the kind's.
    """

    scan: Scan
    points: Floats
    kind: str
    range: str
    strength: float


@dataclass(frozen=True)
class _Scene:
    """What a perturbation knows: the scan, its landmarks, and what lengths and intensities are measured in."""

    scan: Scan
    points: Floats
    patch_mm: float
    voxel_mm: float
    low: float
    high: float


#: Changes a scene by a strength, with a random generator for what else is drawn.
Change = Callable[[_Scene, float, np.random.Generator], tuple[Scan, Floats]]


def perturbations(scan: Scan, points: Floats, task: Task, *, seed: int = 0, wrong: int = 3) -> Iterator[Perturbed]:
    """The scan as it is, and changed in all ways; made one at a time.

    Args:
        scan: an annotated scan.
        points: ``[N, 3]`` LPS mm, its annotation.
        task: what is localized.
        seed: the same seed, scan id and task give the same scans.
        wrong: how many ``wrong`` scans to make.
    """
    yield Perturbed(scan, points, "clean", MILD, 0.0)
    low, high = intensity_range(scan.voxels, task.intensity)
    scene = _Scene(scan, points, float(np.mean(task.fine.extent_mm)), float(np.mean(task.fine.spacing_mm)), low, high)

    def made(kind: str, part: str, number: int) -> Perturbed:
        random = _generator(seed, scan.id, kind, part, number)
        strength = float(random.uniform(*KINDS[kind].strengths[part]))
        return Perturbed(*KINDS[kind].change(scene, strength, random), kind, part, strength)

    for kind, how in KINDS.items():
        for part in how.strengths:
            for number in range(wrong if part == WRONG else _COUNT[part]):
                yield made(kind, part, number)
    for number in range(3):
        random = _generator(seed, scan.id, "mix", MILD, number)
        now = scene
        for kind in MIXED:
            strength = float(random.uniform(*KINDS[kind].strengths[MILD]))
            changed, moved = KINDS[kind].change(now, strength, random)
            now = _Scene(changed, moved, scene.patch_mm, scene.voxel_mm, low, high)
        yield Perturbed(now.scan, now.points, "mix", MILD, float(len(MIXED)))


#: Scans of a kind and range for every head.
_COUNT = {MILD: 1, HARD: 2}


def turn(scene: _Scene, strength: float, random: np.random.Generator) -> tuple[Scan, Floats]:
    """The scan turned about its middle by ``strength`` degrees, about any axis."""
    axis = random.normal(size=3)
    return _moved(scene, _rotation(axis / np.linalg.norm(axis), np.deg2rad(strength)))


def scale(scene: _Scene, strength: float, random: np.random.Generator) -> tuple[Scan, Floats]:
    """All lengths larger or smaller by the factor exp(``strength``)."""
    return _moved(scene, np.eye(3) * np.exp(strength if random.random() < 0.5 else -strength))


def shift(scene: _Scene, strength: float, random: np.random.Generator) -> tuple[Scan, Floats]:
    """Background added on one side, so that the anatomy is off the middle by ``strength`` patch edges."""
    axis, side = int(random.integers(3)), int(random.integers(2))
    width = max(1, round(2 * strength * scene.patch_mm / scene.scan.geometry.spacing[axis]))
    before = [width * int(n == axis and side == 0) for n in range(3)]
    after = [width * int(n == axis and side == 1) for n in range(3)]
    pad = list(zip(before, after, strict=True))[::-1]  # arrays are [k, j, i]
    dtype = scene.scan.voxels.dtype
    voxels = np.pad(scene.scan.voxels, pad, constant_values=np.asarray(scene.low).astype(dtype))
    return _cut(scene.scan, voxels, -np.asarray(before)), scene.points


def crop(scene: _Scene, strength: float, random: np.random.Generator) -> tuple[Scan, Floats]:
    """One side cut off, ``strength`` patch edges inside the outermost landmark (negative: outside it)."""
    geometry = scene.scan.geometry
    axis, side = int(random.integers(3)), int(random.integers(2))
    along = geometry.world_to_voxel(scene.points)[:, axis]
    depth = strength * scene.patch_mm / geometry.spacing[axis]
    cut = round(float(np.nanmin(along) + depth if side == 0 else np.nanmax(along) - depth))
    cut = int(np.clip(cut, 2, geometry.size[axis] - 3))
    kept = slice(cut, None) if side == 0 else slice(None, cut + 1)
    voxels = scene.scan.voxels[tuple(kept if 2 - n == axis else slice(None) for n in range(3))]
    return _cut(scene.scan, voxels, np.where(np.arange(3) == axis, cut if side == 0 else 0, 0)), scene.points


def noise(scene: _Scene, strength: float, random: np.random.Generator) -> tuple[Scan, Floats]:
    """Gaussian noise; ``strength`` is its standard deviation as a share of the intensity range."""
    voxels = scene.scan.voxels
    added = random.standard_normal(voxels.shape, dtype=np.float32) * np.float32(strength * (scene.high - scene.low))
    return _filled(scene.scan, voxels + added), scene.points


def blur(scene: _Scene, strength: float, random: np.random.Generator) -> tuple[Scan, Floats]:
    """Gaussian blur; ``strength`` is its standard deviation in voxels of the patches."""
    voxels = scene.scan.voxels.astype(np.float32)
    for axis, spacing in enumerate(scene.scan.geometry.spacing):
        voxels = _smoothed(voxels, 2 - axis, strength * scene.voxel_mm / spacing)
    return _filled(scene.scan, voxels), scene.points


def coarsen(scene: _Scene, strength: float, random: np.random.Generator) -> tuple[Scan, Floats]:
    """Voxels joined, so that their edges become ``strength`` voxels of the patches (or stay, if they were longer)."""
    g = scene.scan.geometry
    ratios = [round(strength * scene.voxel_mm / edge) for edge in g.spacing]
    factors = [max(1, min(ratio, n // 2)) for ratio, n in zip(ratios, g.size, strict=True)]
    voxels = scene.scan.voxels.astype(np.float32)
    for axis, factor in enumerate(factors):
        whole = voxels.shape[2 - axis] // factor * factor
        voxels = np.moveaxis(voxels, 2 - axis, 0)[:whole]
        voxels = np.moveaxis(voxels.reshape(-1, factor, *voxels.shape[1:]).mean(axis=1), 0, 2 - axis)
    x, y, z = g.voxel_to_world((np.asarray(factors) - 1) / 2)
    k, j, i = voxels.shape
    a, b, c = (edge * factor for edge, factor in zip(g.spacing, factors, strict=True))
    geometry = Geometry((i, j, k), (a, b, c), (x, y, z), g.direction)
    return Scan(scene.scan.id, None, np.ascontiguousarray(voxels), geometry), scene.points


def gamma(scene: _Scene, strength: float, random: np.random.Generator) -> tuple[Scan, Floats]:
    """Another contrast: intensities between low and high to the power exp(+-``strength``)."""
    power = np.exp(strength if random.random() < 0.5 else -strength)
    share = (scene.scan.voxels.astype(np.float32) - scene.low) / (scene.high - scene.low)
    return _filled(scene.scan, np.sign(share) * np.abs(share) ** np.float32(power)), scene.points


def erase(scene: _Scene, strength: float, random: np.random.Generator) -> tuple[Scan, Floats]:
    """A ball of background about a landmark, ``strength`` patch edges in radius."""
    distance, _ = _around(scene, random)
    voxels = np.where(distance < strength * scene.patch_mm, np.float32(scene.low), scene.scan.voxels)
    return _filled(scene.scan, voxels), scene.points


def metal(scene: _Scene, strength: float, random: np.random.Generator) -> tuple[Scan, Floats]:
    """A ball several times as bright as anything, ``strength`` patch edges in radius, with streaks in its slices."""
    distance, offset = _around(scene, random)
    radius, bright = strength * scene.patch_mm, scene.high - scene.low
    angle = np.arctan2(offset[..., 1], offset[..., 0])
    far = np.exp(-distance / (6 * radius)) * np.exp(-0.5 * (offset[..., 2] / radius) ** 2)
    streaks = 0.8 * bright * far * np.cos(random.integers(4, 9) * angle + random.uniform(0, 6))
    voxels = np.where(distance < radius, scene.low + 4 * bright, scene.scan.voxels + streaks)
    return _filled(scene.scan, voxels), scene.points


def shuffle(scene: _Scene, strength: float, random: np.random.Generator) -> tuple[Scan, Floats]:
    """The scan's blocks of ``strength`` patch edges in random order: the same intensities, no anatomy."""
    voxels = scene.scan.voxels
    edges = [max(1, round(strength * scene.patch_mm / edge)) for edge in scene.scan.geometry.spacing[::-1]]
    blocks = [max(1, n // edge) for n, edge in zip(voxels.shape, edges, strict=True)]
    k, j, i = (b * e for b, e in zip(blocks, edges, strict=True))
    cut = voxels[:k, :j, :i].reshape(blocks[0], edges[0], blocks[1], edges[1], blocks[2], edges[2])
    cut = cut.transpose(0, 2, 4, 1, 3, 5).reshape(-1, *edges)
    cut = cut[random.permutation(len(cut))].reshape(*blocks, *edges).transpose(0, 3, 1, 4, 2, 5)
    return _cut(scene.scan, cut.reshape(k, j, i), np.zeros(3)), np.full_like(scene.points, np.nan)


@dataclass(frozen=True)
class Kind:
    """A way of changing a scan, and between which strengths it is drawn in each range."""

    change: Change
    strengths: dict[str, tuple[float, float]]


KINDS: dict[str, Kind] = {
    "turn": Kind(turn, {MILD: (0, 15), HARD: (15, 45), WRONG: (75, 180)}),
    "scale": Kind(scale, {MILD: (0, 0.1), HARD: (0.1, 0.3)}),
    "shift": Kind(shift, {MILD: (0, 0.25), HARD: (0.25, 0.75)}),
    "crop": Kind(crop, {MILD: (-0.5, 0), HARD: (0, 1)}),
    "noise": Kind(noise, {MILD: (0, 0.1), HARD: (0.1, 0.4)}),
    "blur": Kind(blur, {MILD: (0, 1), HARD: (1, 3)}),
    "coarsen": Kind(coarsen, {MILD: (1.5, 2.5), HARD: (2.5, 5)}),
    "gamma": Kind(gamma, {MILD: (0, 0.3), HARD: (0.3, 1)}),
    "erase": Kind(erase, {HARD: (0.15, 0.5)}),
    "metal": Kind(metal, {HARD: (0.05, 0.25)}),
    "shuffle": Kind(shuffle, {WRONG: (0.25, 1)}),
}


def _generator(*key: object) -> np.random.Generator:
    digest = hashlib.sha256(":".join(map(str, key)).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def _rotation(axis: Floats, angle: float) -> Floats:
    """Rotation about a unit axis by ``angle`` radians (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _moved(scene: _Scene, matrix: Floats) -> tuple[Scan, Floats]:
    """The scan lying otherwise: ``matrix`` (rotation times a scaling) about its middle; voxels stay as they are."""
    g = scene.scan.geometry
    factor = float(np.cbrt(np.linalg.det(matrix)))
    x, y, z = g.centre + matrix @ (np.asarray(g.origin) - g.centre)
    a, b, c = (edge * factor for edge in g.spacing)
    moved = Geometry(g.size, (a, b, c), (x, y, z), matrix / factor @ g.direction)
    return Scan(scene.scan.id, None, scene.scan.voxels, moved), g.centre + (scene.points - g.centre) @ matrix.T


def _cut(scan: Scan, voxels: NDArray[np.generic], first: NDArray[np.generic]) -> Scan:
    """A scan of ``voxels`` whose first one lies at voxel ``first`` (i, j, k) of the old."""
    x, y, z = scan.geometry.voxel_to_world(first)
    k, j, i = voxels.shape
    geometry = Geometry((i, j, k), scan.geometry.spacing, (x, y, z), scan.geometry.direction)
    return Scan(scan.id, None, np.ascontiguousarray(voxels), geometry)


def _filled(scan: Scan, voxels: NDArray[np.generic]) -> Scan:
    return Scan(scan.id, None, np.ascontiguousarray(voxels, dtype=np.float32), scan.geometry)


def _around(scene: _Scene, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Distance ``[k, j, i]`` of the voxels from near some landmark, and their offsets ``[k, j, i, 3]`` (mm, i j k)."""
    known = scene.points[np.isfinite(scene.points).all(axis=1)]
    middle = known[random.integers(len(known))] + random.normal(size=3) * scene.patch_mm / 12
    place = scene.scan.geometry.world_to_voxel(middle)
    spacing = scene.scan.geometry.spacing
    lines = [(np.arange(n) - p) * edge for n, p, edge in zip(scene.scan.geometry.size, place, spacing, strict=True)]
    i, j, k = np.meshgrid(*lines, indexing="ij", sparse=False)
    offset = np.stack([i, j, k], axis=-1).transpose(2, 1, 0, 3)
    return np.linalg.norm(offset, axis=-1), offset


def _smoothed(voxels: NDArray[np.float32], axis: int, sigma: float) -> NDArray[np.float32]:
    """Gaussian smoothing along one array axis; the border is repeated."""
    radius = int(np.ceil(3 * sigma))
    if radius == 0:
        return voxels
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
    padded = np.pad(voxels, [(radius, radius) if n == axis else (0, 0) for n in range(3)], mode="edge")
    count = voxels.shape[axis]
    total = np.zeros_like(voxels)
    for n, tap in enumerate(taps / taps.sum()):
        total += tap * np.take(padded, np.arange(n, n + count), axis=axis)
    return total
