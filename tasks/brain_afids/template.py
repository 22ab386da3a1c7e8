"""What the cases are made of: nilearn's T1 template, its landmarks, and the shapes of people and other templates."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the package's own usual name
import torch
from torch import Tensor

from tasks.brain_afids.scan import t1_path
from trt_landmarks.data.annotations import read_landmarks, select
from trt_landmarks.geometry import Floats, Grid, rigid_rotation
from trt_landmarks.scan import read_scan
from trt_landmarks.task.task import Task

#: The 2009b template is the 2009a one at 0.5 mm: its landmarks are this scan's.
LANDMARKS_FILE = "templates/tpl-MNI152NLin2009bSym_afids.fcsv"
#: Names of the landmarks are in the task's order everywhere in the data.
NAMES_FILE = "afids_names.csv"
#: Resolution of the distance to the brain's surface, mm.
COARSER = 2


@dataclass(frozen=True)
class Template:
    """The template in its own frame (LPS mm).

    Attributes:
        image: ``[1, 1, Z, Y, X]`` float32, 0..1.
        grid: where it lies.
        points: ``[N, 3]`` its landmarks.
        names: theirs, in the task's order.
    """

    image: Tensor
    grid: Grid
    points: Floats
    names: tuple[str, ...]

    @cached_property
    def outside(self) -> tuple[Tensor, Grid]:
        """Distance to the brain's hull (mm, negative inside) on a coarser grid that is 60 mm wider on all sides."""
        voxels = (self.image[0, 0] > 0).numpy().astype(np.uint8)
        small = sitk.GetImageFromArray(voxels[::COARSER, ::COARSER, ::COARSER])
        margin = [60 // COARSER] * 3
        hull = sitk.BinaryMorphologicalClosing(sitk.ConstantPad(small, margin, margin), [4] * 3)
        inner = sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(hull, squaredDistance=False)) * COARSER
        start = np.asarray(self.grid.geometry.origin) - COARSER * np.asarray(margin)
        k, j, i = inner.shape
        centre = start + COARSER * (np.array([i, j, k]) - 1) / 2
        grid = Grid((i, j, k), (float(COARSER),) * 3, centre)
        return torch.from_numpy(inner.astype(np.float32))[None, None], grid


def load_template(data: Path, task: Task) -> Template:
    """Read the T1 template and its landmarks (``data`` is the folder of the fiducials)."""
    scan = read_scan(t1_path())
    voxels = scan.voxels
    for axis in range(3):  # the file is stored along RAS; the grid runs along LPS
        if scan.geometry.direction[axis, axis] < 0:
            voxels = np.flip(voxels, 2 - axis)
    image = torch.from_numpy(voxels.astype(np.float32) / 255)[None, None]
    grid = Grid(scan.geometry.size, scan.geometry.spacing, scan.geometry.centre)
    path = data / LANDMARKS_FILE
    return Template(image.contiguous(), grid, _in_order(path, data, task), tuple(task.landmarks))


def _in_order(path: Path, data: Path, task: Task) -> Floats:
    """Landmarks of a template, whose file numbers them, in the task's order."""
    points = read_landmarks(path)
    with (data / NAMES_FILE).open() as lines:
        numbers = {row["acronym"]: row["name"] for row in csv.DictReader(lines)}
    return select({name: points[numbers[name]] for name in task.landmarks}, task.landmarks, path)


def people(data: Path, task: Task) -> dict[str, Floats]:
    """Landmarks ``[N, 3]`` (LPS mm, each in a frame of its own) of the sixty people, sorted by name."""
    with (data / NAMES_FILE).open() as lines:
        numbers = {row["name"]: row["acronym"] for row in csv.DictReader(lines)}
    shapes: dict[str, dict[str, Floats]] = {}
    for study in ("HCP", "OASIS"):
        with (data / f"AFIDs-{study}_groundtruth.csv").open() as lines:
            for row in csv.DictReader(lines):
                point = np.array([-float(row["x_ras"]), -float(row["y_ras"]), float(row["z_ras"])])
                shapes.setdefault(f"{study}-{row['subject']}", {})[numbers[row["afid"]]] = point
    return {
        name: np.stack([points[mark] for mark in task.landmarks])
        for name, points in sorted(shapes.items())
        if len(points) == len(task.landmarks)
    }


def other_templates(data: Path, task: Task) -> dict[str, Floats]:
    """Landmarks ``[N, 3]`` of the other templates, sorted by name."""
    paths = sorted(set((data / "templates").glob("*.fcsv")) - {data / LANDMARKS_FILE})
    return {path.name.split("_")[0]: _in_order(path, data, task) for path in paths}


def aligned(shape: Floats, template: Template) -> Floats:
    """A shape turned and shifted, not scaled, onto the template."""
    rotation = rigid_rotation(shape, template.points)
    return (shape - shape.mean(0)) @ rotation.T + template.points.mean(0)
