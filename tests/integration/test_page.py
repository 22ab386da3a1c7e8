"""The page in a real browser: from the upload to the corrected files, offline, by keyboard, in a narrow window."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from tests.server.conftest import Running
from trt_landmarks import Model, read_landmarks, read_scan
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.outputs.view_page import write_page
from trt_landmarks.results.predictions import SCHEMA_FILE, Predictions, read_predictions

pytestmark = pytest.mark.integration

#: Where on the canvas a chosen landmark is, in the plane where it is easiest to grab: in CSS pixels.
PLACE = """() => {
  const box = document.getElementById("canvas").getBoundingClientRect(), scale = viewer.uiData.dpr || 1;
  const want = ras(marks[chosen].position);
  let best = [1e9, 0, 0];
  for (let y = 2; y < box.height; y += 1) for (let x = 2; x < box.width; x += 1) {
    const mm = viewer.screenXY2mm(x * scale, y * scale);
    if (isNaN(mm[0])) continue;
    const far = Math.hypot(mm[0] - want[0], mm[1] - want[1], mm[2] - want[2]);
    if (far < best[0]) best = [far, x + box.left, y + box.top];
  }
  return best;
}"""


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """A window; the test fails if the page complains."""
    context = browser.new_context(viewport={"width": 1100, "height": 760}, accept_downloads=True)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.complaints = complaints
    yield page
    shots = os.environ.get("TRTLM_SCREENSHOTS")
    if shots:
        name = os.environ["PYTEST_CURRENT_TEST"].split("::")[-1].split()[0]
        page.screenshot(path=str(Path(shots) / f"{name}.png"))
    context.close()
    assert not complaints


@pytest.fixture(scope="module")
def offline(tiny_bundle: Bundle, scan_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with Model.open(tiny_bundle.root, engine="onnxruntime", threads=1) as model:
        case = model.localize(scan_path).case
    path = tmp_path_factory.mktemp("offline") / "view.html"
    found = Predictions("tiny", {"name": "tiny"}, {"name": "onnxruntime"}, [case])
    write_page(path, found, tiny_bundle.task.group_of, read_scan(scan_path))
    return path


def ready(page: Any) -> None:
    page.wait_for_selector("#list li[aria-selected=true]", timeout=60_000)


def saved(page: Any, button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.click(button)
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def position(page: Any) -> np.ndarray:
    return np.array(page.evaluate("marks[chosen].position"))


def choose_inside(page: Any) -> str:
    """Choose a landmark that the scan shows, well inside."""
    index = page.evaluate(
        "marks.map((m, n) => [Math.min(...viewer.mm2frac(ras(m.position)).map((f) => Math.min(f, 1 - f))), n])"
        ".sort((a, b) => b[0] - a[0])[0][1]"
    )
    page.click(f"#mark-{index}")
    return str(page.evaluate("marks[chosen].name"))


def test_from_the_upload_to_the_corrected_files(
    page: Any, server: Running, tiny_bundle: Bundle, scan_path: Path, tmp_path: Path
) -> None:
    page.goto(server.address + "/")
    page.wait_for_selector("#model option", state="attached")
    page.set_input_files("#file", str(scan_path))
    ready(page)
    with Model.open(tiny_bundle.root, engine="onnxruntime", threads=1) as model:
        expected = model.localize(scan_path)
    assert page.inner_text("#name") == "head"
    assert page.locator("#list b").all_inner_texts() == list(expected.names)

    name = choose_inside(page)
    np.testing.assert_allclose(position(page), expected[name], atol=1e-4)  # as in the results
    np.testing.assert_allclose(page.evaluate("crosshair()"), expected[name], atol=0.02)  # it jumped there

    before = position(page)
    far, x, y = page.evaluate(PLACE)
    assert far < 0.5
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 12, y - 8, steps=4)
    page.mouse.up()
    page.wait_for_timeout(200)
    after = position(page)
    assert 0.3 < np.linalg.norm(after - before) < 20
    assert "Moved by hand" in page.inner_text("#detail")

    slicer = saved(page, "#save-markups", tmp_path)
    assert slicer.name == "head.mrk.json"
    np.testing.assert_allclose(read_landmarks(slicer)[name], after, atol=1e-6)
    results = saved(page, "#save-json", tmp_path)
    Draft202012Validator(json.loads(SCHEMA_FILE.read_text())).validate(json.loads(results.read_text()))
    (case,) = read_predictions(results).cases
    mark = next(one for one in case.landmarks if one.name == name)
    np.testing.assert_allclose(mark.position_lps_mm, after, atol=1e-4)
    voxel = read_scan(scan_path).geometry.world_to_voxel(after)
    np.testing.assert_allclose(mark.voxel_ijk, voxel, atol=1e-3)
    assert case.warnings[-1].code == "moved_by_hand"
    rows = saved(page, "#save-csv", tmp_path).read_text().splitlines()
    assert len(rows) == 1 + len(expected.names) and sum("moved_by_hand" in row for row in rows) == 1

    page.click("#reset")
    np.testing.assert_array_equal(position(page), before)


def test_a_click_moves_no_point(page: Any, offline: Path) -> None:
    page.goto(offline.as_uri())
    ready(page)
    choose_inside(page)
    before = page.evaluate("marks.map((mark) => mark.position)")
    _, x, y = page.evaluate(PLACE)
    page.mouse.click(x, y)
    page.wait_for_timeout(200)
    assert page.evaluate("marks.map((mark) => mark.position)") == before


def test_a_file_that_is_no_scan(page: Any, server: Running, tmp_path: Path) -> None:
    path = tmp_path / "broken.nii.gz"
    path.write_bytes(b"\x1f\x8bnothing")
    page.goto(server.address + "/")
    page.wait_for_selector("#model option", state="attached")
    page.set_input_files("#file", str(path))
    page.wait_for_selector("#progress.error", timeout=30_000)
    assert "(scan_" in page.inner_text("#progress") and str(tmp_path) not in page.inner_text("#progress")
    assert page.is_hidden("#side")


def test_the_offline_page_needs_nobody_and_a_keyboard_is_enough(page: Any, offline: Path, tmp_path: Path) -> None:
    assert offline.stat().st_size < 12 << 20
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.split(":")[0]))
    page.goto(offline.as_uri())
    ready(page)
    choose_inside(page)
    before = position(page)
    page.keyboard.press("Shift+ArrowRight")
    step = position(page) - before
    assert step[0] > 0.3 and np.abs(step[1:]).max() < 1e-3  # to the patient's left, which is at the right
    page.keyboard.press("r")
    np.testing.assert_array_equal(position(page), before)
    page.keyboard.press("Home")
    assert page.evaluate("chosen") == 0
    page.keyboard.press("ArrowDown")
    page.keyboard.press("m")
    assert page.evaluate("chosen") == 1
    name = page.evaluate("marks[1].name")
    read = read_landmarks(saved(page, "#save-markups", tmp_path))
    if name in read:
        np.testing.assert_allclose(read[name], position(page), atol=1e-6)
    assert set(asked) <= {"file", "blob", "data"}, asked


def test_windows_of_every_size(page: Any, offline: Path) -> None:
    page.goto(offline.as_uri())
    ready(page)
    for width, height in ((380, 720), (320, 568), (1600, 900)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for part in ("#canvas", "#list", "#name"):
            box = page.locator(part).bounding_box()
            assert box["width"] > 100 and box["x"] >= 0 and box["x"] + box["width"] <= width + 1, part
        page.locator("#save-markups").scroll_into_view_if_needed()
        assert page.is_visible("#save-markups")


def test_a_folder_is_sent_as_it_is(page: Any, server: Running, scan_path: Path, tmp_path: Path) -> None:
    from tests.scan.dicom_writing import write_series

    scan = read_scan(scan_path)
    write_series(tmp_path / "series", replace(scan, voxels=(scan.voxels * 1000).astype(np.int16)))
    page.goto(server.address + "/")
    page.wait_for_selector("#model option", state="attached")
    page.set_input_files("#folder", str(tmp_path / "series"))
    ready(page)
    assert page.inner_text("#name") == "series"
