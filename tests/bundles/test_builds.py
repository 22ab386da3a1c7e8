"""Builds: whole or not there, made once, and refused if they are not what their record says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trt_landmarks.bundles.builds import RECORD, find_build, list_builds, make_build, own_graphs
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.errors import EngineError
from trt_landmarks.files import file_sha256

FP16 = "onnxruntime-fp16"


def content(folder: Path) -> dict[str, str]:
    """Everything below a folder, by name."""
    return {str(p.relative_to(folder)): file_sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def make(bundle: Bundle, recipe: dict[str, Any], text: str = "made") -> Any:
    """A build of one file per graph."""

    def write(folder: Path) -> dict[str, Any]:
        for graph in bundle.graphs:
            (folder / graph).write_text(text)
        return {"graphs": {graph: graph for graph in bundle.graphs}, "gate": None}

    return make_build(bundle, "onnxruntime", "fp16", recipe, "make it so", write)


def test_own_graphs_are_a_build_that_needs_no_making(bundle: Bundle) -> None:
    own = own_graphs(bundle)
    assert own.files == bundle.graphs and "nothing to build" in own.summary()
    own.verify()
    assert own.digests == {graph: file_sha256(path) for graph, path in bundle.graphs.items()}
    assert not bundle.builds_folder.exists()


def test_a_build_is_recorded_and_found(built: Bundle) -> None:
    (found,) = list_builds(built, pytest.fail)
    assert (found.engine, found.precision, found.status) == ("onnxruntime", "fp16", "found")
    found.verify()
    assert find_build(built, "onnxruntime", "fp16") == found
    assert find_build(built, "onnxruntime", "int8") is None
    assert found.record["model"]["sha256"] == built.sha256
    assert set(found.record["files"]) | {RECORD} == set(content(found.folder))
    assert str(built.root) not in json.dumps(found.record)  # a build may be moved with its bundle


def test_the_same_recipe_is_made_once_and_any_other_anew(bundle: Bundle) -> None:
    first = make(bundle, {"a": 1, "b": [2]}, "first")
    again = make(bundle, {"b": [2], "a": 1}, "again")
    assert (first.status, again.status, again.record) == ("built", "cached", first.record)
    other = make(bundle, {"a": 1, "b": [3]}, "other")
    assert other.status == "built" and (other.folder / "coarse").read_text() == "other"
    (other.folder / "coarse").write_text("spoiled")
    assert make(bundle, {"a": 1, "b": [3]}, "mended").status == "built"
    assert make(bundle, {"a": 1, "b": [3]}).status == "cached"
    os.utime(other.folder / "coarse", (0, 0))  # time decides nothing
    assert make(bundle, {"a": 1, "b": [3]}).status == "cached"
    assert [path.name for path in bundle.builds_folder.iterdir()] == [FP16]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, EngineError("broken graph"), OSError(28, "No space left")])
def test_a_failure_leaves_older_builds_and_no_half_ones(built: Bundle, failure: BaseException) -> None:
    before = content(built.root)

    def fail(folder: Path) -> dict[str, Any]:
        (folder / "graphs").mkdir()
        (folder / "graphs" / "half").write_text("half")
        raise failure

    expected = EngineError if isinstance(failure, (EngineError, OSError)) else KeyboardInterrupt
    with pytest.raises(expected):
        make_build(built, "onnxruntime", "fp16", {"new": 1}, "", fail)
    assert content(built.root) == before
    assert [path.name for path in built.builds_folder.iterdir()] == [FP16]


def test_a_folder_that_cannot_be_written(bundle: Bundle) -> None:
    bundle.builds_folder.write_text("in the way")
    with pytest.raises(EngineError, match=r"cannot be written: .*Copy the bundle to a folder that you may write to"):
        make(bundle, {})


def test_a_file_system_without_room_for_it(bundle: Bundle) -> None:
    """The system itself refuses to write more than a limit, as a full disk does."""
    code = f"""
import resource, signal
from pathlib import Path
from trt_landmarks.bundles.builds import make_build
from trt_landmarks.bundles.bundle import open_bundle
from trt_landmarks.errors import EngineError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
def write(folder):
    (folder / "large").write_bytes(bytes(20_000))
    return {{"graphs": {{}}, "gate": None}}
try:
    make_build(open_bundle({str(bundle.root)!r}), "onnxruntime", "fp16", {{}}, "", write)
except EngineError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot be written: File too large. Copy the bundle to a folder that" in done.stdout
    assert not list(bundle.builds_folder.iterdir())


def test_a_killed_build_leaves_nothing_that_is_taken_for_one(built: Bundle) -> None:
    before = content(built.builds_folder / FP16)
    code = f"""
import os
from trt_landmarks.bundles.builds import make_build
from trt_landmarks.bundles.bundle import open_bundle
def write(folder):
    (folder / "half").write_text("half")
    os.kill(os.getpid(), 9)
make_build(open_bundle({str(built.root)!r}), "onnxruntime", "fp16", {{}}, "", write)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert [found.folder.name for found in list_builds(built, pytest.fail)] == [FP16]
    assert content(built.builds_folder / FP16) == before


def test_damaged_and_foreign_builds_are_left_out_with_a_warning(built: Bundle) -> None:
    folder = built.builds_folder
    good = folder / FP16
    (folder / ".onnxruntime-fp16.1234").mkdir()  # what a killed build leaves
    (folder / "empty").mkdir()
    shutil.copytree(good, folder / "tensorrt-fp16")  # not what its name says
    warnings: list[str] = []
    assert [found.folder for found in list_builds(built, warnings.append)] == [good]
    assert len(warnings) == 2 and all("It is not used." in text for text in warnings)

    record = json.loads((good / RECORD).read_text())
    for changed, says in (
        ({"format": 99}, "format 99"),
        ({"model": {"sha256": "0"}}, "another model"),
        ({"graphs": {**record["graphs"], "coarse": "../../graphs/coarse.onnx"}}, "is damaged"),
        ({"graphs": {}}, "is damaged"),
        ({"files": {**record["files"], "gone": "0"}}, "gone is missing"),
        ({"files": []}, "is damaged"),
        ({"gate": "good"}, "is damaged"),
        ({"command": None}, "is damaged"),
    ):
        (good / RECORD).write_text(json.dumps({**record, **changed}))
        warnings.clear()
        assert not list_builds(built, warnings.append)
        assert any(says in text for text in warnings), (changed, warnings)


@pytest.mark.parametrize("name", ["graphs/coarse.onnx", RECORD])
@pytest.mark.parametrize("how", ["cut", "flipped"])
def test_a_cut_or_flipped_file_is_found_out(built: Bundle, name: str, how: str) -> None:
    path = built.builds_folder / FP16 / name
    whole = path.read_bytes()
    middle = len(whole) // 2
    path.write_bytes(
        whole[:middle] if how == "cut" else whole[:middle] + bytes([whole[middle] ^ 16]) + whole[middle + 1 :]
    )
    if name == RECORD:
        found = list_builds(built)
        assert not found or found[0].record != json.loads(whole)  # a record is not hashed: its figures may be edited
    else:
        with pytest.raises(EngineError, match="SHA-256 differs"):
            list_builds(built, pytest.fail)[0].verify()


SLOW = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have switched it off
from pathlib import Path
from trt_landmarks.bundles.builds import make_build
from trt_landmarks.bundles.bundle import open_bundle
bundle = open_bundle(sys.argv[1])
def write(folder):
    for graph in bundle.graphs:
        (folder / graph).write_text("made")
    print("making", flush=True)
    time.sleep(float(sys.argv[2]))
    return {"graphs": {graph: graph for graph in bundle.graphs}, "gate": None}
for number in range(int(sys.argv[3])):
    recipe = {"a": [sys.argv[4], number], "versions": {}, "recipe": {}}
    make_build(bundle, "onnxruntime", "fp16", recipe, "make it so", write)
"""


def building(bundle: Bundle, seconds: float = 60, times: int = 1, recipe: str = "a") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, bundle.root, seconds, times, recipe]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "making\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_build_that_is_told_to_end_leaves_nothing(bundle: Bundle, number: signal.Signals) -> None:
    with building(bundle) as process:
        assert len(list(bundle.builds_folder.iterdir())) == 1
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode != 0 and not list(bundle.builds_folder.iterdir())


def test_what_a_killed_build_left_goes_with_the_next_one_and_nothing_else_does(bundle: Bundle) -> None:
    with building(bundle) as process:
        process.kill()
    (left,) = bundle.builds_folder.iterdir()
    (bundle.builds_folder / ".onnxruntime-int8.0123abcd.old").mkdir()
    (bundle.builds_folder / ".sensitivity.jsonl").write_text("{}")
    (bundle.builds_folder / ".hidden-folder").mkdir()
    with building(bundle, recipe="b") as other:
        (running,) = [one for one in bundle.builds_folder.glob(".onnxruntime-fp16.*") if one != left]
        make(bundle, {"c": 1})
        names = {one.name for one in bundle.builds_folder.iterdir()}
        assert names == {FP16, running.name, ".sensitivity.jsonl", ".hidden-folder"}
        other.kill()


def test_builds_of_one_kind_at_once_do_not_disturb_each_other(bundle: Bundle) -> None:
    runs = [building(bundle, 0.001, 20, recipe) for recipe in "abcd"]
    for run in runs:
        _, message = run.communicate(timeout=120)
        assert run.returncode == 0, message
    (found,) = list_builds(bundle, pytest.fail)
    found.verify()
    assert [one.name for one in bundle.builds_folder.iterdir()] == [FP16]
