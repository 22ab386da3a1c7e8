"""DICOM files of many frames: each frame's place, direction, pixel spacing and slope from its functional groups.

A reader that takes such a file as a plain stack loses gaps, order and slopes of its frames (PS3.3, C.7.6.16).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks.errors import ScanError
from trt_landmarks.geometry import Floats
from trt_landmarks.scan.problems import COPY_AGAIN, EXPORT_SPACING


@dataclass(frozen=True)
class Frames:
    """Where the frames of one file lie.

    Attributes:
        positions: ``[n, 3]`` LPS mm of the frames' first pixels.
        axes: ``[n, 3, 2]``, the world directions of i and j.
        spacing: ``[n, 2]`` mm along i, j.
        scale: ``[n, 2]`` slope and intercept from stored values to intensities.
    """

    positions: Floats
    axes: Floats
    spacing: Floats
    scale: Floats


def read_frames(path: Path) -> Frames:
    """Read the functional groups of a file; no pixels.

    Raises:
        ScanError: if the frames do not state position, direction and pixel spacing, as those of a cine loop.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        data = dcmread(path, stop_before_pixels=True, force=True)
        count = int(data.get("NumberOfFrames") or 0)
        shared = _first(data, "SharedFunctionalGroupsSequence")
        own = data.get("PerFrameFunctionalGroupsSequence") or []
        if count < 1 or (not own and shared is None):
            raise _unplaced(path)
        frames = [own[n] if own else None for n in range(count)]

        def each(sequence: str, read: Callable[[Any], list[float]], default: list[float] | None = None) -> Floats:
            rows = []
            for frame in frames:
                group = _first(frame, sequence) or _first(shared, sequence)
                row = default if group is None else read(group)
                if row is None:
                    raise _unplaced(path)
                rows.append([float(number) for number in row])
            return np.array(rows, dtype=np.float64)

        positions = each("PlanePositionSequence", lambda group: list(group.ImagePositionPatient))
        axes = each("PlaneOrientationSequence", lambda group: list(group.ImageOrientationPatient))
        spacing = each("PixelMeasuresSequence", lambda group: list(group.PixelSpacing))
        scale = each(
            "PixelValueTransformationSequence",
            lambda group: [group.get("RescaleSlope", 1), group.get("RescaleIntercept", 0)],
            [float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))],
        )
    except (InvalidDicomError, AttributeError, IndexError, TypeError, ValueError, KeyError):
        raise ScanError(f"{path}: its functional groups are damaged.", COPY_AGAIN, code="scan_spacing") from None
    values = np.concatenate([part.ravel() for part in (positions, axes, spacing, scale)])
    if positions.shape != (count, 3) or axes.shape != (count, 6) or spacing.shape != (count, 2):
        raise _unplaced(path)
    if not np.isfinite(values).all():
        raise ScanError(f"{path}: its functional groups have numbers that are not finite.", COPY_AGAIN)
    return Frames(positions, axes.reshape(count, 2, 3).transpose(0, 2, 1), spacing[:, ::-1], scale)


def _first(data: Any, sequence: str) -> Any:
    """The first item of a sequence; None if there is none."""
    items = None if data is None else data.get(sequence)
    return items[0] if items else None


def _unplaced(path: Path) -> ScanError:
    message = f"{path}: its frames do not state position, direction and pixel spacing: a cine loop, or no volume."
    return ScanError(message, EXPORT_SPACING, code="scan_spacing")
