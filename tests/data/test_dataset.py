"""Training folders and splits, on the real data and on folders with something missing."""

import json

import numpy as np
import pytest

from trt_landmarks.data.annotations import write_mrk_json
from trt_landmarks.data.dataset import k_folds, load_dataset, split_from_file
from trt_landmarks.errors import DatasetError, LandmarkFileError
from trt_landmarks.task.task import load_task


@pytest.fixture
def task(repo_root):
    full = load_task(repo_root / "tasks" / "mouse-skull.yaml")
    return full.model_copy(update={"landmarks": ("1", "2"), "groups": (), "symmetry": None})


def fill(folder, images, landmarks):
    """A training folder; scans are never read here, so empty files will do."""
    (folder / "images").mkdir()
    (folder / "landmarks").mkdir()
    for name in images:
        (folder / "images" / name).touch()
    for case, names in landmarks.items():
        write_mrk_json(folder / "landmarks" / f"{case}.mrk.json", {name: np.arange(3.0) for name in names})
    return folder


def test_real_folder(data_root, repo_root):
    full = load_task(repo_root / "tasks" / "mouse-skull.yaml")
    dataset = load_dataset(data_root / "mouse-skull-ct" / "posed", full)
    assert len(dataset) == 41
    assert dataset.points.shape == (41, 45, 3)
    assert dataset.points.dtype == np.float64
    assert np.isfinite(dataset.points).all()
    assert list(dataset.ids) == sorted(dataset.ids)
    assert (dataset.unannotated, dataset.without_image, dataset.warnings) == ((), (), [])
    case = next(case for case in dataset if case.id == "LG.J_")  # a name with a dot
    assert case.image.name == "LG.J_.nii.gz"
    path = data_root / "mouse-skull-ct" / "posed" / "landmarks" / "LG.J_.mrk.json"
    first = json.loads(path.read_text())["markups"][0]["controlPoints"][0]["position"]
    np.testing.assert_array_equal(case.points[0], first)


def test_real_split(data_root):
    posed = data_root / "mouse-skull-ct" / "posed" / "images"
    ids = [path.name.removesuffix(".nii.gz") for path in posed.glob("*.nii.gz")]
    split = split_from_file(data_root / "mouse-skull-ct" / "split.json", ids)
    assert (len(split.train), len(split.validation)) == (36, 5)
    assert set(split.train) | set(split.validation) == set(ids)
    with pytest.raises(DatasetError, match="not in the dataset: 129X1_SVJ_, AKR_J_"):
        split_from_file(data_root / "mouse-skull-ct" / "split.json", ids[:0])


def test_what_is_left_out_is_listed(tmp_path, task):
    folder = fill(
        tmp_path,
        ["b.nii.gz", "a.nrrd", "c.mha", "undefined.nii"],
        {"a": ["1"], "b": ["2", "1", "other"], "undefined": [], "lost": ["1", "2"]},
    )
    dataset = load_dataset(folder, task)
    assert dataset.ids == ("a", "b")
    np.testing.assert_array_equal(dataset.cases[0].points, [[0, 1, 2], [np.nan] * 3])
    assert dataset.unannotated == ("c", "undefined")
    assert dataset.without_image == ("lost",)
    assert [text.removeprefix(f"{folder}: ") for text in dataset.warnings] == [
        "left out without annotated landmarks: c, undefined.",
        "left out without a scan: lost.",
    ]
    assert [case.id for case in dataset.subset(["b", "a"])] == ["b", "a"]
    (folder / "landmarks" / "a.csv").write_text("name,x,y,z\n1,5,5,5\n")
    again = load_dataset(folder, task)
    assert again.other_files == ("a.csv",) and len(again.warnings) == 3
    np.testing.assert_array_equal(again.points, dataset.points)
    with pytest.raises(DatasetError, match="has no annotated case c, x"):
        dataset.subset(["a", "c", "x"])


def test_missing_things_are_named(tmp_path, task):
    with pytest.raises(DatasetError, match="no such folder"):
        load_dataset(tmp_path / "none", task)
    with pytest.raises(DatasetError, match="has no folder 'images'"):
        load_dataset(tmp_path, task)
    (tmp_path / "images").mkdir()
    with pytest.raises(DatasetError, match="has no folder 'landmarks'"):
        load_dataset(tmp_path, task)
    (tmp_path / "landmarks").mkdir()
    with pytest.raises(DatasetError, match="images: no scans"):
        load_dataset(tmp_path, task)
    (tmp_path / "images" / "a.nii.gz").touch()
    with pytest.raises(DatasetError, match=r"none of its 1 scans is annotated. .* e\.g\. a\.mrk\.json"):
        load_dataset(tmp_path, task)


def test_a_landmark_that_is_nowhere_annotated_is_named(tmp_path, task):
    with pytest.raises(DatasetError, match=r"no case is annotated with 2\. Annotate"):
        load_dataset(fill(tmp_path, ["a.nii.gz", "b.nii.gz"], {"a": ["1"], "b": ["1", "3"]}), task)


def test_annotations_of_another_task_are_refused(tmp_path, task):
    with pytest.raises(LandmarkFileError, match=r"b.mrk.json: has none of the task's landmarks"):
        load_dataset(fill(tmp_path, ["a.nii.gz", "b.nii.gz"], {"a": ["1", "2"], "b": ["x"]}), task)


@pytest.mark.parametrize("key", ["val", "validation", "valid"])
def test_split_keys(tmp_path, key):
    (tmp_path / "split.json").write_text(json.dumps({"train": ["b", "a"], key: ["c"], "test": ["d"], "note": "x"}))
    split = split_from_file(tmp_path / "split.json", "abcde")
    assert (split.train, split.validation) == (("b", "a"), ("c",))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "line 1: is not valid JSON"),
        ("[]", "needs the lists 'train' and 'val'; it has neither"),
        ('{"train": ["a"], "dev": ["b"]}', "it has train, dev"),
        ('{"train": ["a"], "val": ["b"], "valid": ["c"]}', "needs the lists"),
        ('{"train": ["a", "b"], "val": ["b"]}', "'b' is in 'train' and in 'val'"),
        ('{"train": ["a"], "val": ["b"], "test": ["a"]}', "'a' is in 'train' and in 'test'"),
        ('{"train": ["a", "a"], "val": ["b"]}', "'a' is twice in 'train'"),
        ('{"train": ["a"], "val": ["x", "y"]}', "not in the dataset: x, y"),
        ('{"train": ["a"], "val": []}', "'val' is empty"),
        ('{"train": ["a"], "val": "b"}', "'val' is not a list of case ids"),
        ('{"train": [1], "val": ["b"]}', "'train' is not a list of case ids"),
    ],
)
def test_a_bad_split_says_why(tmp_path, text, says):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(DatasetError, match=r"split\.json: ") as caught:
        split_from_file(tmp_path / "split.json", ["a", "b", "c"])
    assert says in str(caught.value)


def test_folds_validate_every_case_once():
    ids = [f"case{n}" for n in range(11)]
    folds = k_folds(ids, 3, seed=1)
    assert sorted(len(fold.validation) for fold in folds) == [3, 4, 4]
    assert sorted(one for fold in folds for one in fold.validation) == sorted(ids)
    for fold in folds:
        assert sorted(fold.train + fold.validation) == sorted(ids)
    assert k_folds(ids[::-1], 3, seed=1) == folds
    assert k_folds(ids, 3, seed=2) != folds


def test_folds_are_the_same_everywhere():
    assert [fold.validation for fold in k_folds(list("abcdef"), 3)] == [("c", "f"), ("b", "d"), ("a", "e")]


@pytest.mark.parametrize(("ids", "k"), [("abc", 1), ("abc", 4), ("aab", 2), ("", 2)])
def test_impossible_folds(ids, k):
    with pytest.raises(DatasetError, match=f"cannot make {k} folds of {len(ids)} cases"):
        k_folds(list(ids), k)
