"""Faults of training data and tasks, one at a time, with random places and amounts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from trt_landmarks.data.annotations import read_landmarks, write_mrk_json
from trt_landmarks.scan import Scan, read_scan, write_scan

Rng = np.random.Generator


def _landmark_files(folder: Path) -> list[Path]:
    return sorted((folder / "landmarks").iterdir())


def _images(folder: Path) -> list[Path]:
    return sorted((folder / "images").iterdir())


def _change_points(folder: Path, rng: Rng, change: Callable[[dict[str, Any]], None]) -> None:
    path = _landmark_files(folder)[int(rng.integers(len(_landmark_files(folder))))]
    points = dict(read_landmarks(path))
    change(points)
    write_mrk_json(path, points)


def _any_name(points: dict[str, Any], rng: Rng) -> str:
    return str(rng.choice(list(points)))


def far_landmark(folder: Path, rng: Rng) -> None:
    """A landmark far outside its scan."""
    _change_points(folder, rng, lambda p: p.update({_any_name(p, rng): np.full(3, 10 ** rng.uniform(2.5, 30))}))


def exchanged(folder: Path, rng: Rng) -> None:
    """Two landmarks exchanged in one case."""

    def change(points: dict[str, Any]) -> None:
        a, b = next(iter(points)), list(points)[-1]
        points[a], points[b] = points[b], points[a]

    _change_points(folder, rng, change)


def mislabelled_frame(folder: Path, rng: Rng) -> None:
    """RAS written as LPS."""
    _change_points(folder, rng, lambda p: p.update({n: v * [-1, -1, 1] for n, v in p.items()}))


def missing_annotation(folder: Path, rng: Rng) -> None:
    """An image without landmarks."""
    rng.choice(np.array(_landmark_files(folder), dtype=object)).unlink()


def missing_image(folder: Path, rng: Rng) -> None:
    """Landmarks without an image."""
    rng.choice(np.array(_images(folder), dtype=object)).unlink()


def empty_list(folder: Path, rng: Rng) -> None:
    """A landmark file without points."""
    _change_points(folder, rng, lambda p: p.clear())


def missing_point(folder: Path, rng: Rng) -> None:
    """A case without one of the landmarks."""

    def change(points: dict[str, Any]) -> None:
        del points[_any_name(points, rng)]

    _change_points(folder, rng, change)


def unknown_landmark(folder: Path, rng: Rng) -> None:
    """A landmark that no case has."""
    _task(folder, lambda task: task["landmarks"].append("nowhere"))


def same_scan(folder: Path, rng: Rng) -> None:
    """The same scan under two names."""
    for path in (_images(folder)[0], _landmark_files(folder)[0]):
        shutil.copy(path, path.with_name("copy" + path.name.removeprefix("c0")))


def truncated_scan(folder: Path, rng: Rng) -> None:
    """A scan that ends early."""
    path = _images(folder)[0]
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * rng.uniform(0.05, 0.95))])


def broken_json(folder: Path, rng: Rng) -> None:
    """A landmark file that ends early."""
    path = _landmark_files(folder)[0]
    path.write_text(path.read_text()[: int(rng.integers(1, 400))])


def text_coordinate(folder: Path, rng: Rng) -> None:
    """A coordinate that is no number."""
    path = _landmark_files(folder)[0]
    content = json.loads(path.read_text())
    content["markups"][0]["controlPoints"][0]["position"][0] = rng.choice(["x", "", "1,5"])
    path.write_text(json.dumps(content))


def two_formats(folder: Path, rng: Rng) -> None:
    """One case in two landmark files."""
    path = _landmark_files(folder)[0]
    path.with_name(path.name.removesuffix(".mrk.json") + ".csv").write_text("name,x,y,z\nnose,1,2,3\n")


def tiny_spacing(folder: Path, rng: Rng) -> None:
    """A scan whose spacing is in another unit."""
    _rescaled(folder, 10.0 ** float(rng.choice([-9, -6, -3, 3])))


def shifted_scan(folder: Path, rng: Rng) -> None:
    """A scan whose origin is off."""
    path = _images(folder)[0]
    scan = read_scan(path)
    x, y, z = np.asarray(scan.geometry.origin) + 10 ** rng.uniform(2.5, 5)
    write_scan(Scan(scan.id, None, scan.voxels, replace(scan.geometry, origin=(x, y, z))), path)


def _rescaled(folder: Path, factor: float) -> None:
    path = _images(folder)[0]
    scan = read_scan(path)
    x, y, z = np.asarray(scan.geometry.spacing) * factor
    write_scan(Scan(scan.id, None, scan.voxels, replace(scan.geometry, spacing=(x, y, z))), path)


def flat_scan(folder: Path, rng: Rng) -> None:
    """A scan of one value."""
    path = _images(folder)[0]
    scan = read_scan(path)
    write_scan(Scan(scan.id, None, np.full_like(scan.voxels, rng.uniform(-5, 5)), scan.geometry), path)


def small_view(folder: Path, rng: Rng) -> None:
    """A coarse grid smaller than the head."""
    factor = float(10 ** rng.uniform(-3, -0.7))
    _task(folder, lambda t: t["coarse"].update(field_of_view_mm=[v * factor for v in t["coarse"]["field_of_view_mm"]]))


def empty_window(folder: Path, rng: Rng) -> None:
    """An intensity window outside the data."""
    low = float(rng.uniform(100, 1e6))
    _task(folder, lambda t: t.update(intensity={"method": "window", "low": low, "high": 2 * low}))


def wide_group(folder: Path, rng: Rng) -> None:
    """A group across the wrong axis, far wider than its patches."""
    _task(folder, lambda t: t["groups"][0].update(axis="anterior-posterior"))
    _task(folder, lambda t: t["fine"].update(spacing_mm=[0.2] * 3))


def absurd_grid(folder: Path, rng: Rng) -> None:
    """A grid that no memory holds."""
    section, edge = str(rng.choice(["coarse", "fine"])), int(2 ** rng.integers(10, 20))
    _task(folder, lambda t: t[section].update(shape=[edge] * 3))


def wrong_key(folder: Path, rng: Rng) -> None:
    """A key or value that a task does not have."""
    change = rng.choice(["key", "shape", "name", "group"])
    _task(folder, lambda t: {
        "key": lambda: t.update(landmark=1), "shape": lambda: t["fine"].update(shape=[9, 8, 8]),
        "name": lambda: t.update(name="a b"), "group": lambda: t["groups"][0]["landmarks"].append("nobody"),
    }[str(change)]())  # fmt: skip


def other_names(folder: Path, rng: Rng) -> None:
    """A case with other landmarks' names."""

    def change(points: dict[str, Any]) -> None:
        renamed = {f"{name}?": point for name, point in points.items()}
        points.clear()
        points.update(renamed)

    _change_points(folder, rng, change)


def _task(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "task.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


FAULTS = (
    far_landmark, exchanged, mislabelled_frame, missing_annotation, missing_image, empty_list, missing_point,
    unknown_landmark, same_scan, truncated_scan, broken_json, text_coordinate, two_formats, tiny_spacing, shifted_scan,
    flat_scan, small_view, empty_window, wide_group, absurd_grid, wrong_key, other_names,
)  # fmt: skip
