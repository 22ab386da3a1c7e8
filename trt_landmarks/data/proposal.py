"""A first task file from annotations: names, groups and mirror pairs from their geometry, grids from the scans.

It is a proposal: every figure in it follows from a rule stated here, and the file's first lines say what to check.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks.data.annotations import find_landmark_files, read_landmarks, select
from trt_landmarks.data.shapes import MirrorPairs, PlaneSet, average_shape, coplanar_sets, mirror_pairs
from trt_landmarks.errors import DatasetError
from trt_landmarks.geometry import AXES, STEADY, Floats, Geometry, steadiness
from trt_landmarks.scan import find_scans, read_scan
from trt_landmarks.task.task import LONGEST_NAME, Task, parse_task

#: Scans that are looked at, at most, spread over the folder.
SCANS = 8
#: Cells of the coarse grid, about.
COARSE_CELLS = 180_000
#: Edge of a patch in samples.
PATCH = 32
#: The coarse net's error to be expected, in cells of its grid; a patch reaches three times as far.
COARSE_ERROR = 0.8
#: Without scans: the field of view as a multiple of the landmarks' extent.
VIEW = 1.6
#: ... and where the landmarks have none, mm.
UNKNOWN_VIEW_MM = 100.0
#: What the midsagittal plane and the others are called.
PLANES = {"left-right": "midsagittal", "anterior-posterior": "coronal", "superior-inferior": "axial"}


@dataclass(frozen=True)
class Proposal:
    """A proposed task, and one sentence for each thing to check."""

    task: Task
    remarks: tuple[str, ...]

    @property
    def text(self) -> str:
        """The task file: remarks as comments, then the task."""
        lines = ["Proposed by trtlm init from annotations. Check:", *(f"- {remark}" for remark in self.remarks)]
        return "".join(f"# {line}\n" for line in lines) + self.task.to_yaml()


def propose_task(landmarks: Path, scans: Path | None = None, name: str = "landmarks") -> Proposal:
    """Propose a task for the annotations in a folder.

    Args:
        landmarks: folder of landmark files, one per case.
        scans: folder of the scans of the same names, for spacing and extent; None guesses from the landmarks.
        name: the task's name; what cannot be in one becomes ``-``.

    Raises:
        DatasetError: if there is nothing to go by: no file, no landmark, or scans of other cases only.
        LandmarkFileError: naming an annotation that cannot be read.
        ScanError: naming a scan that cannot be read.
    """
    files = find_landmark_files(landmarks)
    annotations = {case: read_landmarks(path) for case, path in files.items()}
    names = list(dict.fromkeys(mark for points in annotations.values() for mark in points))
    if not names:
        raise DatasetError(f"{landmarks}: has no landmark file with a point.", "Put <case>.mrk.json files there.")
    files = {case: path for case, path in files.items() if annotations[case]}
    points = np.stack([select(annotations[case], names, path) for case, path in files.items()])
    remarks = _rare(names, points)
    pairs, planes = _geometry(points)
    content: dict[str, Any] = {
        "name": as_name(name, "landmarks"),
        "description": f"{len(names)} landmarks",
        "landmarks": names,
        "groups": _groups(planes, names),
    }
    remarks += [_plane_remark(plane, names, len(points)) for plane in planes]
    if pairs is None:
        remarks.append("no mirror pairs were found in the landmarks' places along the world's axes; name them if any.")
    else:
        content["symmetry"] = _symmetry(pairs, names)
        remarks.append(_pairs_remark(pairs, names))
    grids, remark = _grids(points, dict(zip(files, points, strict=True)), scans)
    remarks += [remark, "intensity: percentiles suit MR and micro-CT; for CT a window in Hounsfield units is better."]
    return Proposal(parse_task({**content, **grids}, "the proposed task"), tuple(remarks))


def _rare(names: list[str], points: Floats) -> list[str]:
    share = (~np.isnan(points).any(axis=2)).mean(axis=0)
    rare = [name for name, one in zip(names, share, strict=True) if one < 0.5]
    return [f"annotated in fewer than half of the cases: {', '.join(rare)}."] if rare else []


def _geometry(points: Floats) -> tuple[MirrorPairs | None, list[PlaneSet]]:
    """Mirror pairs and groups; both need the landmarks of a shape that is known as a whole."""
    mean = average_shape(points)
    if len(mean) < 4 or np.isnan(mean).any():
        return None, []
    pairs = mirror_pairs(mean)
    return pairs, coplanar_sets(points, pairs)


def _axis(index: int) -> str:
    return next(name for name, value in AXES.items() if value == index)


def as_name(text: str, otherwise: str) -> str:
    """What is left of a text as a task's or a group's name: letters without accents, digits, ``-``, ``_`` and ``.``."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", plain).strip("-_.")[: LONGEST_NAME - 10] or otherwise


def _groups(planes: list[PlaneSet], names: list[str]) -> list[dict[str, Any]]:
    """Groups named after their planes, those of one name numbered."""
    groups: list[dict[str, Any]] = []
    taken: set[str] = set()
    for plane in planes:
        axis = _axis(plane.axis)
        first = as_name(names[plane.members[0]], "")
        base = f"{PLANES[axis]}-{first}" if plane.axis and first else PLANES[axis]
        name = next(n for n in (base, *(f"{base}-{k}" for k in range(2, len(planes) + 1))) if n not in taken)
        taken.add(name)
        groups.append({"name": name, "axis": axis, "landmarks": [names[n] for n in plane.members]})
    return groups


def _plane_remark(plane: PlaneSet, names: list[str], cases: int) -> str:
    return (
        f"{len(plane.members)} landmarks lie {plane.distance:.2g} mm from a common plane across {_axis(plane.axis)} "
        f"(mean of {cases} cases): a group, if they are annotated on one slice."
    )


def _symmetry(pairs: MirrorPairs, names: list[str]) -> dict[str, Any]:
    return {
        "axis": _axis(pairs.axis),
        "midline": [names[n] for n, other in enumerate(pairs.partner) if n == other],
        "pairs": [[names[n], names[other]] for n, other in enumerate(pairs.partner) if n < other],
    }


def _pairs_remark(pairs: MirrorPairs, names: list[str]) -> str:
    alone = [names[n] for n, other in enumerate(pairs.partner) if other < 0]
    return f"mirror pairs are those of the mean shape, {pairs.residual:.2g} mm from their mirror images" + (
        f"; without one: {', '.join(alone)}." if alone else "."
    )


def _grids(points: Floats, by_case: dict[str, Floats], scans: Path | None) -> tuple[dict[str, Any], str]:
    """The sections coarse, fine and sdr_radii_mm, and how they came about."""
    if scans is None:
        extent = np.nanmax(np.nanmax(points, axis=1) - np.nanmin(points, axis=1), axis=0)
        if not extent.max() > 0:  # one landmark: what it says of the scans' size is how it lies in them
            extent = np.nanmax(points, axis=(0, 1)) - np.nanmin(points, axis=(0, 1))
        view = VIEW * np.maximum(extent, 0.2 * extent.max()) if extent.max() > 0 else np.full(3, UNKNOWN_VIEW_MM)
        spacing, why = 0.0, "coarse and fine grids are guessed from the landmarks' extent; name the scans: --scans."
    else:
        view, spacing, count = _seen(by_case, scans)
        why = f"coarse and fine grids follow from the extent and spacing of {count} scans."
    cell = float(np.prod(view) / COARSE_CELLS) ** (1 / 3)
    shape = np.maximum(8, 2 * np.round(view / cell / 2)).astype(int)
    spacing = max(spacing, 3 * COARSE_ERROR * cell / (PATCH / 2))
    patch = _rounded(spacing)
    mean = average_shape(points)
    frame = "anatomy" if steadiness(mean[~np.isnan(mean).any(axis=1)]) >= STEADY else "scan"
    fine = {"shape": [PATCH] * 3, "spacing_mm": [patch] * 3, "frame": frame}
    return {
        "coarse": {"shape": shape.tolist(), "field_of_view_mm": [_rounded(n * cell, 3) for n in shape]},
        "fine": {**fine, "heatmap_sigma_mm": _rounded(2 * patch)},
        "sdr_radii_mm": [_rounded(factor * patch) for factor in (1.25, 2.5, 5)],
    }, why


def _seen(by_case: dict[str, Floats], folder: Path) -> tuple[Floats, float, int]:
    """Field of view (mm along the world's axes), finest usual spacing, and the number of scans looked at."""
    files = [file for file in find_scans([folder]) if file.id in by_case]
    if not files:
        raise DatasetError(f"{folder}: has no scan of an annotated case.", "A scan and its landmark file share a name.")
    extents, finest = [], []
    for file in files[:: -(-len(files) // SCANS)]:
        geometry = read_scan(file.path).geometry
        reach = np.nanmax(np.abs(by_case[file.id] - geometry.centre), axis=0)
        extents.append(np.maximum(_extent(geometry), 2.2 * reach))
        finest.append(min(geometry.spacing))
    return np.median(extents, axis=0), float(np.median(finest)), len(extents)


def _extent(geometry: Geometry) -> Floats:
    """Edges (mm) of the box along the world's axes that holds a scan."""
    extent: Floats = np.abs(geometry.direction) @ (np.asarray(geometry.size) * np.asarray(geometry.spacing))
    return extent


def _rounded(value: float, digits: int = 2) -> float:
    return float(f"{value:.{digits}g}")
