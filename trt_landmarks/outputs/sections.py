"""Planes and projections of a scan along the world's axes, however the scan itself lies.

The views follow radiological convention: the patient's right is on the left of axial and coronal pictures, the front
on the left of sagittal ones; the front is up in axial pictures, the head in the others.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trt_landmarks.geometry import Floats, Grid
from trt_landmarks.preprocessing.sampling import sample
from trt_landmarks.scan import Scan

Image = NDArray[np.float32]

#: Samples along the longest side of a plane, at most.
PLANE_SAMPLES = 500
#: Samples of the volume that is projected, at most, and of the part of it that is held at a time.
PROJECTION_SAMPLES = 2_000_000
_SLAB_SAMPLES = 200_000
#: What is shown around the landmarks, as a share of their extent; and at least, as a share of the scan's.
MARGIN = 0.5
LEAST_MARGIN = 0.1
#: No side of what is shown is shorter than this share of the longest.
LEAST_SIDE = 0.4


class View(NamedTuple):
    """A direction to look in.

    Attributes:
        name: axial, coronal or sagittal.
        across: the world axis (0, 1, 2 for x, y, z) that runs to the right.
        along: the world axis that runs vertically.
        depth: the world axis looked along.
        upwards: whether ``along`` grows upwards.
        letters: what lies to the left, right, top and bottom.
    """

    name: str
    across: int
    along: int
    depth: int
    upwards: bool
    letters: str


AXIAL = View("axial", 0, 1, 2, False, "RLAP")
CORONAL = View("coronal", 0, 2, 1, True, "RLSI")
SAGITTAL = View("sagittal", 1, 2, 0, True, "APSI")
VIEWS = (CORONAL, SAGITTAL, AXIAL)


@dataclass(frozen=True)
class Box:
    """A box along the world's axes: its corners of lowest and highest x, y, z, ``(3,)`` LPS mm."""

    low: Floats
    high: Floats

    @property
    def size(self) -> Floats:
        """Lengths along x, y, z, mm."""
        return self.high - self.low


def box_about(scan: Scan, points: ArrayLike) -> Box:
    """The part of a scan to show: its landmarks ``[N, 3]`` (LPS mm; all of them, wherever they lie) and a margin."""
    corners = np.array(np.meshgrid(*([-0.5, n - 0.5] for n in scan.geometry.size), indexing="ij")).reshape(3, -1).T
    whole = scan.geometry.voxel_to_world(corners)
    marks = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    if not len(marks):
        return Box(whole.min(axis=0), whole.max(axis=0))
    least = LEAST_MARGIN * float(np.ptp(whole, axis=0).max())
    margin = max(MARGIN * float(np.ptp(marks, axis=0).max()), least)
    low = np.minimum(np.maximum(marks.min(axis=0) - margin, whole.min(axis=0)), marks.min(axis=0) - least / 4)
    high = np.maximum(np.minimum(marks.max(axis=0) + margin, whole.max(axis=0)), marks.max(axis=0) + least / 4)
    short = np.maximum(LEAST_SIDE * (high - low).max() - (high - low), 0)
    return Box(low - short / 2, high + short / 2)


def plane(scan: Scan, box: Box, view: View, depth_mm: float) -> Image:
    """A plane of the scan.

    Args:
        scan: the scan.
        box: what of it to show.
        view: the plane's direction.
        depth_mm: where the plane lies on the axis that is looked along.

    Returns:
        float32 ``[along, across]``, both growing; NaN outside the scan.  The samples' cells fill the box.
    """
    step = max(min(scan.geometry.spacing), float(box.size.max()) / PLANE_SAMPLES)
    low, high = box.low.copy(), box.high.copy()
    low[view.depth], high[view.depth] = depth_mm - step / 2, depth_mm + step / 2
    return np.squeeze(_cells(scan, Box(low, high), step), axis=2 - view.depth)


def projections(scan: Scan, box: Box) -> dict[View, Image]:
    """Maximum-intensity projections of the box, as :func:`plane` gives images."""
    step = max(min(scan.geometry.spacing), float(np.prod(box.size) / PROJECTION_SAMPLES) ** (1 / 3))
    counts = np.maximum(np.round(box.size / step), 1)
    slabs = int(min(np.ceil(counts.prod() / _SLAB_SAMPLES), counts[2]))
    edges = box.low[2] + box.size[2] / counts[2] * np.round(np.linspace(0, counts[2], slabs + 1))
    images: dict[View, list[Image]] = {view: [] for view in VIEWS}
    for start, end in itertools.pairwise(edges):
        low, high = box.low.copy(), box.high.copy()
        low[2], high[2] = start, end
        slab = _cells(scan, Box(low, high), step)
        for view in VIEWS:
            images[view].append(np.fmax.reduce(slab, axis=2 - view.depth))
    found = {view: np.concatenate(images[view], axis=0) for view in (CORONAL, SAGITTAL)}
    return {**found, AXIAL: np.fmax.reduce(images[AXIAL], axis=0)}


def _cells(scan: Scan, box: Box, step: float) -> Image:
    """Samples ``[z, y, x]`` in the middles of cells that fill a box; NaN outside the scan."""
    x, y, z = (int(n) for n in np.maximum(np.round(box.size / step), 1))
    a, b, c = box.size / (x, y, z)
    grid = Grid((x, y, z), (float(a), float(b), float(c)), (box.low + box.high) / 2)
    return sample(scan.voxels, scan.geometry, grid, fill=float("nan"))
