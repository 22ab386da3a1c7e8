"""The method as one graph for a scan that lies on the device: voxels in, landmarks out, nothing back in between.

    host      scan -> voxels as they are stored, and where they lie
    device    coarse volume, voxels in FP32 (the preprocessor)
              -> coarse net -> points -> patches -> fine nets -> landmarks (the engine)
    host      landmarks in LPS mm

The graph is put together by :mod:`trt_landmarks.export.whole_scan`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.engines.base import Engine, finite
from trt_landmarks.errors import TrtlmError
from trt_landmarks.localization.confidence import ConfidenceModel
from trt_landmarks.localization.localizer import Clock, coarse_grid
from trt_landmarks.localization.result import Localization, SlicePlane
from trt_landmarks.preprocessing.reference import Preprocessor, Range, ReferencePreprocessor
from trt_landmarks.preprocessing.sampling import BORDER_TOLERANCE, intensity_range
from trt_landmarks.scan import Scan
from trt_landmarks.task.graphs import SCAN, padded_size
from trt_landmarks.task.task import Task


def placement(scan: Scan, intensities: Range) -> NDArray[np.float32]:
    """Where a scan's voxels lie and what their values mean, for the graph of the whole method.

    Args:
        scan: the scan.
        intensities: the voxel values that become 0 and 1.

    Returns:
        float32 ``[1, 6, 3]``.  Rows 0 to 2: from mm from the scan's centre (LPS) to normalized coordinates, where -1
        and 1 are the middles of the first and the last voxel.  Row 3: the normalized coordinates of the scan's faces.
        Row 4: which share of the padded voxels the scan is, between the middles of the first and the last.  Row 5:
        low, 1 / (high - low), 0.
    """
    size = np.asarray(scan.geometry.size, dtype=np.float64)
    half = np.maximum(size - 1, 1) / 2
    low, high = intensities
    rows = (
        scan.geometry.world_to_voxel_matrix[:3, :3] / half[:, None],
        (size / 2 + BORDER_TOLERANCE) / half,
        (size - 1) / (np.asarray(padded_size(scan.geometry.size)) - 1),
        [low, 1 / (high - low), 0],
    )
    return np.vstack(rows).astype(np.float32)[None]


def check_as_is(pose: str | None, tta: bool | None) -> None:
    """Refuse what the graph of the whole method cannot do.

    Raises:
        TrtlmError: if a pose is to be searched, or views averaged.
    """
    if pose not in (None, "auto", "as-is") or tta:
        raise TrtlmError(
            f"{'tta' if tta else f'pose {pose}'}: TensorRT's graph of the whole method sees scans as they "
            "lie.",
            "Take another engine, such as onnxruntime.",
            code="as_is_only",
        )


class WholeScanLocalizer:
    """Localizes a task's landmarks with the graph of the whole method.

    Args:
        task: what is localized.
        engine: runs the graph.
        preprocessor: leaves its inputs where the engine takes them; None for the reference, which leaves them on the
            host.
        confidence: judges what was found; None leaves the heights of the heat maps.
    """

    def __init__(
        self,
        task: Task,
        engine: Engine,
        preprocessor: Preprocessor | None = None,
        confidence: ConfidenceModel | None = None,
    ) -> None:
        self.task = task
        self.engine = engine
        self.preprocessor = preprocessor or ReferencePreprocessor()
        self.confidence = confidence

    def localize(self, scan: Scan) -> Localization:
        """Landmarks of one scan."""
        clock = Clock(1)
        with clock("normalize"):
            intensities = intensity_range(scan.voxels, self.task.intensity)
        with clock("upload"):  # on a GPU it is under way when this is over
            stream = getattr(self.engine, "stream", None)
            inputs = self.preprocessor.scan_volumes(scan, coarse_grid(self.task, scan), intensities, stream)
        with clock(SCAN):
            outputs = self.engine.run(SCAN, *inputs, placement(scan, intensities))
        points, confidence, axes, first, *slices = finite(self.engine, SCAN, outputs)
        centre = scan.geometry.centre
        located = Localization(
            centre + points[0].astype(np.float64),
            confidence[0].astype(np.float64),
            centre + first[0].astype(np.float64),
            tuple(
                SlicePlane(group, centre + point.astype(np.float64), axes[0, :, group.axis_index].astype(np.float64))
                for group, point in zip(self.task.groups, slices[0][0] if slices else (), strict=False)
            ),
            clock.shares(),
        )
        return located if self.confidence is None else self.confidence.judge(located)

    def localize_batch(
        self, scans: Sequence[Scan], pose: str | None = None, tta: bool | None = None
    ) -> list[Localization]:
        """Landmarks of several scans, one after the other: their volumes differ in size.

        Raises:
            TrtlmError: see :func:`check_as_is`.
        """
        check_as_is(pose, tta)
        return [self.localize(scan) for scan in scans]
