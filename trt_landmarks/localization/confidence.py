"""The calibrated confidence of a model: from the features of a localization to probabilities and millimetres.

::

    features -> score -> confidence            probability that the error is not large
                      -> expected_error_mm     mean error of landmarks with this score
                      -> error_90_mm           90 % of the landmarks with this score have a smaller error

The score is a weighted sum of the features (:mod:`~trt_landmarks.localization.features`) and of a term for the
landmark: the logarithm of the odds that the error is large.  All is fitted on validation scans
(:mod:`~trt_landmarks.confidence.fitting`) and kept in ``confidence.json``; inference needs NumPy only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from trt_landmarks.errors import BundleError
from trt_landmarks.files import read_json, write_text
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.features import FEATURES, extract_features
from trt_landmarks.localization.result import Localization, Reliability
from trt_landmarks.localization.shape_model import ShapeModel
from trt_landmarks.task.task import Task

FORMAT = 1
#: Features are clipped to this many standard deviations: beyond, nothing was fitted.
REACH = 4.0


@dataclass(frozen=True)
class Score:
    """Linear in the features; the larger the worse.

    Attributes:
        centre: ``[F]`` mean of each feature in what it was fitted on.
        spread: ``[F]`` standard deviation.
        weights: ``[F]`` for the features in standard deviations from their mean.
        landmark: ``[N]`` the score of a landmark whose features are all at their means.
    """

    centre: Floats
    spread: Floats
    weights: Floats
    landmark: Floats

    def __call__(self, features: Floats) -> Floats:
        """Scores ``[..., N]`` of features ``[..., N, F]``."""
        return standardized(features, self.centre, self.spread) @ self.weights + self.landmark


def standardized(features: Floats, centre: Floats, spread: Floats) -> Floats:
    """Features ``[..., F]`` in standard deviations from their mean, clipped to :data:`REACH`."""
    return np.clip((features - centre) / spread, -REACH, REACH)


@dataclass(frozen=True)
class Table:
    """What scores mean in mm, at increasing ``score`` ``[B]``; their logarithms are linear in between, and
    constant beyond the ends.

    Attributes:
        score: where.
        expected_error_mm: ``[B]`` mean error.
        error_90_mm: ``[B]`` 90 % of the errors are smaller.
    """

    score: Floats
    expected_error_mm: Floats
    error_90_mm: Floats

    def at(self, score: Floats, values: Floats) -> Floats:
        """Values ``[B]`` of the table at other scores."""
        return np.exp(np.interp(score, self.score, np.log(values)))


@dataclass(frozen=True)
class ConfidenceModel:
    """How far to trust a model's landmarks.

    Attributes:
        landmarks: names, in the task's order.
        shape: how they usually lie.
        score: from features to one number.
        table: from the score to mm.
        large_error_mm: an error above this is large.
        steepness: of the logistic function from the score to the confidence.
        even: score at which the confidence is 0.5.
        low_below: landmarks with a lower confidence are not to be relied on.
        wrong_above: a scan whose landmarks' median score is higher does not show this anatomy.
        measured: figures of the fit, for people (:func:`~trt_landmarks.confidence.measuring.measure`).
    """

    landmarks: tuple[str, ...]
    shape: ShapeModel
    score: Score
    table: Table
    large_error_mm: float
    steepness: float
    even: float
    low_below: float
    wrong_above: float
    measured: Mapping[str, Any] = field(default_factory=dict)

    def judge(self, located: Localization) -> Localization:
        """The localization with a calibrated confidence in place of the height of the heatmaps."""
        score = self.score(extract_features(self.shape, located))
        return replace(located, confidence=self.confidence(score), reliability=self.reliability(score))

    def confidence(self, score: Floats) -> Floats:
        """Probabilities ``[N]`` that the errors are not large; 0 in a scan that does not show this anatomy."""
        if self._wrong(score):
            return np.zeros(len(score))
        return 1 / (1 + np.exp(np.clip(self.steepness * (score - self.even), -50, 50)))

    def reliability(self, score: Floats) -> Reliability:
        """What the scores ``[N]`` of one scan mean."""
        return Reliability(
            self.table.at(score, self.table.expected_error_mm),
            self.table.at(score, self.table.error_90_mm),
            self.confidence(score) < self.low_below,
            self._wrong(score),
        )

    def _wrong(self, score: Floats) -> bool:
        return bool(np.median(score) > self.wrong_above)

    def write(self, path: str | Path) -> None:
        """Write ``confidence.json``.

        Raises:
            BundleError: if the file cannot be written.
        """
        content = {
            "format": FORMAT,
            "landmarks": list(self.landmarks),
            _FEATURES_KEY: list(FEATURES),
            **{name: _plain(getattr(self, name)) for name in _NUMBERS},
            **{part: {name: _plain(getattr(getattr(self, part), name)) for name in names} for part, names in _PARTS},
            "measured": dict(self.measured),
        }
        write_text(path, json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n", BundleError)


_NUMBERS = ("large_error_mm", "steepness", "even", "low_below", "wrong_above")
_PARTS = (
    ("score", ("centre", "spread", "weights", "landmark")),
    ("table", ("score", "expected_error_mm", "error_90_mm")),
    ("shape", ("mean", "modes", "noise")),
)
#: The key that files of format 1 have for the names of the features.
_FEATURES_KEY = "signs"
_AGAIN = "Fit it again with trtlm confidence."


def read_confidence(path: str | Path, task: Task) -> ConfidenceModel:
    """Read ``confidence.json``.

    Raises:
        BundleError: if it is missing, damaged or of another task.
    """
    content = read_json(path, BundleError, "confidence file", remedy=_AGAIN)
    try:
        if content["format"] != FORMAT:
            raise BundleError(f"{path}: has format {content['format']!r}; this version reads {FORMAT}.", _AGAIN)
        if tuple(content["landmarks"]) != task.landmarks:
            raise BundleError(f"{path}: is of other landmarks than those of the task {task.name}.", _AGAIN)
        if tuple(content[_FEATURES_KEY]) != FEATURES:
            raise BundleError(f"{path}: is fitted to other features than this version uses.", _AGAIN)
        count, width, rows = len(task.landmarks), len(FEATURES), len(content["table"]["score"])
        modes = len(content["shape"]["modes"])
        shapes = {
            "score": ((width,), (width,), (width,), (count,)),
            "table": ((rows,), (rows,), (rows,)),
            "shape": ((count, 3), (modes, count, 3), (count,)),
        }
        score, table, shape = (
            [_array(content[part][name], size) for name, size in zip(names, shapes[part], strict=True)]
            for part, names in _PARTS
        )
        numbers = {name: float(_array(content[name], ())) for name in _NUMBERS}
        model = ConfidenceModel(
            task.landmarks,
            ShapeModel(*shape),
            Score(*score),
            Table(*table),
            measured=dict(content["measured"]),
            **numbers,
        )
        if not _makes_sense(model):
            raise ValueError("not a confidence")
        return model
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BundleError(f"{path}: is damaged.", _AGAIN) from None


def _makes_sense(model: ConfidenceModel) -> bool:
    """Whether the numbers can have been fitted: spreads and errors above 0, scores that do not fall, a probability."""
    errors = (model.table.expected_error_mm, model.table.error_90_mm)
    positive = (model.score.spread, model.shape.noise, *errors, model.large_error_mm, model.steepness)
    return (
        all(np.all(np.asarray(values) > 0) for values in positive)
        and bool(np.all(np.diff(model.table.score) >= 0))
        and len(model.table.score) > 0
        and 0 <= model.low_below <= 1
    )


def _array(values: ArrayLike, shape: tuple[int, ...]) -> Floats:
    array = np.asarray(values, dtype=np.float64).reshape(shape)
    if not np.isfinite(array).all():
        raise ValueError("not finite")
    return array


def _plain(values: ArrayLike) -> Any:
    """Numbers for JSON, to 1e-5."""
    return np.round(np.asarray(values, dtype=np.float64), 5).tolist()
