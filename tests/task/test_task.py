"""The task file: what is shipped can be read, and whatever is wrong with one is named by its key."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from trt_landmarks.errors import TaskError
from trt_landmarks.task.task import Intensity, Task, add_measurements, load_task, parse_task


@pytest.fixture(scope="module")
def shipped(repo_root: Path) -> Task:
    return load_task(repo_root / "tasks" / "mouse-skull.yaml")


GOOD: dict[str, Any] = {
    "name": "two",
    "landmarks": ["a", "b", "c", "d"],
    "groups": [{"name": "mid", "axis": "left-right", "landmarks": ["b", "a"]}],
    "symmetry": {"axis": "left-right", "pairs": [["c", "d"]], "midline": ["a"]},
    "intensity": {"low": 1, "high": 99},
    "coarse": {"shape": [8, 9, 10], "field_of_view_mm": [16, 27, 40]},
    "fine": {"shape": [8, 12, 16], "spacing_mm": [0.5, 1, 2], "heatmap_sigma_mm": 1},
    "correlated": {"fusion": True},
    "sdr_radii_mm": [1, 2],
}


def changed(path: str, value: Any) -> dict[str, Any]:
    content: Any = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place = content
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]
    if value is None:
        del place[last]
    else:
        place[int(last) if isinstance(place, list) else last] = value
    return content  # type: ignore[no-any-return]


def test_the_shipped_task(shipped: Task) -> None:
    assert len(shipped.landmarks) == 45 and len(shipped.independent) == 35
    (group,) = shipped.groups
    assert [shipped.landmarks[n] for n in shipped.members(group)] == list(group.landmarks)
    assert not set(shipped.members(group)) & set(shipped.independent)
    assert shipped.mirror is not None
    mirror = np.array(shipped.mirror)
    assert [shipped.landmarks[n] for n in np.flatnonzero(mirror < 0)] == ["49"]
    paired = mirror >= 0
    np.testing.assert_array_equal(mirror[mirror][paired], np.arange(45)[paired])
    assert set(np.flatnonzero(mirror == np.arange(45))) == set(shipped.members(group))
    assert shipped.coarse.spacing_mm == pytest.approx((0.4, 0.4, 0.4))


def test_derived_values() -> None:
    task = parse_task(GOOD, "good")
    assert task.members(task.groups[0]) == (1, 0)  # the group's own order
    assert task.independent == (2, 3)
    assert task.mirror == (0, -1, 3, 2)  # b has no mirror image
    assert task.coarse.spacing_mm == (2, 3, 4)
    assert task.fine.extent_mm == (4, 12, 32)
    assert parse_task(changed("symmetry", None), "x").mirror is None
    for index, axis in enumerate(("left-right", "anterior-posterior", "superior-inferior")):
        assert parse_task(changed("groups.0.axis", axis), "x").groups[0].axis_index == index


def test_round_trip(shipped: Task, tmp_path: Path) -> None:
    for number, task in enumerate((shipped, parse_task(GOOD | {"description": "größe: µ"}, "good"))):
        path = tmp_path / f"{number}.yaml"
        path.write_text(task.to_yaml(), encoding="utf-8")
        assert load_task(path) == task
    assert "größe: µ" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("colour", "red", "colour: unknown key"),
        ("fine.colour", "red", "fine.colour: unknown key"),
        ("groups.0.colour", "red", "groups.0.colour: unknown key"),
        ("correlated.atention", True, "correlated.atention: unknown key"),
        ("name", None, "name: is missing"),
        ("name", "../x", "name: string should match"),
        ("schema_version", 2, "schema_version: "),
        ("landmarks", [], "landmarks: "),
        ("landmarks", ["a", "b", "c", "d", "a"], "landmarks: listed twice: a"),
        ("landmarks", ["a", "b", "c", "d", 5], "landmarks: 5 in landmarks is not text; put it in quotes"),
        ("landmarks", "abc", "landmarks: "),
        ("groups.0.landmarks", ["a"], "groups.0.landmarks: "),
        ("groups.0.landmarks", ["a", "x"], "groups.0.landmarks: 'x' is not in landmarks"),
        ("groups.0.landmarks", ["a", "a"], "groups.0.landmarks: 'a' is already in group 'mid'"),
        ("groups.0.axis", "x", "groups.0.axis: "),
        ("symmetry.axis", "sagittal", "symmetry.axis: "),
        ("symmetry.pairs", [["c", "x"]], "symmetry.pairs: 'x' is not in landmarks"),
        ("symmetry.pairs", [["c", "d"], ["d", "b"]], "symmetry.pairs: 'd' has two places in the symmetry"),
        ("symmetry.pairs", [["c", "c"]], "symmetry.pairs: 'c' has two places in the symmetry"),
        ("symmetry.midline", ["x"], "symmetry.midline: 'x' is not in landmarks"),
        ("symmetry.midline", ["a", "a"], "symmetry.midline: 'a' has two places in the symmetry"),
        ("symmetry.midline", ["c"], "symmetry.midline: 'c' has two places in the symmetry"),
        ("symmetry.pairs", [["c"]], "symmetry.pairs.0"),
        ("intensity.low", 99, "intensity: low (99.0) must be below high (99.0)"),
        ("intensity.high", 101, "intensity: percentiles must lie between 0 and 100"),
        ("intensity.low", -1, "intensity: percentiles must lie between 0 and 100"),
        ("intensity.method", "mean", "intensity.method: "),
        ("coarse.shape", [8, 0, 8], "coarse.shape.1: "),
        ("coarse.shape", [8, 8], "coarse.shape"),
        ("coarse.field_of_view_mm", [8, 8, 0], "coarse.field_of_view_mm.2: "),
        ("coarse.field_of_view_mm", [8, float("inf"), 8], "coarse.field_of_view_mm.1: "),
        ("fine.spacing_mm", [0, 1, 1], "fine.spacing_mm.0: "),
        ("fine.spacing_mm", [1, 1, -1], "fine.spacing_mm.2: "),
        ("fine.shape", [8, 8, 10], "fine: shape must be at least 8 and divisible by 4 for levels: 3"),
        ("fine.shape", [8, 4, 8], "fine: shape must be at least 8 and divisible by 4 for levels: 3"),
        ("groups.0.name", "../mid", "groups.0.name: "),
        ("fine.levels", 1, "fine.levels: "),
        ("fine.frame", "patient", "fine.frame: "),
        ("fine.heatmap_sigma_mm", 0, "fine.heatmap_sigma_mm: "),
        ("correlated", {"fusion": False}, "correlated: attention and the slice branch work on fused features"),
        (
            "correlated", {"axis_position": "mean", "slice_branch": False},
            "correlated: axis_position: mean needs slice_branch: true",
        ),
        ("correlated", {"axis_position": "middle"}, "correlated.axis_position: "),
        ("correlated", {"slice_weight": -1}, "correlated.slice_weight: "),
        ("sdr_radii_mm", [], "sdr_radii_mm: "),
        ("sdr_radii_mm", [1, 0], "sdr_radii_mm.1: "),
        ("low_confidence_below", 2, "low_confidence_below: "),
    ],
)  # fmt: skip
def test_a_wrong_task_names_the_key(path: str, value: Any, says: str, tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(changed(path, value)))
    with pytest.raises(TaskError) as caught:
        load_task(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert says in str(caught.value)
    assert caught.value.code == "task_invalid"


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(TaskError) as caught:
        parse_task(GOOD | {"colour": 1, "name": "", "sdr_radii_mm": [-1]}, "x")
    assert all(key in str(caught.value) for key in ("colour: ", "name: ", "sdr_radii_mm.0: "))


def test_landmark_in_two_groups() -> None:
    second = {"name": "other", "axis": "left-right", "landmarks": ["c", "a"]}
    with pytest.raises(TaskError, match=r"groups\.1\.landmarks: 'a' is already in group 'mid'"):
        parse_task(GOOD | {"groups": [*GOOD["groups"], second]}, "x")
    second |= {"name": "mid", "landmarks": ["c", "d"]}
    with pytest.raises(TaskError, match="groups: two groups have the same name"):
        parse_task(GOOD | {"groups": [*GOOD["groups"], second]}, "x")


def test_unquoted_names_are_not_guessed(tmp_path: Path) -> None:
    file = tmp_path / "task.yaml"
    file.write_text(yaml.safe_dump(GOOD).replace("- a\n- b\n- c\n- d", "- a\n- b\n- c\n- d\n- 007\n- no"))
    with pytest.raises(TaskError, match="landmarks: 7 in landmarks is not text; put it in quotes"):
        load_task(file)


@pytest.mark.parametrize("key", ["groups", "symmetry"])
def test_numbers_as_names_elsewhere(key: str) -> None:
    path, value = {"groups": ("groups.0.landmarks", ["a", 2]), "symmetry": ("symmetry.pairs", [["c", 2]])}[key]
    with pytest.raises(TaskError, match=path.replace(".", r"\.")):
        parse_task(changed(path, value), "x")


def test_windows_take_any_values() -> None:
    assert parse_task(GOOD | {"intensity": {"method": "window", "low": -1000, "high": 3000}}, "x").intensity == (
        Intensity(method="window", low=-1000, high=3000)
    )


def test_files_that_are_no_task(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"none\.yaml: no such task file"):
        load_task(tmp_path / "none.yaml")
    with pytest.raises(TaskError, match="cannot be read"):
        load_task(tmp_path)
    for text, says in (
        ("name: [a", "is not valid YAML"),
        ("- a\n- b\n", "a task is a mapping of keys, not list"),
        ("", "a task is a mapping of keys, not NoneType"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(TaskError, match=r"bad\.yaml: " + says) as caught:
            load_task(tmp_path / "bad.yaml")
        assert "\n" not in str(caught.value)
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00name")
    with pytest.raises(TaskError, match="not UTF-8 text"):
        load_task(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n")
    with pytest.raises(TaskError, match=r"line 2: has the YAML alias \*a"):
        load_task(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("[" * 5000 + "]" * 5000)
    with pytest.raises(TaskError, match="nested too deeply"):
        load_task(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("name: " + "x" * (1 << 20))
    with pytest.raises(TaskError, match="larger than a task file can be"):
        load_task(tmp_path / "bad.yaml")


def test_a_task_cannot_be_changed(shipped: Task) -> None:
    with pytest.raises(ValueError, match="frozen"):
        shipped.name = "other"


DISTANCE = {"name": "length", "type": "distance", "points": ["a", "b"]}


@pytest.mark.parametrize(
    ("measurement", "says"),
    [
        (DISTANCE | {"points": ["a", "e"]}, "measurements: 'length' is of 'e', which is not in landmarks"),
        (DISTANCE | {"points": ["a", 1]}, "1 in points is not text"),
        (DISTANCE | {"points": ["a", "b", "c"]}, "measurements.0: distance is of 2 points, not 3"),
        (DISTANCE | {"points": ["a", "a"]}, "the same point twice"),
        (DISTANCE | {"type": "angle-of-lines", "points": ["a", "b", "c", "c"]}, "the same point twice"),
        (DISTANCE | {"type": "length"}, "measurements.0.type"),
        (DISTANCE | {"name": ""}, "measurements.0.name"),
    ],
)
def test_a_wrong_measurement_is_named(measurement: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=says):
        parse_task({**GOOD, "measurements": [measurement]}, "task")
    (tmp_path / "more.yaml").write_text(yaml.safe_dump({"measurements": [measurement]}))
    with pytest.raises(TaskError, match=says) as caught:
        add_measurements(parse_task(GOOD, "task"), tmp_path / "more.yaml")
    assert "more.yaml" in caught.value.message


def test_measurements_of_a_file_come_after_those_of_the_task(tmp_path: Path) -> None:
    task = parse_task({**GOOD, "measurements": [DISTANCE]}, "task")
    path = tmp_path / "more.yaml"
    shared = {"name": "gonial", "type": "angle-of-lines", "points": ["a", "b", "a", "c"]}
    path.write_text(yaml.safe_dump({"measurements": [shared]}))
    extended = add_measurements(task, path)
    assert [one.name for one in extended.measurements] == ["length", "gonial"]
    assert extended.model_copy(update={"measurements": task.measurements}) == task
    path.write_text(yaml.safe_dump({"measurements": [DISTANCE]}))
    with pytest.raises(TaskError, match="two measurements have the same name"):
        add_measurements(task, path)
    path.write_text("[]")
    with pytest.raises(TaskError, match="no key 'measurements'"):
        add_measurements(task, path)
    with pytest.raises(TaskError, match="no such file of measurements"):
        add_measurements(task, tmp_path / "none.yaml")
