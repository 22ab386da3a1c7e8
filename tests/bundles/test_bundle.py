"""Bundles: what is opened, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from trt_landmarks.bundles.bundle import MANIFEST, Bundle, open_bundle
from trt_landmarks.errors import BundleError, TaskError
from trt_landmarks.files import file_sha256
from trt_landmarks.task.graphs import graph_names


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle folder that a test may spoil."""
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle.root, folder)
    return folder


def change_manifest(folder: Path, **entries: object) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def test_a_bundle_names_its_task_graphs_and_shape(copy: Path) -> None:
    bundle = open_bundle(copy)
    assert set(bundle.graphs) == set(graph_names(bundle.task))
    assert all(path.is_file() for path in bundle.graphs.values())
    assert bundle.mean_shape.shape == (len(bundle.task.landmarks), 3)
    assert bundle.builds_folder == copy / "builds"
    assert bundle.sha256 == file_sha256(copy / MANIFEST)


def test_every_changed_byte_of_every_file_is_noticed(copy: Path) -> None:
    for file in open_bundle(copy).manifest["files"]:
        path = copy / file
        good = path.read_bytes()
        for position in (0, len(good) // 2, len(good) - 1):
            path.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
            with pytest.raises((BundleError, TaskError), match=path.name):
                open_bundle(copy)
        path.write_bytes(good[: len(good) // 2])
        with pytest.raises((BundleError, TaskError), match=path.name):
            open_bundle(copy)
        path.write_bytes(good)
    open_bundle(copy)


def test_a_missing_file_is_named(copy: Path) -> None:
    next(iter(open_bundle(copy).graphs.values())).unlink()
    with pytest.raises(BundleError, match="is missing"):
        open_bundle(copy)


def test_another_task_does_not_fit(copy: Path) -> None:
    bundle = open_bundle(copy)
    text = (copy / "task.yaml").read_text().replace(f"- {bundle.task.landmarks[-1]}\n", "")
    (copy / "task.yaml").write_text(text)
    with pytest.raises((BundleError, TaskError)):
        open_bundle(copy, verify=False)


@pytest.mark.parametrize(
    "entries",
    [
        {"format": 99},
        {"graphs": {"coarse": "../outside.onnx"}},
        {"graphs": {"coarse": "/outside.onnx"}},
        {"graphs": {}},
        {"files": {}},
        {"mean_shape_mm": [[0, 0, 0]]},
        {"mean_shape_mm": "none"},
    ],
)
def test_a_wrong_manifest_is_refused(copy: Path, entries: dict[str, object]) -> None:
    change_manifest(copy, **entries)
    with pytest.raises(BundleError):
        open_bundle(copy)


def test_a_truncated_manifest_is_refused(copy: Path) -> None:
    path = copy / MANIFEST
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BundleError, match="damaged"):
        open_bundle(copy)


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match="Shipped models: mouse-skull") as caught:
        open_bundle("no-such-model")
    assert caught.value.code == "model_missing"


def test_the_default_model_is_a_setting(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTLM_MODEL", str(copy))
    assert open_bundle().root == copy


def test_builds_of_a_shipped_model_go_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRTLM_MODEL", raising=False)
    monkeypatch.setenv("TRTLM_CACHE", str(tmp_path))
    bundle = open_bundle()
    assert bundle.shipped
    assert bundle.builds_folder.is_relative_to(tmp_path)
    assert bundle.sha256[:12] in str(bundle.builds_folder)


def test_a_shipped_name_wins_over_a_folder_of_that_name(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bundle.root, tmp_path / "mouse-skull")
    assert open_bundle("mouse-skull", verify=False).shipped
    for named in ("./mouse-skull", Path("mouse-skull")):
        assert open_bundle(named).task == tiny_bundle.task
