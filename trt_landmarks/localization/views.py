"""Landmarks averaged over views of a scan: as it is, mirrored, and jittered (test-time augmentation)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.errors import TrtlmError
from trt_landmarks.geometry import AXES, Floats
from trt_landmarks.localization.localizer import Frame, Localizer
from trt_landmarks.localization.result import Localization
from trt_landmarks.scan import Scan
from trt_landmarks.task.task import Task

#: The jittered view: turned by so many degrees about the diagonal of the axes.
JITTER_DEG = 8.0


def check_symmetry(task: Task) -> None:
    """Whether there can be mirrored views.

    Raises:
        TrtlmError: if the task does not say which landmarks are mirror images.
    """
    if task.mirror is None:
        raise TrtlmError(
            f"tta: the task {task.name} does not say which landmarks are mirror images of each other.",
            "Give it a symmetry (pairs and midline), or leave tta out.",
            code="no_symmetry",
        )


def averaged(
    localizer: Localizer, scans: Sequence[Scan], frames: Sequence[Frame], found: Sequence[Localization]
) -> list[Localization]:
    """What was found in scans, averaged with what a mirrored and a jittered view of each show.

    Key slices stay those of the first view.  A landmark without a mirror image is averaged over the other two.

    Args:
        localizer: of a task with a symmetry.
        scans: what was localized in.
        frames: in which each was seen.
        found: what was found, with the heat maps' heights.
    """
    task = localizer.task
    assert task.mirror is not None and task.symmetry is not None
    partner = np.array(task.mirror)
    reflection = np.eye(3)
    reflection[AXES[task.symmetry.axis], AXES[task.symmetry.axis]] = -1
    mirrored = localizer.localize_in(scans, [Frame(frame.axes @ reflection, frame.centre) for frame in frames])
    jittered = localizer.localize_in(scans, [Frame(frame.axes @ jitter(), frame.centre) for frame in frames])
    return [_average(*views, partner) for views in zip(found, mirrored, jittered, strict=True)]


def jitter() -> Floats:
    """A small rotation (3x3) about the diagonal of the axes."""
    angle = np.deg2rad(JITTER_DEG)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def _average(
    found: Localization, mirrored: Localization, jittered: Localization, partner: NDArray[np.intp]
) -> Localization:
    known = (partner >= 0)[:, None]
    seen = np.where(known, mirrored.points[partner], np.nan)
    heights = np.where(known[:, 0], mirrored.confidence[partner], np.nan)
    return replace(
        found,
        points=np.nanmean([found.points, seen, jittered.points], axis=0),
        confidence=np.nanmean([found.confidence, heights, jittered.confidence], axis=0),
        timing_ms=_added(found.timing_ms, mirrored.timing_ms, jittered.timing_ms),
        mirrored_mm=np.linalg.norm(seen - found.points, axis=1),
    )


def _added(*timings: Mapping[str, float]) -> dict[str, float]:
    steps = dict.fromkeys(step for timing in timings for step in timing)
    return {step: sum(timing.get(step, 0.0) for timing in timings) for step in steps}
