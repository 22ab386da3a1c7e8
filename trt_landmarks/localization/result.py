"""What was found in one scan: landmarks, key slices, and how far to trust them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.geometry import Floats
from trt_landmarks.task.task import Group


@dataclass(frozen=True)
class SlicePlane:
    """The key slice of a correlated group: the plane through ``point`` (LPS mm) with unit ``normal``."""

    group: Group
    point: Floats
    normal: Floats

    @property
    def position_mm(self) -> float:
        """Where the plane is on the group's world axis, at ``point``."""
        return float(self.point[self.group.axis_index])


@dataclass(frozen=True)
class Reliability:
    """How far to trust what was found, measured on validation scans (:mod:`trt_landmarks.confidence`).

    Attributes:
        expected_error_mm: ``[N]`` mean error of landmarks like these.
        error_90_mm: ``[N]`` 90 % of landmarks like these have a smaller error.
        low: ``[N]`` which are not to be relied on.
        wrong_anatomy: the scan does not look like one of this anatomy; nothing in it is to be relied on.
    """

    expected_error_mm: Floats
    error_90_mm: Floats
    low: NDArray[np.bool_]
    wrong_anatomy: bool


@dataclass(frozen=True)
class PoseSearch:
    """In which poses a scan was seen that shows nothing credible, or little, as it lies.

    Attributes:
        rotation: 3x3, from the model's upright pose to the scan's (LPS): where the pose was found; None if it was not.
        turns: of the cube that the coarse net saw; 0 if the points of the scan as it lies told the pose.
        runs: of the full model, besides that as the scan lies.
    """

    rotation: Floats | None
    turns: int
    runs: int


@dataclass(frozen=True)
class Localization:
    """What was found in one scan.

    Attributes:
        points: ``[N, 3]`` LPS mm, in the task's order.
        confidence: ``[N]`` 0..1; with ``reliability`` the probability that the error is not large, without it the
            height of the heat map's maximum.
        coarse_points: ``[N, 3]`` LPS mm, what the coarse stage alone gives.
        slices: the key slice of every correlated group whose net has a slice branch.
        timing_ms: stage name to milliseconds; a batch's time is shared equally among its scans.
        reliability: None if the model's confidence was not fitted.
        pose: None if the scan was seen only as it lies.
        mirrored_mm: ``[N]`` how far off the mirrored view sees each landmark; NaN where it has no mirror image; None
            without such a view.
    """

    points: Floats
    confidence: Floats
    coarse_points: Floats
    slices: tuple[SlicePlane, ...]
    timing_ms: dict[str, float]
    reliability: Reliability | None = None
    pose: PoseSearch | None = None
    mirrored_mm: Floats | None = None

    @property
    def wrong_anatomy(self) -> bool:
        """Whether the scan is known not to show this anatomy."""
        return self.reliability is not None and self.reliability.wrong_anatomy
