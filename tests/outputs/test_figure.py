"""Pictures: the right points at the right places, in true proportions, and nothing that a name could break."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from tests.outputs.conftest import GROUPS, PLACES, failed_case, place
from trt_landmarks.errors import PredictionsError
from trt_landmarks.outputs.figure import case_figure, encode, format_of, save, thumbnail
from trt_landmarks.outputs.marks import Marks
from trt_landmarks.outputs.sections import VIEWS, View
from trt_landmarks.scan import Scan


def panels(figure: Any) -> dict[tuple[str, str], Any]:
    """(view, plane or projection) -> its axes."""
    found = {}
    for axes in figure.axes:
        for text in axes.texts:
            view, _, kind = text.get_text().partition("\n")
            if kind and view in ("axial", "coronal", "sagittal"):
                found[view, "projection" if kind == "projection" else "plane"] = axes
    return found


def dots(axes: Any) -> list[tuple[float, float]]:
    """Filled points of a panel."""
    filled = [one for one in axes.collections if len(one.get_facecolor())]
    return [tuple(place) for one in filled for place in np.round(np.asarray(one.get_offsets()), 4).tolist()]


def flat(name: str, view: View) -> tuple[float, float]:
    return tuple(place(name)[[view.across, view.along]])  # type: ignore[return-value]


def test_points_are_drawn_where_they_are(scan: Scan, marks: Marks) -> None:
    found = panels(case_figure(scan, marks, "b"))
    assert len(found) == 6
    for view in VIEWS:
        assert sorted(dots(found[view.name, "projection"])) == sorted(flat(name, view) for name in PLACES)
        assert flat("b", view) in dots(found[view.name, "plane"])
    sagittal = dots(found["sagittal", "plane"])  # x = 0.5: b, c and the one outside, not a and d
    assert len(sagittal) == 3


def test_directions_follow_radiological_convention(scan: Scan, marks: Marks) -> None:
    found = panels(case_figure(scan, marks))
    for (name, _), axes in found.items():
        letters = {t.get_text(): t.get_position() for t in axes.texts if t.get_text() in tuple("RLAPSI")}
        left, right = sorted((x, letter) for letter, (x, y) in letters.items() if y == 0.5)
        bottom, top = sorted((y, letter) for letter, (x, y) in letters.items() if x == 0.5)
        assert left[1] + right[1] + top[1] + bottom[1] == {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}[name]
        assert axes.get_xlim()[0] < axes.get_xlim()[1]  # x grows to the left of the patient, y to the back
        assert (axes.get_ylim()[0] < axes.get_ylim()[1]) == (name != "axial")


def test_a_millimetre_is_as_long_everywhere(scan: Scan, marks: Marks) -> None:
    figure = case_figure(scan, marks)
    width, height = figure.get_size_inches()
    scales = []
    for axes in panels(figure).values():
        box = axes.get_position()
        scales += [box.width * width / np.ptp(axes.get_xlim()), box.height * height / np.ptp(axes.get_ylim())]
    np.testing.assert_allclose(scales, scales[0], rtol=1e-6)


def test_the_key_slice_is_a_line_where_it_cuts_the_panel(scan: Scan, marks: Marks) -> None:
    case = marks.case
    tilted = replace(case.key_slices[0], normal_lps=(np.cos(0.3), np.sin(0.3), 0.0))
    found = panels(case_figure(scan, replace(marks, case=replace(case, key_slices=(tilted,))), "b"))
    for (name, kind), axes in found.items():
        lines = [line for line in axes.lines if type(line).__name__ == "AxLine"]
        lines = [line for line in lines if line.get_linestyle() == "--"]
        assert len(lines) == (name != "sagittal"), (name, kind)
    point, normal = np.array([0.5, 1.0, 59.0]), np.array([np.cos(0.3), np.sin(0.3), 0])
    (line,) = [one for one in found["coronal", "plane"].lines if one.get_linestyle() == "--"]
    on_plane = np.array([line.get_xy1()[0], place("b")[1], line.get_xy1()[1]])
    assert (on_plane - point) @ normal == pytest.approx(0, abs=1e-4)  # normals are rounded


def test_the_planes_go_through_the_landmark_that_tells_most(marks: Marks) -> None:
    assert marks.landmark("c").name == "c"
    assert marks.landmark(None).name == "d $x_1$"  # the one with low confidence
    sure = [replace(mark, status="located") for mark in marks.case.landmarks]
    middle = np.mean(list(PLACES.values()), axis=0)
    nearest = min(PLACES, key=lambda name: float(np.linalg.norm(place(name) - middle)))
    assert replace(marks, case=replace(marks.case, landmarks=tuple(sure))).landmark(None).name == nearest
    with pytest.raises(PredictionsError, match="no landmark 'e'; it has a, b"):
        marks.landmark("e")
    with pytest.raises(PredictionsError, match="'bad' cannot be shown: ends, early"):
        Marks(failed_case("bad"), {}, {}).landmark(None)


def test_any_thread_may_draw_and_gets_the_same(scan: Scan, marks: Marks) -> None:
    def draw(_: int) -> bytes:
        return thumbnail(scan, marks)

    with ThreadPoolExecutor(3) as pool:
        drawn = list(pool.map(draw, range(6)))
    assert len(set(drawn)) == 1
    with Picture.open(io.BytesIO(drawn[0])) as picture:
        assert picture.format == "JPEG" and max(picture.size) < 500
        assert np.asarray(picture).std() > 10


def test_names_that_look_like_mathematics_or_are_long_are_only_text(scan: Scan, marks: Marks) -> None:
    wild = replace(marks.case, id="$\\frac{" + "x" * 300)
    groups = {**GROUPS, "a": "$\\bad{"}
    picture = encode(case_figure(scan, Marks(wild, {}, groups)), "png", 40)
    assert picture.startswith(b"\x89PNG")


def test_the_ending_says_the_format(scan: Scan, marks: Marks, tmp_path: Path) -> None:
    figure = case_figure(scan, marks)
    for suffix, start in ((".png", b"\x89PNG"), (".jpg", b"\xff\xd8"), (".pdf", b"%PDF"), (".svg", b"<?xml")):
        save(figure, tmp_path / f"view{suffix}", dpi=40)
        assert (tmp_path / f"view{suffix}").read_bytes().startswith(start)
    with pytest.raises(PredictionsError, match=r"view.gif: unknown kind of picture. Known endings: .png"):
        format_of("view.gif")


def test_drawing_needs_no_pyplot_and_importing_no_matplotlib() -> None:
    code = (
        "import sys, trt_landmarks.outputs.figure, trt_landmarks.outputs.writer\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from trt_landmarks.outputs.error_plots import detection_plot\nimport numpy as np\n"
        "from trt_landmarks.outputs.figure import encode\n"
        "encode(detection_plot(np.array([1.0]), [2.0]), 'png', 30)\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
