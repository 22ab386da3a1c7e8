"""Fits a model's confidence to its localizations of scans whose truth is known.

Small and transparent: a ridge-penalized logistic regression on the features, Platt scaling of its scores on cases left
out, and a table of means and quantiles made monotone by isotonic regression.  NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.confidence.observation import Observation
from trt_landmarks.confidence.perturbation import HARD, MILD, WRONG
from trt_landmarks.errors import DatasetError
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.confidence import ConfidenceModel, Score, Table, standardized
from trt_landmarks.localization.features import extract_features
from trt_landmarks.localization.shape_model import ShapeModel
from trt_landmarks.task.task import Task

#: An error this many times the median error in scans as they are is large.
LARGE = 3.0
#: The share of the landmarks without a large error that is flagged in fitting; the aim is below 0.1 in use.
FALSE_ALARMS = 0.08
#: Cases that a fit needs: it is measured on each by what the others gave, and these need others in turn.
FEWEST_CASES = 3
#: Ridge penalties: on the features' weights, and on the landmarks' own terms.
RIDGE_FEATURES, RIDGE_LANDMARKS = 1e-4, 3e-4
#: Rows of the table, at most, and the points that a row stands for, at least.
ROWS, ROW_POINTS = 40, 60
CLEAN = "clean"
#: Parts of the scans of the anatomy: as they are, mildly and hard perturbed ones.  Every scan has the same weight.
PARTS = (CLEAN, MILD, HARD)
#: The share of the wrong scans that may pass for right.
WRONG_PASSING = 0.05


@dataclass(frozen=True)
class Sample:
    """Observations as arrays: S scans, N landmarks.

    Attributes:
        features: ``[S, N, F]``.
        peaks: ``[S, N]`` heights of the heatmaps.
        errors: ``[S, N]`` mm; NaN where there is no truth.
        case: ``[S]`` ids of the annotated scans.
        kind: ``[S]`` what was done.
        part: ``[S]`` one of :data:`PARTS`, or ``wrong``.
    """

    features: Floats
    peaks: Floats
    errors: Floats
    case: NDArray[np.str_]
    kind: NDArray[np.str_]
    part: NDArray[np.str_]

    @property
    def cases(self) -> tuple[str, ...]:
        """Ids of the annotated scans, sorted."""
        return tuple(sorted(set(self.case.tolist())))

    @property
    def known(self) -> NDArray[np.bool_]:
        """``[S, N]`` what can be fitted to: landmarks with a truth, in scans of the anatomy."""
        return np.isfinite(self.errors) & np.isin(self.part, PARTS)[:, None]

    def where(self, chosen: NDArray[np.bool_]) -> Sample:
        """Some of the scans."""
        return Sample(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


def sample(shape: ShapeModel, observations: Sequence[Observation]) -> Sample:
    """Observations as arrays."""
    return Sample(
        np.stack([extract_features(shape, one.found) for one in observations]),
        np.stack([one.found.confidence for one in observations]),
        np.stack([one.errors for one in observations]),
        np.array([one.case for one in observations]),
        np.array([one.kind for one in observations]),
        np.array([CLEAN if one.kind == CLEAN else one.range for one in observations]),
    )


def fit_confidence(task: Task, shape: ShapeModel, data: Sample) -> ConfidenceModel:
    """Fit to all cases.

    Raises:
        DatasetError: if there are fewer than :data:`FEWEST_CASES`.
    """
    _check(data)
    return _fit(task, shape, data)


def left_out(task: Task, shape: ShapeModel, data: Sample) -> dict[str, ConfidenceModel]:
    """For each case the confidence fitted without it.

    Raises:
        DatasetError: if there are fewer than :data:`FEWEST_CASES`.
    """
    _check(data)
    return {case: _fit(task, shape, data.where(data.case != case)) for case in data.cases}


def _check(data: Sample) -> None:
    if len(data.cases) < FEWEST_CASES:
        raise DatasetError(
            f"{len(data.cases)} annotated validation scans are too few to fit a confidence.",
            f"At least {FEWEST_CASES} are needed.",
        )


def _fit(task: Task, shape: ShapeModel, data: Sample) -> ConfidenceModel:
    large_mm = LARGE * float(np.nanmedian(data.errors[data.part == CLEAN]))
    large, known = data.errors > large_mm, data.known
    scores = np.zeros_like(data.errors)
    for case in data.cases:  # what a score means is seen on cases that it was not fitted to
        here = data.case == case
        scores[here] = fit_score(data.where(~here), large_mm)(data.features[here])
    columns = np.stack([scores[known], np.ones(known.sum())], axis=1)
    slope, constant = _logistic(columns, large[known], np.full(2, 1e-6))
    steepness = max(float(slope), 1e-3)
    model = ConfidenceModel(
        task.landmarks,
        shape,
        fit_score(data, large_mm),
        _fit_table(scores[known], data.errors[known]),
        large_mm,
        steepness,
        -float(constant) / steepness,
        0.0,
        _between(data, scores),
    )
    flagged = float(np.quantile(scores[known & ~large], 1 - FALSE_ALARMS))
    return replace(model, low_below=1 / (1 + np.exp(steepness * (flagged - model.even))))


def fit_score(data: Sample, large_mm: float) -> Score:
    """Logistic regression of large errors on the standardized features and a term for each landmark."""
    known, count = data.known, data.errors.shape[1]
    raw = data.features[known]
    centre, spread = raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-6)
    landmark = np.eye(count)[np.nonzero(known)[1]]
    columns = np.concatenate([standardized(raw, centre, spread), landmark, np.ones((len(raw), 1))], axis=1)
    width = raw.shape[1]
    ridge = np.array([RIDGE_FEATURES] * width + [RIDGE_LANDMARKS] * count + [1e-9])
    found = _logistic(columns, data.errors[known] > large_mm, ridge)
    return Score(centre, spread, found[:width], found[width:-1] + found[-1])


def _logistic(columns: Floats, target: NDArray[np.bool_], ridge: Floats) -> Floats:
    """Coefficients of a ridge-penalized logistic regression, by Newton's method with bounded steps."""
    found = np.zeros(columns.shape[1])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-np.clip(columns @ found, -50, 50)))
        slope = columns.T @ (target - chance) / len(columns) - ridge * found
        spread = (chance * (1 - chance) / len(columns))[:, None]
        curvature = (columns * spread).T @ columns + np.diag(ridge + 1e-9)
        step = np.linalg.solve(curvature, slope)
        found += step / max(1.0, float(np.abs(step).max()) / 2)
        if np.abs(step).max() < 1e-8:
            break
    return found


def _fit_table(score: Floats, errors: Floats) -> Table:
    """Means and 90 % quantiles of the errors of landmarks with about the same score, increasing with the score."""
    rows = int(np.clip(len(score) // ROW_POINTS, 1, ROWS))
    parts = np.array_split(np.argsort(score, kind="stable"), rows)
    middle, mean = (np.array([values[part].mean() for part in parts]) for values in (score, errors))
    bound = np.array([np.quantile(errors[part], 0.9) for part in parts])
    return Table(middle, _increasing(mean), _increasing(bound))


def _increasing(values: Floats) -> Floats:
    """The increasing sequence that is nearest, by least squares (isotonic regression: pooling adjacent violators)."""
    pools: list[tuple[float, int]] = []  # value, length
    for value in values.tolist():
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (b, m), (a, n) = pools.pop(), pools.pop()
            pools.append(((a * n + b * m) / (n + m), n + m))
    return np.concatenate([np.full(length, value) for value, length in pools])


def _between(data: Sample, scores: Floats) -> float:
    """A median score in the middle between the worst scan within range and the wrong scans."""
    median = np.median(scores, axis=1)
    right, wrong = median[np.isin(data.part, (CLEAN, MILD))], median[data.part == WRONG]
    return float((right.max() + np.quantile(wrong, WRONG_PASSING)) / 2) if len(wrong) else float(right.max() + 1)
