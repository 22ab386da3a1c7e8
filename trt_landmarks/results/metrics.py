"""Localization errors as the literature reports them, with intervals that respect what is independent.

Definitions, over the points that are annotated and predicted:

* **radial error**: Euclidean distance between prediction and annotation, mm.
* **MRE**: mean radial error, every point with the same weight; **SD** the errors' standard deviation (n - 1);
  median, 95th percentile (linear interpolation) and maximum likewise.
* **SDR** at radius r: percentage of points with a radial error <= r.  A second figure, *of all*, divides by all
  annotated points instead: points without a prediction (failed or missing cases) count as misses.
* **axis error**: mean absolute error along x, y and z of LPS.
* **interval**: 95 % percentile bootstrap over *cases*.  The points of one scan share its pose, its quality and its
  annotator, so resampling points would pretend to more evidence than there is.  With few cases (below about 20) such
  intervals are too narrow; with one there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trt_landmarks.geometry import Floats

Interval = tuple[float, float]
Mask = NDArray[np.bool_]

#: A point at exactly the radius is within it, also after rounding; mm.
_TOLERANCE_MM = 1e-9


@dataclass(frozen=True)
class Detection:
    """SDR at one radius.

    Attributes:
        radius_mm: the radius, inclusive.
        percent: of the predicted points; NaN without any.
        interval: 95 % interval of ``percent``, or None.
        percent_of_all: of all annotated points, those without a prediction counted as misses.
    """

    radius_mm: float
    percent: float
    interval: Interval | None
    percent_of_all: float


@dataclass(frozen=True)
class Row:
    """The metrics of a set of points: one landmark, one group, or all.

    Attributes:
        name: of the landmark or group, or "overall".
        n_annotated: points with an annotation.
        n: of these, points with a prediction: what the errors are of.
        mre_mm: mean radial error; NaN, as all errors, if ``n`` is 0.
        mre_interval: its 95 % interval, or None.
        sd_mm: standard deviation of the radial errors; NaN if ``n`` < 2.
        median_mm: median radial error.
        p95_mm: 95th percentile of the radial errors.
        max_mm: largest radial error.
        axis_mm: mean absolute error along x, y, z (LPS).
        sdr: one entry per radius.
        flagged: for each flag the number of points in ``n`` that carry it.
    """

    name: str
    n_annotated: int
    n: int
    mre_mm: float
    mre_interval: Interval | None
    sd_mm: float
    median_mm: float
    p95_mm: float
    max_mm: float
    axis_mm: tuple[float, float, float]
    sdr: tuple[Detection, ...]
    flagged: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; undefined numbers are None."""
        return {
            "name": self.name,
            "n_annotated": self.n_annotated,
            "n": self.n,
            "mre_mm": _plain(self.mre_mm),
            "mre_interval95_mm": _plain(self.mre_interval),
            "sd_mm": _plain(self.sd_mm),
            "median_mm": _plain(self.median_mm),
            "p95_mm": _plain(self.p95_mm),
            "max_mm": _plain(self.max_mm),
            "mean_absolute_error_lps_mm": _plain(self.axis_mm),
            "sdr": [
                {
                    "radius_mm": one.radius_mm,
                    "percent": _plain(one.percent),
                    "interval95_percent": _plain(one.interval),
                    "percent_of_all": _plain(one.percent_of_all),
                }
                for one in self.sdr
            ],
            **{f"n_{flag}": count for flag, count in self.flagged.items()},
        }


@dataclass(frozen=True)
class Tables:
    """All rows of an evaluation.

    Attributes:
        overall: all points.
        landmarks: one row per landmark, in the given order.
        groups: one row per named group.
        bootstrap: resamples behind the intervals; 0 if there are none.
    """

    overall: Row
    landmarks: tuple[Row, ...]
    groups: tuple[Row, ...]
    bootstrap: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "overall": self.overall.to_dict(),
            "groups": [row.to_dict() for row in self.groups],
            "landmarks": [row.to_dict() for row in self.landmarks],
            "bootstrap": self.bootstrap,
        }


def evaluate_points(
    pred: ArrayLike,
    truth: ArrayLike,
    names: Sequence[str],
    radii: Sequence[float],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    flags: Mapping[str, Mask] | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> Tables:
    """Metrics of predicted points (see the module's text for the definitions).

    Args:
        pred: ``[C, N, 3]`` LPS mm, cases x landmarks; NaN where nothing was predicted.
        truth: ``[C, N, 3]`` LPS mm; NaN where there is no annotation.
        names: the N landmarks.
        radii: radii of the SDR, mm.
        groups: group -> its landmarks, for further rows.
        flags: flag -> ``[C, N]``: marked points stay in all figures and are counted in ``Row.flagged``.
        bootstrap: resamples of the cases for the intervals; 0 for none.
        seed: of the resampling; the same seed gives the same intervals.

    Raises:
        ValueError: if shapes do not fit or a group names an unknown landmark.
    """
    p, t = np.asarray(pred, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if p.ndim != 3 or p.shape != t.shape or p.shape[1:] != (len(names), 3):
        raise ValueError(f"pred {p.shape} and truth {t.shape} must both be [cases, {len(names)}, 3]")
    annotated: Mask = np.asarray(np.isfinite(t).all(axis=-1))
    predicted: Mask = annotated & np.isfinite(p).all(axis=-1)
    points = _Points(
        annotated=annotated,
        predicted=predicted,
        offsets=np.abs(np.where(predicted[..., None], p, 0.0) - np.where(predicted[..., None], t, 0.0)),
        flags={name: np.asarray(mask, dtype=bool) & predicted for name, mask in (flags or {}).items()},
        radii=tuple(float(radius) for radius in radii),
        resamples=_resample(np.any(predicted, axis=1), bootstrap, seed),
    )
    index = {name: i for i, name in enumerate(names)}
    unknown = [name for members in (groups or {}).values() for name in members if name not in index]
    if unknown:
        raise ValueError(f"groups name unknown landmarks: {', '.join(unknown)}")
    return Tables(
        overall=points.row("overall", list(range(len(names)))),
        landmarks=tuple(points.row(name, [i]) for name, i in index.items()),
        groups=tuple(points.row(name, [index[one] for one in members]) for name, members in (groups or {}).items()),
        bootstrap=bootstrap,
    )


@dataclass(frozen=True)
class _Points:
    """What all rows are cut from.

    Attributes:
        annotated: ``[C, N]``.
        predicted: ``[C, N]``, a subset of ``annotated``.
        offsets: ``[C, N, 3]`` absolute errors along the axes, 0 where not predicted.
        flags: flag -> ``[C, N]``, a subset of ``predicted``.
        radii: mm.
        resamples: ``[B, C]``, how often each case occurs in each resample; None without bootstrap.
    """

    annotated: Mask
    predicted: Mask
    offsets: Floats
    flags: dict[str, Mask]
    radii: tuple[float, ...]
    resamples: Floats | None

    def row(self, name: str, columns: list[int]) -> Row:
        """The metrics of the landmarks ``columns``, pooled."""
        predicted = self.predicted[:, columns]
        offsets = self.offsets[:, columns]
        distances = np.linalg.norm(offsets, axis=-1)
        errors = distances[predicted]
        n, n_annotated = len(errors), int(self.annotated[:, columns].sum())
        per_case = predicted.sum(axis=1)
        detections = []
        for radius in self.radii:
            hits = predicted & (distances <= radius + _TOLERANCE_MM)
            interval = self._interval(hits.sum(axis=1), per_case)
            detections.append(
                Detection(
                    radius_mm=radius,
                    percent=100 * _ratio(hits.sum(), n),
                    interval=None if interval is None else (100 * interval[0], 100 * interval[1]),
                    percent_of_all=100 * _ratio(hits.sum(), n_annotated),
                )
            )
        x, y, z = (_ratio(total, n) for total in offsets.sum(axis=(0, 1)))
        median, p95, largest = np.percentile(errors, [50, 95, 100]) if n else (np.nan,) * 3
        return Row(
            name=name,
            n_annotated=n_annotated,
            n=n,
            mre_mm=_ratio(errors.sum(), n),
            mre_interval=self._interval(np.where(predicted, distances, 0.0).sum(axis=1), per_case),
            sd_mm=float(np.std(errors, ddof=1)) if n > 1 else float("nan"),
            median_mm=float(median),
            p95_mm=float(p95),
            max_mm=float(largest),
            axis_mm=(x, y, z),
            sdr=tuple(detections),
            flagged={flag: int(mask[:, columns].sum()) for flag, mask in self.flags.items()},
        )

    def _interval(self, sums: NDArray[Any], counts: NDArray[Any]) -> Interval | None:
        """95 % interval of sum(sums) / sum(counts), both ``[C]``; None if fewer than two cases have a count."""
        if self.resamples is None or np.count_nonzero(counts) < 2:
            return None
        totals = self.resamples @ counts
        drawn = totals > 0
        low, high = np.percentile((self.resamples @ sums)[drawn] / totals[drawn], [2.5, 97.5])
        return float(low), float(high)


def _resample(cases: Mask, bootstrap: int, seed: int) -> Floats | None:
    """``[B, C]`` occurrences of each case when as many cases as are True are drawn from them with replacement."""
    drawn = np.flatnonzero(cases)
    if bootstrap < 1 or len(drawn) == 0:
        return None
    resamples = np.zeros((bootstrap, len(cases)), dtype=np.float64)
    generator = np.random.default_rng(seed)
    resamples[:, drawn] = generator.multinomial(len(drawn), np.full(len(drawn), 1 / len(drawn)), size=bootstrap)
    return resamples


def _ratio(total: Any, count: int) -> float:
    return float(total) / count if count else float("nan")


def _plain(value: float | tuple[float, ...] | None) -> Any:
    """A number for JSON: rounded to 1e-6, None if undefined; tuples become lists."""
    if value is None:
        return None
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return round(value, 6) if np.isfinite(value) else None
