"""What a report says of each case, worst cases first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from trt_landmarks.geometry import Floats
from trt_landmarks.outputs.marks import Marks
from trt_landmarks.results.case import CaseResult


@dataclass(frozen=True)
class CaseRow:
    """A case in a report's table.

    Attributes:
        case: the result.
        flagged: landmarks that are not ``located``.
        least: the least confident landmark and its confidence; None for a case without landmarks.
        errors_mm: landmark -> distance from its annotation; empty without one.
    """

    case: CaseResult
    flagged: int
    least: tuple[str, float] | None
    errors_mm: dict[str, float]

    @property
    def mean_mm(self) -> float | None:
        """Mean distance from the annotation."""
        return float(np.mean(list(self.errors_mm.values()))) if self.errors_mm else None

    @property
    def worst(self) -> tuple[str, float] | None:
        """The landmark that is farthest from its annotation, and how far in mm."""
        return max(self.errors_mm.items(), key=lambda item: item[1]) if self.errors_mm else None

    @property
    def badness(self) -> tuple[float, ...]:
        """Larger is worse: failed; then the largest error, where there is one; then flagged; then little confidence."""
        failed = float(self.case.status == "failed")
        error = self.worst[1] if self.worst else -1.0
        return failed, error, float(self.flagged), -self.least[1] if self.least else 0.0


def case_row(case: CaseResult, truth: Mapping[str, Floats]) -> CaseRow:
    """The row of a case; ``truth`` gives the annotated points ``(3,)`` in LPS mm, where there are any."""
    marks = case.landmarks
    least = min(marks, key=lambda mark: mark.confidence) if marks else None
    return CaseRow(
        case,
        sum(mark.status != "located" for mark in marks),
        None if least is None else (least.name, least.confidence),
        Marks(case, truth, {}).errors,
    )


def worst_first(rows: Iterable[CaseRow]) -> list[CaseRow]:
    """Rows by :attr:`CaseRow.badness`; equal ones stay in order."""
    return sorted(rows, key=lambda row: row.badness, reverse=True)
