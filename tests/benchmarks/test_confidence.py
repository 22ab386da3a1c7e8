"""The benchmark of confidence: features compared on made-up localizations, scans turned with their landmarks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.confidence import ablation, candidates, tables, turned
from tests.confidence_cases import TASK, observations, shapes
from tests.synthetic import HEAD, blobs, head_geometry, rotation
from trt_landmarks.confidence.fitting import sample
from trt_landmarks.geometry import Grid
from trt_landmarks.localization.shape_model import fit_shape_model
from trt_landmarks.preprocessing.sampling import sample as sampled
from trt_landmarks.scan import Scan


def test_uninformative_features_add_nothing() -> None:
    """The made-up errors show in the heatmaps and in the shape, and in no other feature."""
    shape, seen = fit_shape_model(shapes(10)), observations(5)
    bundle: Any = SimpleNamespace(task=TASK, mean_shape=HEAD)
    more = candidates(bundle, shape, seen)
    data = sample(shape, seen)
    assert all(values.shape == data.errors.shape and np.isfinite(values).all() for values in more.values())
    rows = {row["features"]: row["all"]["area_under_curve"] for row in ablation(data, more)}
    assert rows["peak, shape"] > 0.9
    assert max(rows.values()) < rows["peak, shape"] + 0.03
    text = tables(ablation(data, more), [])
    assert all(f"| {name} |" in text for name in rows)


@pytest.mark.parametrize("degrees", [(180, 0, 0), (20, 40, -70)])
def test_landmarks_turn_with_their_scan(degrees: tuple[float, float, float]) -> None:
    geometry = head_geometry(rotation(5, 10, 15))
    points = HEAD + geometry.centre
    scan = Scan("head", None, blobs(geometry, points, [1.0] * len(points), 1.0), geometry)
    now, there = turned(scan, points, rotation(*degrees))
    for before, after in zip(points, there, strict=True):
        one, two = (
            sampled(s.voxels, s.geometry, Grid((1, 1, 1), (1.0, 1.0, 1.0), p))
            for s, p in ((scan, before), (now, after))
        )
        assert one == pytest.approx(two, abs=1e-4)
