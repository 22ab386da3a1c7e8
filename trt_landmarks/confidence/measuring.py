"""How good a fitted confidence is: every case judged by what was fitted without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.confidence.fitting import PARTS, Sample
from trt_landmarks.confidence.observation import Observation
from trt_landmarks.confidence.perturbation import WRONG
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.confidence import ConfidenceModel

#: Edges of the confidences that are held against what happened.
STEPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """What was said of a sample's landmarks, and what is true: S scans, N landmarks.

    Attributes:
        data: the sample.
        large: ``[S, N]`` whether the error is large; False where it is not known.
        confidence: ``[S, N]``.
        expected_mm: ``[S, N]`` mean error.
        bound_mm: ``[S, N]`` what 90 % of the errors should keep.
        low: ``[S, N]`` flagged.
        wrong: ``[S]`` flagged as not of this anatomy.
    """

    data: Sample
    large: Mask
    confidence: Floats
    expected_mm: Floats
    bound_mm: Floats
    low: Mask
    wrong: Mask

    def figures(self, rows: Mask, low_peak: float) -> dict[str, Any]:
        """Figures of some scans ``[S]``, as plain data; heat maps below ``low_peak`` count as flagged, to compare."""
        known = np.isfinite(self.data.errors) & rows[:, None]
        large, low, peaks = self.large[known], self.low[known], self.data.peaks[known]
        errors = self.data.errors[known]
        return {
            "scans": int(rows.sum()),
            "points": int(known.sum()),
            "large_errors": int(large.sum()),
            "detected": _share(low[large]),
            "false_alarms": _share(low[~large]),
            "detected_by_height": _share(peaks[large] < low_peak),
            "false_alarms_by_height": _share(peaks[~large] < low_peak),
            "area_under_curve": area_under_curve(-self.confidence[known], large),
            "area_under_curve_by_height": area_under_curve(-peaks, large),
            "coverage_90": _share(errors <= self.bound_mm[known]),
            "median_error_mm": _rounded(np.median(errors)) if errors.size else None,
            "mean_error_mm": _rounded(errors.mean()) if errors.size else None,
            "mean_expected_mm": _rounded(self.expected_mm[known].mean()) if errors.size else None,
            "median_bound_90_mm": _rounded(np.median(self.bound_mm[known])) if errors.size else None,
            "flagged_scans": int(self.wrong[rows].sum()),
        }


def judge_left_out(data: Sample, models: Mapping[str, ConfidenceModel]) -> Judged:
    """Every scan by the model of its case (:func:`~trt_landmarks.confidence.fitting.left_out`)."""
    shape = data.errors.shape
    confidence, expected, bound = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    large, low, wrong = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool), np.zeros(shape[0], dtype=bool)
    for row, case in enumerate(data.case.tolist()):
        model = models[case]
        score = model.score(data.features[row])
        said = model.reliability(score)
        large[row] = data.errors[row] > model.large_error_mm
        confidence[row], low[row], wrong[row] = model.confidence(score), said.low, said.wrong_anatomy
        expected[row], bound[row] = said.expected_error_mm, said.error_90_mm
    return Judged(data, large, confidence, expected, bound, low, wrong)


def measure(judged: Judged, low_peak: float) -> dict[str, Any]:
    """All figures, as plain data.

    Args:
        judged: what was said and what is true.
        low_peak: heat maps lower than this were flagged without a fitted confidence, to compare.

    Returns:
        ``cases``; ``parts``: figures of ``clean``, ``mild``, ``hard`` and ``all`` scans; ``kinds``: the same for each
        kind of perturbation; ``confidence``: rows of confidence against what happened; ``wrong``: how many wrong
        scans there are and are flagged.
    """
    data = judged.data
    ours, wrong = np.isin(data.part, PARTS), data.part == WRONG
    chosen = {part: data.part == part for part in PARTS} | {"all": ours}
    kinds = dict.fromkeys(zip(data.kind.tolist(), data.part.tolist(), strict=True))
    return {
        "cases": list(data.cases),
        "parts": {name: judged.figures(rows, low_peak) for name, rows in chosen.items()},
        "kinds": [
            {"kind": kind, "part": part, **judged.figures((data.kind == kind) & (data.part == part), low_peak)}
            for kind, part in kinds
        ],
        "confidence": _steps(judged.confidence[data.known], judged.large[data.known]),
        "wrong": {"scans": int(wrong.sum()), "flagged": int(judged.wrong[wrong].sum())},
    }


def judge_others(model: ConfidenceModel, observations: Sequence[Observation]) -> list[dict[str, Any]]:
    """Further scans, one row each, as plain data: their median error, if it is known, and whether they are flagged."""
    rows = []
    for one in observations:
        said = model.judge(one.found).reliability
        assert said is not None
        rows.append({
            "scan": one.case,
            "kind": one.kind,
            "strength": round(one.strength, 2),
            "median_error_mm": _rounded(np.nanmedian(one.errors)) if np.isfinite(one.errors).any() else None,
            "flagged": bool(said.wrong_anatomy),
        })  # fmt: skip
    return rows


def area_under_curve(badness: Floats, large: Mask) -> float | None:
    """Area under the curve of detections against false alarms; None if all errors or none are large."""
    if large.all() or not large.any():
        return None
    _, place, count = np.unique(badness, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    high, low = int(large.sum()), int((~large).sum())
    return _rounded((rank[large].sum() - high * (high + 1) / 2) / (high * low))


def _steps(confidence: Floats, large: Mask) -> list[dict[str, Any]]:
    place = np.clip(np.searchsorted(STEPS, confidence, side="right") - 1, 0, len(STEPS) - 2)
    rows = []
    for step, (low, high) in enumerate(pairwise(STEPS)):
        here = place == step
        if here.any():
            mean = _rounded(confidence[here].mean())
            points = int(here.sum())
            rows.append(
                {"from": low, "to": high, "points": points, "confidence": mean, "not_large": _share(~large[here])}
            )
    return rows


def _share(flags: Mask) -> float | None:
    return _rounded(flags.mean()) if flags.size else None


def _rounded(value: Any) -> float:
    return round(float(value), 4)
