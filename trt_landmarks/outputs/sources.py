"""Where the scan and the annotation of a case of a results file are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trt_landmarks.data.annotations import find_landmark_file, find_landmark_files, read_landmarks, select
from trt_landmarks.errors import PredictionsError
from trt_landmarks.geometry import Floats
from trt_landmarks.results.case import CaseResult
from trt_landmarks.results.predictions import Predictions
from trt_landmarks.scan import case_id, find_scans


@dataclass(frozen=True)
class Sources:
    """Finds scans and annotations by the ids of cases.

    Attributes:
        scans: id -> scan, which go before the paths that the results name.
        landmarks: folder of annotations, or one file for whatever case is asked for; None without.
    """

    scans: dict[str, Path]
    landmarks: Path | None = None

    @classmethod
    def open(cls, scans: Path | None = None, landmarks: Path | None = None) -> Sources:
        """The sources in a folder of scans (or one scan) and a folder of annotations (or one file).

        Raises:
            ScanError: if there are no scans.
            LandmarkFileError: if there is no such folder of annotations.
        """
        if landmarks is not None and not landmarks.is_file():
            find_landmark_files(landmarks)
        return cls({file.id: file.path for file in find_scans([scans])} if scans is not None else {}, landmarks)

    def scan(self, case: CaseResult) -> Path | None:
        """The case's scan; None if it cannot be found."""
        path = self.scans.get(case.id, Path(case.path))
        return path if path.exists() else None

    def truth(self, case: CaseResult) -> dict[str, Floats]:
        """The annotated points ``(3,)`` (LPS mm) of the case's landmarks; empty without an annotation.

        Raises:
            LandmarkFileError: if the annotation cannot be read, or is of another task.
        """
        if self.landmarks is None:
            return {}
        path = self.landmarks if self.landmarks.is_file() else find_landmark_file(self.landmarks, case.id)
        if path is None:
            return {}
        names: Sequence[str] = [mark.name for mark in case.landmarks]
        points = select(read_landmarks(path), names, path) if names else np.zeros((0, 3))
        return {name: point for name, point in zip(names, points, strict=True) if np.isfinite(point).all()}


def find_case(predictions: Predictions, name: str) -> CaseResult:
    """The case of an id, or of a scan that is named.

    Raises:
        PredictionsError: if the results have no such case.
    """
    cases = {case.id: case for case in predictions.cases}
    found = cases.get(name) or cases.get(case_id(name))
    if found is None:
        known = ", ".join(list(cases)[:8]) + (", ..." if len(cases) > 8 else "")
        raise PredictionsError(f"{name}: the results have no such case.", f"They have {known or 'none'}.")
    return found
