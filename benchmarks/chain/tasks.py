"""Tasks drawn at random, and training data for them."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks.data.annotations import write_mrk_json
from trt_landmarks.geometry import AXES, Floats, Geometry
from trt_landmarks.scan import Scan, write_scan
from trt_landmarks.task.task import Task, parse_task

#: What names of landmarks are made of; the last are what YAML, CSV or file systems take for something else.
LETTERS = (*string.ascii_letters, *"0123456789 ._-éüßñ中国и'\"&%#@+()/\\")
ODD_NAMES = ("yes", "null", "1", "1e3", "~", "- a", "a: b", "#x", "name,x", "e\u0301", "O'Neil", "tab\there", "[red]")
GROUP_NAMES = ("mid", "mid.cpu", "mid.cpu.onnx", "Mid", "a..b", "x-1", "coarse", "independent", "0", "g_1.plan")
CASES = 3


@dataclass(frozen=True)
class Drawn:
    """A random task, with the annotated scans that were made for it."""

    task: Task
    shape: Floats
    features: tuple[str, ...]


def draw(rng: np.random.Generator) -> Drawn:
    """A random legal task, and where its landmarks lie about a scan's middle, ``[N, 3]`` mm."""
    count = int(np.round(2 ** rng.uniform(0, 7)))
    size = float(2 ** rng.uniform(3, 7))
    form = str(rng.choice(["cloud", "plane", "line", "nearly a line", "one place"], p=[0.6, 0.15, 0.1, 0.1, 0.05]))
    spread = {"cloud": (1, 1, 1), "plane": (1, 1, 0), "line": (1, 0, 0), "nearly a line": (1, 0.02, 0.02)}
    shape = rng.uniform(-0.3, 0.3, (count, 3)) * spread.get(form, (0, 0, 0)) * size
    groups, grouped = _groups(rng, count, shape)
    levels = int(rng.integers(2, 4))
    step = 2 ** (levels - 1)
    spacing = size / 32 * rng.uniform(0.5, 2, 3)
    fusion = bool(rng.random() < 0.8)
    branch = fusion and bool(rng.random() < 0.7)
    names = _names(rng, count)
    content: dict[str, Any] = {
        "name": "chain",
        "landmarks": names,
        "groups": [{**group, "landmarks": [names[n] for n in group["landmarks"]]} for group in groups],
        "intensity": {"method": "window", "low": -0.2, "high": 1.2} if rng.random() < 0.3 else {},
        "coarse": {
            "shape": rng.integers(5, 20, 3).tolist(), "field_of_view_mm": (size * rng.uniform(1, 2, 3)).tolist(),
            "width": int(rng.integers(1, 5)),
        },
        "fine": {
            "shape": [int(max(8, step * k)) for k in rng.integers(2, 9, 3)], "spacing_mm": spacing.tolist(),
            "frame": str(rng.choice(["scan", "anatomy"], p=[0.3, 0.7])), "width": int(rng.choice([1, 2, 8, 16])),
            "levels": levels, "heatmap_sigma_mm": float(2 * spacing.mean()),
        },
        "correlated": {
            "fusion": fusion, "channel_attention": fusion and bool(rng.random() < 0.5),
            "spatial_attention": fusion and bool(rng.random() < 0.5), "slice_branch": branch,
            "axis_position": str(rng.choice(["heatmap", "slice", "mean"])) if branch else "heatmap",
        },
        "sdr_radii_mm": [1, 2],
    }  # fmt: skip
    features = (f"{count} landmarks", f"{len(groups)} groups of {len(grouped)}", form, content["fine"]["frame"])
    return Drawn(parse_task(content, "random task"), shape, features)


def _groups(rng: np.random.Generator, count: int, shape: Floats) -> tuple[list[dict[str, Any]], list[int]]:
    """Up to three groups of landmarks, which are moved near to a slice each."""
    free, groups, grouped = list(rng.permutation(count)), [], []
    names = list(rng.permutation(GROUP_NAMES))
    for _ in range(int(rng.integers(0, 4))):
        if len(free) < 2:
            break
        members = [int(free.pop()) for _ in range(int(rng.integers(2, min(len(free), 12) + 1)))]
        axis = str(rng.choice(list(AXES)))
        shape[members, AXES[axis]] = shape[members[0], AXES[axis]]
        groups.append({"name": str(names.pop()), "axis": axis, "landmarks": members})
        grouped += members
    return groups, grouped


def _names(rng: np.random.Generator, count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        odd = rng.random() < 0.15
        text = str(rng.choice(ODD_NAMES)) if odd else "".join(rng.choice(LETTERS, int(rng.integers(1, 12))))
        if text.strip():
            names[parse_name(text)] = None
    return list(names)


def parse_name(text: str) -> str:
    """The name as a task keeps it."""
    from trt_landmarks.task.task import normal_name

    return normal_name(text)


def write_data(drawn: Drawn, folder: Path, rng: np.random.Generator) -> None:
    """Scans of any geometry with a blob at each landmark, and their annotations."""
    for name in ("images", "landmarks"):
        (folder / name).mkdir(parents=True)
    task = drawn.task
    extent = np.asarray(task.coarse.field_of_view_mm)
    stretch = rng.choice(np.array([[1, 1, 1], [1, 1, 6], [4, 1, 1], [0.5, 1, 3]]))  # thick slices among them
    for case in range(CASES):
        points = drawn.shape + rng.normal(size=drawn.shape.shape) * 0.005 * extent.mean()
        geometry = _geometry(rng, extent, np.asarray(stretch, dtype=np.float64))
        world = points + geometry.centre
        k, j, i = np.meshgrid(*(np.arange(n) for n in geometry.size[::-1]), indexing="ij")
        place = geometry.voxel_to_world(np.stack([i, j, k], axis=-1))
        voxels = rng.normal(size=place.shape[:3]) * 0.05
        for point in world[:20]:
            voxels += np.exp(-0.5 * ((place - point) ** 2).sum(-1) / (0.04 * extent.mean()) ** 2)
        name = f"case {case}" if case else "ä.b"
        write_scan(Scan(name, None, voxels.astype(np.float32), geometry), folder / "images" / f"{name}.nii.gz")
        labelled = dict(zip(task.landmarks, world, strict=True))
        write_mrk_json(folder / "landmarks" / f"{name}.mrk.json", labelled)


def _geometry(rng: np.random.Generator, extent: Floats, stretch: Floats) -> Geometry:
    """A scan about as large as the field of view, turned by up to 15 degrees, its axes stored in any order."""
    angle, (a, b) = np.deg2rad(rng.uniform(-15, 15)), rng.permutation(3)[:2]
    turn = np.eye(3)
    turn[a, a] = turn[b, b] = np.cos(angle)
    turn[a, b], turn[b, a] = np.sin(angle), -np.sin(angle)
    direction = turn[:, rng.permutation(3)] * rng.choice([-1, 1], 3)
    spacing = extent.max() / 40 * stretch / stretch.mean()
    size = np.maximum(1, np.ceil(1.2 * extent.max() / spacing)).astype(int)
    origin = rng.uniform(-300, 300, 3) - direction @ ((size - 1) / 2 * spacing)
    i, j, k = size.tolist()
    (x, y, z), (u, v, w) = spacing.tolist(), origin.tolist()
    return Geometry((i, j, k), (x, y, z), (u, v, w), direction)
