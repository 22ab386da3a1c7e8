"""Planes and projections show the world as it is, however the scan lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.outputs.conftest import place
from tests.synthetic import about, blobs, directions, rotation, stored_otherwise, turned
from trt_landmarks.data.annotations import read_landmarks
from trt_landmarks.geometry import Floats
from trt_landmarks.outputs.sections import VIEWS, Box, Image, View, box_about, plane, projections
from trt_landmarks.scan import Scan, read_scan


def brightest(image: Image, box: Box, view: View) -> Floats:
    """World coordinates (across, along) of the brightest sample."""
    row, column = np.unravel_index(np.nanargmax(image), image.shape)
    a, b = view.across, view.along
    shares = (column + 0.5) / image.shape[1], (row + 0.5) / image.shape[0]
    return box.low[[a, b]] + box.size[[a, b]] * shares


@given(turn=directions(), point=st.tuples(*[st.floats(-5, 5)] * 3))
def test_a_point_is_seen_where_it_is(turn: Floats, point: tuple[float, float, float]) -> None:
    geometry = about((10, 20, -30), (20, 22, 18), (1.1, 0.9, 1.2), turn)
    spot = geometry.centre + point
    scan = Scan("s", None, blobs(geometry, spot[None], [1.0], 1.2), geometry)
    box = box_about(scan, [])
    projected = projections(scan, box)
    for view in VIEWS:
        expected = spot[[view.across, view.along]]
        near = plane(scan, box, view, float(spot[view.depth]))
        for image in (near, projected[view]):
            assert np.abs(brightest(image, box, view) - expected).max() < 1.0
            assert np.nanmax(image) > 0.55
        far = plane(scan, box, view, float(spot[view.depth]) + (4 if point[view.depth] < 0 else -4))
        assert np.nanmax(far) < 0.2


def test_how_the_scan_is_stored_changes_nothing(scan: Scan) -> None:
    box = box_about(scan, [place("a"), place("b")])
    expected = projections(scan, box), plane(scan, box, VIEWS[0], 3.0)
    for n, (other, _) in enumerate(stored_otherwise(scan)):
        if n % 16 == 5:
            found = projections(other, box), plane(other, box, VIEWS[0], 3.0)
            np.testing.assert_allclose(found[1], expected[1], atol=1e-5)
            for view in VIEWS:
                np.testing.assert_allclose(found[0][view], expected[0][view], atol=1e-5)


def test_projections_are_the_maxima_of_the_planes_whatever_the_slabs(
    scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = box_about(scan, [])
    whole = projections(scan, box)
    monkeypatch.setattr("trt_landmarks.outputs.sections._SLAB_SAMPLES", 5000)
    for view, image in projections(scan, box).items():
        assert image.shape == whole[view].shape
        np.testing.assert_allclose(image, whole[view], atol=1e-5)


def test_the_box_holds_all_landmarks_and_no_more_than_is_there(scan: Scan) -> None:
    everything = box_about(scan, [])
    marks = np.array([place("a"), place("out")])
    box = box_about(scan, marks)
    assert (box.low < marks.min(axis=0)).all() and (box.high > marks.max(axis=0)).all()
    assert box.high[1] > everything.high[1]  # a landmark outside is shown too
    assert box.size.min() >= 0.4 * box.size.max() - 1e-9
    one = box_about(scan, place("b")[None])
    assert (one.size > 4).all() and (one.size <= everything.size + 1e-9).all()
    outside = plane(scan, Box(everything.high + 1, everything.high + 9), VIEWS[0], float(everything.high[1]) + 5)
    assert np.isnan(outside).all()


def test_landmarks_of_a_real_head_lie_on_bone_also_if_it_lies_oblique(mouse_scans: list[Path]) -> None:
    path = mouse_scans[3]
    scan, turn = read_scan(path), rotation(25, -40, 70)
    annotated = read_landmarks(path.parent.parent / "landmarks" / f"{scan.id}.mrk.json")
    for seen, move in ((scan, np.eye(3)), (turned(scan, turn), turn)):
        points = np.array(list(annotated.values()))[::5] @ move.T
        box = box_about(seen, points)
        bright = []
        for point in points:
            for view in VIEWS:
                image = plane(seen, box, view, float(point[view.depth]))
                share = ((point - box.low) / box.size)[[view.along, view.across]]
                row, column = (share * image.shape).astype(int)
                around = image[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
                bright.append(np.nanmax(around) > np.nanpercentile(image, 80))
        assert np.mean(bright) > 0.9
