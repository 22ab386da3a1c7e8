"""What the tests of geometry, nets and training share: small tasks, small scans, and scans stored another way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from torch import nn

from trt_landmarks.geometry import Floats, Geometry
from trt_landmarks.localization.confidence import ConfidenceModel
from trt_landmarks.localization.result import Localization, Reliability
from trt_landmarks.scan import Scan
from trt_landmarks.task.task import Task, parse_task
from trt_landmarks.training.augmentation import Augmentation, rotation_xyz
from trt_landmarks.training.scans import TrainingScan

# How long an example takes says more about the machine's load than about the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

#: Positions of the small task's landmarks about the head's middle, mm; left and right come in pairs.
HEAD = np.array([[5, -6, 1], [-5, -6, 1], [6, 5, -2], [-6, 5, -2], [0, -8, -4], [0, 1, 5], [0, 8, -3.0]])

#: No randomness at all.
STILL = Augmentation(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def single(values: ArrayLike) -> NDArray[np.float32]:
    """As engines give numbers."""
    return np.asarray(values, dtype=np.float32)


def small_task(**changes: Any) -> Task:
    """Two mirror pairs, and three landmarks in the midsagittal plane; ``changes`` replace whole top-level keys."""
    content: dict[str, Any] = {
        "name": "small",
        "landmarks": ["ear-l", "ear-r", "jaw-l", "jaw-r", "nose", "top", "neck"],
        "groups": [{"name": "mid", "axis": "left-right", "landmarks": ["top", "nose", "neck"]}],
        "symmetry": {
            "axis": "left-right", "pairs": [["ear-l", "ear-r"], ["jaw-l", "jaw-r"]], "midline": ["nose", "top", "neck"],
        },
        "intensity": {"method": "window", "low": 0, "high": 1},
        "coarse": {"shape": [10, 14, 9], "field_of_view_mm": [24, 34, 22], "width": 2},
        "fine": {
            "shape": [8, 8, 8], "spacing_mm": [0.75, 0.75, 0.75], "frame": "anatomy", "width": 2, "levels": 2,
            "heatmap_sigma_mm": 1.5,
        },
        "sdr_radii_mm": [1, 2],
    }  # fmt: skip
    return parse_task(content | changes, "small")


def rotation(*degrees: float) -> Floats:
    """Rotation about x, then y, then z."""
    return rotation_xyz(np.deg2rad(degrees))


def field(points: Floats, seed: int = 0) -> Floats:
    """A smooth, structured function of the world: values in 0..1 at ``points`` ``[..., 3]`` (mm)."""
    rng = np.random.default_rng(seed)
    waves = rng.normal(size=(8, 3)) * 0.6
    phase = rng.uniform(0, 2 * np.pi, 8)
    return 0.5 + np.sin(points @ waves.T + phase).sum(axis=-1) / 16


def voxel_positions(geometry: Geometry) -> Floats:
    """LPS mm of every voxel centre, ``[k, j, i, 3]``."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in geometry.size[::-1]), indexing="ij")
    return geometry.voxel_to_world(np.stack([i, j, k], axis=-1))


def about(
    centre: Sequence[float] | Floats, size: tuple[int, int, int], spacing: tuple[float, float, float], direction: Floats
) -> Geometry:
    """The geometry whose middle lies at ``centre``."""
    half = direction @ ((np.asarray(size) - 1) / 2 * spacing)
    x, y, z = np.asarray(centre, dtype=np.float64) - half
    return Geometry(size, spacing, (x, y, z), direction)


def blobs(geometry: Geometry, points: Floats, heights: Sequence[float], width: float) -> NDArray[np.float32]:
    """Voxels of Gaussian blobs at ``points`` (LPS mm)."""
    place = voxel_positions(geometry)
    squared = (((place[..., None, :] - points) / width) ** 2).sum(axis=-1)
    return (np.exp(-0.5 * squared) @ np.asarray(heights)).astype(np.float32)


def head_geometry(turn: Floats | None = None, mirrored: bool = False) -> Geometry:
    """Anisotropic, off the world's origin, large enough for :data:`HEAD`."""
    direction = (np.eye(3) if turn is None else turn) @ np.diag([1, -1 if mirrored else 1, 1])
    return about((40, -25, 130), (30, 34, 22), (0.9, 1.0, 1.2), direction)


def training_scan(geometry: Geometry, points: Floats, voxels: NDArray[np.float32], id: str = "head") -> TrainingScan:
    return TrainingScan(id, torch.from_numpy(voxels)[None, None], geometry, points)


def stored_otherwise(scan: Scan) -> Iterator[tuple[Scan, tuple[int, ...]]]:
    """The scan in all 48 orders and directions of its axes, with the order of i, j, k; the world stays."""
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            geometry = scan.geometry
            sign = np.where(flips, -1.0, 1.0)
            corner = np.zeros(3)
            for new, old in enumerate(order):
                corner[old] = geometry.size[old] - 1 if flips[new] else 0
            x, y, z = geometry.voxel_to_world(corner)
            a, b, c = order
            voxels = scan.voxels.transpose(2 - c, 2 - b, 2 - a)  # arrays are [k, j, i]
            voxels = voxels[tuple(slice(None, None, -1 if flip else 1) for flip in reversed(flips))]
            moved = Geometry(
                (geometry.size[a], geometry.size[b], geometry.size[c]),
                (geometry.spacing[a], geometry.spacing[b], geometry.spacing[c]),
                (x, y, z),
                geometry.direction[:, list(order)] * sign,
            )
            yield Scan(scan.id, scan.path, np.ascontiguousarray(voxels), moved), order


def turned(scan: Scan, turn: Floats) -> Scan:
    """The scan lying otherwise in the world: turned about the world's origin."""
    g = scan.geometry
    x, y, z = turn @ np.asarray(g.origin)
    return Scan(scan.id, scan.path, scan.voxels, Geometry(g.size, g.spacing, (x, y, z), turn @ g.direction))


@torch.no_grad()
def scramble(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights and batch statistics far from the initial ones, so that nothing is neutral by accident."""
    random = torch.Generator().manual_seed(seed)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(like.shape, generator=random)

    for module in net.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.weight.copy_(uniform(module.weight, 0.5, 1.5))
            module.bias.copy_(uniform(module.bias, 0.1, 0.5))  # else many units would be silent
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.copy_(uniform(module.running_mean, -0.3, 0.3))
            module.running_var.copy_(uniform(module.running_var, 0.3, 2))
        elif isinstance(module, (nn.Conv3d, nn.Conv1d, nn.Linear)):
            reach = (3 / module.weight[0].numel()) ** 0.5
            module.weight.copy_(uniform(module.weight, -reach, reach))
            if module.bias is not None:
                module.bias.copy_(uniform(module.bias, 0.1, 0.3))
            if isinstance(module, nn.Conv3d) and module.bias is not None:  # a head: peaks that stand out
                module.weight.mul_(4)
    return net


def scrambled(nets: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    return {name: scramble(net, seed) for seed, (name, net) in enumerate(nets.items())}


class Judge(ConfidenceModel):
    """Says the same of every scan, however high the heat maps are."""

    def __init__(self, wrong: bool) -> None:
        object.__setattr__(self, "wrong", wrong)

    def judge(self, found: Localization) -> Localization:
        count = len(found.points)
        low = np.arange(count) < 2
        errors = Reliability(np.full(count, 0.25), np.full(count, 0.5), low, self.wrong)  # type: ignore[attr-defined]
        return replace(found, confidence=np.full(count, 0.75), reliability=errors)


# --- hypothesis ---------------------------------------------------------------------------------------------


@st.composite
def directions(draw: st.DrawFn, improper: bool = True) -> Floats:
    """Orthonormal 3x3, mirrored ones among them; now and then along the axes."""
    if draw(st.integers(0, 3)) == 0:
        order = draw(st.permutations(range(3)))
        matrix = np.eye(3)[list(order)] * [draw(st.sampled_from([-1, 1])) for _ in range(3)]
    else:
        angle = st.floats(-180, 180).map(lambda degrees: round(degrees, 6))  # ITK fails with sines of 1e-310
        matrix = rotation(draw(angle), draw(angle), draw(angle))
        if improper and draw(st.booleans()):
            matrix = matrix @ np.diag([1, 1, -1])
    if not improper and np.linalg.det(matrix) < 0:
        matrix = -matrix
    return matrix


def triples(low: float, high: float) -> st.SearchStrategy[tuple[float, float, float]]:
    one = st.floats(low, high)
    return st.tuples(one, one, one)


@st.composite
def geometries(draw: st.DrawFn, largest: int = 300, smallest: int = 1) -> Geometry:
    size = st.integers(smallest, largest)
    return Geometry(
        draw(st.tuples(size, size, size)),
        draw(triples(0.05, 10)),
        draw(triples(-1000, 1000)),
        draw(directions()),
    )
