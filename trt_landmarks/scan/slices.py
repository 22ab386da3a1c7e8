"""Slices in space: their order, and whether they make a rectangular grid.

A DICOM series is a set of pictures, each with a position.  ITK puts them at even distances along a straight line,
whatever their positions say, which would move what lies behind a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from trt_landmarks.errors import ScanError
from trt_landmarks.geometry import Floats
from trt_landmarks.scan.volume import DIRECTION_TOLERANCE, ScanWarning

#: How far a slice may lie from where even spacing puts it, as a share of the spacing.
JITTER = 0.05
#: From which share on this is worth a warning: positions are printed with few decimals.
NOTABLE_JITTER = 0.005
#: Slices closer than this share of the spacing lie at the same position; and before the spacing is known, mm.
SAME = 0.01
_SAME_MM = 1e-4

_REMEDY = "Complete the series or resample it."


@dataclass(frozen=True)
class Stack:
    """Slices in their order.

    Attributes:
        groups: for each position, in the direction of the slices' normal, the indices of the slices that lie there.
        origin: LPS mm, position of the first.
        step: LPS mm from one to the next.
        warnings: of positions that are not quite even.
    """

    groups: tuple[tuple[int, ...], ...]
    origin: Floats
    step: Floats
    warnings: tuple[ScanWarning, ...] = ()


def stack(path: Path, positions: ArrayLike, normal: Floats) -> Stack:
    """Order slices and check that they are parallel planes at even distances, straight above each other.

    Args:
        path: names the series in errors.
        positions: ``[n, 3]`` LPS mm of the slices' first pixels.
        normal: unit vector across the slices: rows x columns.

    Raises:
        ScanError: if slices are missing, unevenly spaced, or shifted against each other (a tilted gantry).
    """
    points = np.asarray(positions, dtype=np.float64)
    along = points @ normal
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    apart = steps[steps > _SAME_MM]
    if not len(apart):
        raise ScanError(f"{path}: all its slices lie at the same position.", _REMEDY, code="scan_spacing")
    usual = float(np.median(apart))
    starts = np.flatnonzero(np.concatenate([[True], steps > SAME * usual]))
    groups = tuple(tuple(int(n) for n in part) for part in np.split(order, starts[1:]))
    places = points[[group[0] for group in groups]]
    _check_gaps(path, np.diff(places @ normal), usual)

    step = (places[-1] - places[0]) / (len(places) - 1)
    sideways = np.linalg.norm(step - (step @ normal) * normal)
    if sideways > DIRECTION_TOLERANCE * np.linalg.norm(step):
        angle = np.degrees(np.arctan2(sideways, step @ normal))
        message = f"{path}: its slices are shifted against each other: a gantry tilted by {angle:.1f} degrees."
        raise ScanError(message, "Resample it to a rectangular grid.", code="scan_tilt")
    off = np.linalg.norm(places - places[0] - np.arange(len(places))[:, None] * step, axis=1)
    share = off.max() / np.linalg.norm(step)
    if share > JITTER:
        message = f"{path}: its slices are unevenly spaced: one lies {off.max():.3g} mm from where it should."
        raise ScanError(message, _REMEDY, code="scan_spacing")
    warnings: tuple[ScanWarning, ...] = ()
    if share > NOTABLE_JITTER:
        message = f"Slices lie up to {off.max():.2g} mm from even spacing; they were taken as evenly spaced."
        warnings = (ScanWarning("uneven_slices", message),)
    return Stack(groups, places[0], step, warnings)


def _check_gaps(path: Path, steps: Floats, usual: float) -> None:
    """Refuse distances that are multiples of the usual one."""
    times = np.rint(steps / usual)
    gaps = (times > 1) & (np.abs(steps / usual - times) < 2 * JITTER * times)
    if gaps.any():
        missing = int((times[gaps] - 1).sum())
        message = f"{path}: {missing} slices are missing, the first after slice {int(gaps.argmax()) + 1}."
        raise ScanError(message, _REMEDY, code="scan_spacing")
