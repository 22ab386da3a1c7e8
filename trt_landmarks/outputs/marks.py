"""A case with what is known beside it, annotations and groups, and the colours of groups in all outputs.

Distinguishable with the common kinds of colour blindness: Okabe, Ito (2008), "Color Universal Design".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from trt_landmarks.errors import PredictionsError
from trt_landmarks.geometry import Floats
from trt_landmarks.results.case import CaseResult, Landmark

Colour = tuple[float, float, float]

#: Landmarks of no group.
INDEPENDENT: Colour = (0.902, 0.624, 0.0)
#: Groups, in the task's order; more groups than colours share them.
GROUPS: tuple[Colour, ...] = (
    (0.337, 0.706, 0.914),
    (0.0, 0.720, 0.520),
    (0.941, 0.894, 0.259),
    (0.800, 0.475, 0.655),
    (0.835, 0.369, 0.0),
    (0.250, 0.500, 0.900),
)


def group_colours(groups: Iterable[str]) -> dict[str, Colour]:
    """A colour for each group."""
    return {group: GROUPS[n % len(GROUPS)] for n, group in enumerate(groups)}


@dataclass(frozen=True)
class Marks:
    """What is drawn on a scan.

    Attributes:
        case: the result.
        truth: landmark -> ``(3,)`` LPS mm where it was annotated; may be empty.
        groups: landmark -> the correlated group it belongs to.
    """

    case: CaseResult
    truth: Mapping[str, Floats]
    groups: Mapping[str, str]

    @property
    def errors(self) -> dict[str, float]:
        """Landmark -> distance from its annotation, mm."""
        return {
            mark.name: float(np.linalg.norm(np.subtract(mark.position_lps_mm, self.truth[mark.name])))
            for mark in self.case.landmarks
            if mark.name in self.truth
        }

    @property
    def colours(self) -> dict[str, Colour]:
        """Landmark -> the colour of its group."""
        groups = group_colours(dict.fromkeys(self.groups.values()))
        return {m.name: groups.get(self.groups.get(m.name, ""), INDEPENDENT) for m in self.case.landmarks}

    def landmark(self, name: str | None) -> Landmark:
        """The landmark of that name; None for one that tells most.

        That is the least confident one if any is below the threshold, else the one nearest to the middle of all.
        """
        marks = self.case.landmarks
        if not marks:
            reason = self.case.error.message if self.case.error is not None else "it has no landmarks"
            raise PredictionsError(f"case '{self.case.id}' cannot be shown: {reason}")
        if name is not None:
            for mark in marks:
                if mark.name == name:
                    return mark
            known = ", ".join(mark.name for mark in marks[:8])
            raise PredictionsError(f"case '{self.case.id}' has no landmark '{name}'; it has {known}, ...")
        doubtful = [mark for mark in marks if mark.status == "low_confidence"]
        if doubtful:
            return min(doubtful, key=lambda mark: mark.confidence)
        middle = np.mean([mark.position_lps_mm for mark in marks], axis=0)
        return min(marks, key=lambda mark: float(np.linalg.norm(middle - mark.position_lps_mm)))
