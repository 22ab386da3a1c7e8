"""The ventricles' roofs: four fiducials lie on their edges, where planes through the commissures cross these.

The planes are perpendicular to the line from AC to PC (Lau et al. 2019; in people whose scans were turned so before
they were annotated the standard deviation from the planes is 0.16 mm).  A warp takes the edges along, but leaves the
template's own points off the planes; here they slide along the edges back into them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trt_landmarks.geometry import Floats
from trt_landmarks.training.warping import Warp

#: Each roof's landmarks in the planes of AC and PC; the edge runs from the first to the second.
ROOFS = (("RLVAC", "RLVPC"), ("LLVAC", "LLVPC"))
#: How far a point may slide, mm: farther the edge is not straight.
FARTHEST = 8.0


def slide_into_planes(marks: Floats, names: Sequence[str], warp: Warp) -> Floats:
    """The template's landmarks ``marks`` (``[N, 3]`` LPS mm), the roofs' slid to where the new scan's planes are.

    Raises:
        FoldedWarpError: if a landmark cannot be traced back.
    """
    row = {name: n for n, name in enumerate(names)}
    anterior, posterior = warp.preimage(marks[[row["AC"], row["PC"]]])
    forward = (anterior - posterior) / np.linalg.norm(anterior - posterior)
    slid = marks.copy()
    for front, back in ROOFS:
        edge = marks[row[back]] - marks[row[front]]
        edge = edge / np.linalg.norm(edge)
        for name, through in ((front, anterior), (back, posterior)):
            steps = np.linspace(-FARTHEST, FARTHEST, 9)
            along = warp.preimage(marks[row[name]] + steps[:, None] * edge)
            offset = (along - through) @ forward  # falls along the edge
            slid[row[name]] += np.interp(0.0, -offset, steps) * edge
    return slid
