"""The gate's figures on points that were put at known distances, and its verdict."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.synthetic import small_task
from trt_landmarks.bundles.builds import deviation_summary
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.calibration.gate import deviation, judged, localize_all, table
from trt_landmarks.calibration.recipe import LIMITS, Limits
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.geometry import Floats, Geometry
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.localization.result import Localization, SlicePlane
from trt_landmarks.scan import Scan

FINE = {"shape": [8, 8, 8], "frame": "anatomy", "width": 2, "levels": 2, "heatmap_sigma_mm": 1.5}
TASK = small_task(fine={**FINE, "spacing_mm": [0.5, 0.5, 0.5]})
BUNDLE = Bundle(Path("bundle"), {"name": "small"}, TASK)
NAMES = TASK.landmarks
POINTS = np.random.default_rng(0).uniform(-20, 20, (3, len(NAMES), 3))


def found(points: Floats, coarse: Floats | None = None, confidence: float = 0.5, slice_mm: float = 0.0) -> Localization:
    (group,) = TASK.groups
    plane = SlicePlane(group, np.array([slice_mm, 3.0, 4.0]), np.array([1.0, 0, 0]))
    return Localization(points, np.full(len(points), confidence), points if coarse is None else coarse, (plane,), {})


def moved(distances: Floats, direction: Floats | None = None) -> list[Localization]:
    """Three scans whose points lie ``distances`` ``[3, N]`` mm from :data:`POINTS`."""
    unit = np.array([0.6, 0, -0.8]) if direction is None else direction / np.linalg.norm(direction)
    return [found(points) for points in POINTS + distances[..., None] * unit]


EXPECTED = moved(np.zeros((3, len(NAMES))))


def test_figures_of_known_distances() -> None:
    distances = np.arange(21).reshape(3, 7) / 100  # 0 to 0.2 mm: 0 to 0.4 voxel
    figures = deviation(BUNDLE, EXPECTED, moved(distances), None)
    assert figures["mean_mm"] == pytest.approx(0.1) and figures["max_mm"] == pytest.approx(0.2)
    assert figures["mean_voxel"] == pytest.approx(0.2) and figures["max_voxel"] == pytest.approx(0.4)
    assert figures["p95_voxel"] == pytest.approx(0.38) and figures["p99_voxel"] == pytest.approx(0.396)
    assert list(figures["landmarks"]) == list(NAMES)
    for n, name in enumerate(NAMES):  # landmark n: n, n + 7, n + 14 hundredths
        row = figures["landmarks"][name]
        assert row["mean_mm"] == pytest.approx((n + 7) / 100)
        assert row["p95_mm"] == pytest.approx((n + 13.3) / 100) and row["max_mm"] == pytest.approx((n + 14) / 100)
    assert figures["coarse_mean_mm"] == pytest.approx(0.1)
    assert not any(name.startswith("mre") for name in figures)


def test_voxels_are_those_of_the_patch_grid_along_each_axis() -> None:
    task = small_task(fine={**FINE, "spacing_mm": [0.5, 1.0, 2.0]})
    bundle = Bundle(Path("bundle"), {}, task)
    for axis, voxel in enumerate((0.5, 1, 2)):
        figures = deviation(bundle, EXPECTED, moved(np.full((3, 7), 0.3), np.eye(3)[axis]), None)
        assert figures["mean_mm"] == pytest.approx(0.3)
        assert figures["mean_voxel"] == pytest.approx(0.3 / voxel)


def test_confidences_key_slices_and_coarse_points_are_compared() -> None:
    other = [found(points, points + np.array([0, 0.3, 0.4]), 0.5 + n / 8, n * 0.7) for n, points in enumerate(POINTS)]
    figures = deviation(BUNDLE, EXPECTED, other, None)
    assert figures["max_mm"] == 0
    assert figures["coarse_mean_mm"] == pytest.approx(0.5)
    assert figures["max_confidence"] == pytest.approx(0.25) and figures["max_key_slice_mm"] == pytest.approx(1.4)


def test_the_growth_of_the_error_counts_only_what_is_annotated() -> None:
    """FP32 is 0.5 mm off in x; the other engine 0.2 mm further for the annotated half, far off for the rest."""
    truth = POINTS + np.array([0.5, 0, 0])
    truth[:, ::2] = np.nan
    distances = np.full((3, 7), 9.0)
    distances[:, 1::2] = 0.2
    figures = deviation(BUNDLE, EXPECTED, moved(distances, np.array([-1.0, 0, 0])), truth)
    assert figures["mre_fp32_mm"] == pytest.approx(0.5) and figures["mre_mm"] == pytest.approx(0.7)
    assert figures["mre_percent"] == pytest.approx(40)
    better = deviation(BUNDLE, EXPECTED, moved(np.full((3, 7), 0.1), np.array([1.0, 0, 0])), truth)
    assert better["mre_percent"] == pytest.approx(-20)


def test_annotations_without_a_point_are_no_annotations() -> None:
    figures = deviation(BUNDLE, EXPECTED, moved(np.full((3, 7), 0.01)), np.full((3, 7, 3), np.nan))
    assert "mre_mm" not in figures
    assert judged(figures, "int8")["passed"]


@given(st.lists(st.floats(0, 5), min_size=21, max_size=21), st.permutations(range(3)))
def test_figures_are_in_order_and_do_not_depend_on_the_scans_order(distances: list[float], order: list[int]) -> None:
    other = moved(np.array(distances).reshape(3, 7))
    figures = deviation(BUNDLE, EXPECTED, other, None)
    assert 0 <= figures["p95_voxel"] <= figures["p99_voxel"] <= figures["max_voxel"]
    assert figures["mean_voxel"] <= figures["max_voxel"]
    assert figures["max_mm"] == pytest.approx(max(distances), abs=1e-6)
    assert figures["max_voxel"] == pytest.approx(2 * max(distances), abs=1e-6)
    again = deviation(BUNDLE, [EXPECTED[n] for n in order], [other[n] for n in order], None)
    assert {k: v for k, v in again.items() if k != "landmarks"} == pytest.approx(
        {k: v for k, v in figures.items() if k != "landmarks"}, abs=2e-6
    )


def test_the_limits_are_those_that_were_promised() -> None:
    assert LIMITS["fp16"] == Limits(p99_voxel=0.05, max_voxel=0.25)
    assert LIMITS["int8"] == Limits(mean_voxel=0.1, mre_percent=2.0)


@pytest.mark.parametrize(("precision", "name"), [("fp16", "p99_voxel"), ("fp16", "max_voxel"), ("int8", "mean_voxel"),
                                                 ("int8", "mre_percent")])  # fmt: skip
def test_a_limit_is_kept_at_it_and_not_above(precision: str, name: str) -> None:
    limit = getattr(LIMITS[precision], name)
    others = {"mean_voxel": 0.0, "p99_voxel": 0.0, "max_voxel": 0.0, "mre_percent": -1.0}
    kept = judged({**others, name: limit}, precision)
    assert kept["passed"] and kept["failures"] == [] and kept["limits"][name] == limit and kept[name] == limit
    for value in (math.nextafter(limit, 9), math.nan, math.inf):
        refused = judged({**others, name: value}, precision)
        assert not refused["passed"]
        (failure,) = refused["failures"]
        assert failure.startswith(name.split("_")[0]) and f"(allowed {limit:g}" in failure
        assert ("%" in failure) == (name == "mre_percent")
    assert judged({**others, name: -limit}, precision)["passed"]


def test_every_limit_that_is_not_kept_is_told() -> None:
    figures = {"mean_voxel": 0.1234, "p99_voxel": 5.0, "max_voxel": 7.0, "mre_percent": 12.345}
    assert judged(figures, "int8")["failures"] == ["mean voxel 0.123 (allowed 0.1)", "mre 12.3 % (allowed 2 %)"]
    assert judged(figures, "fp16")["failures"] == ["p99 voxel 5 (allowed 0.05)", "max voxel 7 (allowed 0.25)"]
    without_truth = {name: value for name, value in figures.items() if name != "mre_percent"}
    assert judged(without_truth, "int8")["failures"] == ["mean voxel 0.123 (allowed 0.1)"]


def test_the_table_names_every_landmark_worst_first() -> None:
    means = np.array([3, 1, 4, 1.5, 9, 2, 6]) / 100
    figures = deviation(BUNDLE, EXPECTED, moved(np.tile(means, (3, 1))), POINTS + 0.5)
    header, *rows, last = table(figures)
    assert header.split() == ["landmark", "mean", "mm", "p95", "mm", "max", "mm"]
    assert [row.split()[0] for row in rows] == [NAMES[n] for n in np.argsort(-means)]
    assert rows[0].split()[1:] == ["0.0900", "0.0900", "0.0900"]
    assert last == deviation_summary(figures)
    assert f"mean {figures['mean_voxel']:.4f}" in last and "MRE 0.8660 mm -> " in last
    assert "MRE" not in deviation_summary(deviation(BUNDLE, EXPECTED, EXPECTED, None))


def test_the_whole_method_is_compared(tiny_bundle: Bundle) -> None:
    """An engine against itself deviates by nothing; a coarse stage that is off shows in the points."""
    rng = np.random.default_rng(0)
    geometry = Geometry((20, 22, 24), (1, 1, 1), (5, 6, 7), np.eye(3))
    scans = [Scan(str(n), None, rng.integers(0, 255, (24, 22, 20), dtype=np.uint8), geometry) for n in range(2)]
    engine = OnnxRuntimeEngine(tiny_bundle.graphs, threads=1)
    results = localize_all(tiny_bundle, engine, scans)
    alone = Localizer(tiny_bundle.task, tiny_bundle.mean_shape, engine).localize(scans[1])
    assert np.array_equal(results[1].points, alone.points) and len(results) == 2
    assert judged(deviation(tiny_bundle, results, results, None), "fp16")["max_voxel"] == 0
    figures = deviation(tiny_bundle, results, results[::-1], None)
    expected = np.linalg.norm(results[0].points - results[1].points, axis=-1)
    assert figures["mean_mm"] == pytest.approx(expected.mean(), abs=1e-6) and figures["mean_mm"] > 0
