"""Model: one scan in every form gives the same points; many scans come in order; what cannot be read is told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trt_landmarks import Model, Result, Scan, read_landmarks, read_scan
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.errors import EngineError, ScanError, TrtlmError
from trt_landmarks.scan import write_scan


@pytest.fixture(scope="module")
def model(tiny_bundle: Bundle) -> Iterator[Model]:
    with Model.open(tiny_bundle.root, threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def path(small: Scan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An oblique piece of a real scan, as a file."""
    path = tmp_path_factory.mktemp("scans") / "piece.nii.gz"
    write_scan(small, path)
    return path


@pytest.fixture(scope="module")
def result(model: Model, path: Path) -> Result:
    return model.localize(path)


def ras(scan: Scan) -> np.ndarray:
    return np.diag([-1.0, -1, 1, 1]) @ scan.geometry.voxel_to_world_matrix


def test_every_form_of_a_scan_gives_the_same_points(model: Model, path: Path, result: Result) -> None:
    import SimpleITK

    scan = read_scan(path)
    array = scan.voxels.T
    forms = {
        "str": (str(path), "RAS"),
        "Scan": (scan, "RAS"),
        "SimpleITK": (SimpleITK.ReadImage(str(path)), "RAS"),
        "RAS": ((array, ras(scan)), "RAS"),
        "LPS": ((array, scan.geometry.voxel_to_world_matrix), "LPS"),
        "4D": ((array[..., None], ras(scan)), "RAS"),
    }
    try:
        import nibabel
    except ImportError:
        pass
    else:
        forms["nibabel"] = (nibabel.load(path), "RAS")
    for name, (form, frame) in forms.items():
        found = model.localize(form, frame=frame)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.points, result.points, atol=2e-4, err_msg=name)


def test_a_frame_is_never_guessed(model: Model, path: Path, result: Result) -> None:
    scan = read_scan(path)
    mistaken = model.localize((scan.voxels.T, ras(scan)), frame="LPS")
    assert np.abs(mistaken.points - result.points).max() > 1
    with pytest.raises(ScanError) as caught:
        model.localize((scan.voxels.T, ras(scan)), frame="lps")  # type: ignore[arg-type]
    assert caught.value.code == "usage"


@pytest.mark.parametrize(
    ("affine", "code"),
    [
        (np.eye(3), "scan_direction"),
        (np.diag([1, 1, 0, 1.0]), "scan_spacing"),
        (np.full((4, 4), np.nan), "scan_direction"),
    ],
)
def test_affines_that_are_none(model: Model, affine: np.ndarray, code: str) -> None:
    with pytest.raises(ScanError) as caught:
        model.localize((np.arange(27.0).reshape(3, 3, 3), affine))
    assert caught.value.code == code


def test_a_result_tells_everything(model: Model, result: Result, tmp_path: Path) -> None:
    count = len(model.landmarks)
    assert result.id == "piece" and result.names == model.landmarks and result.error is None
    assert result.points.shape == (count, 3) and result.confidence.shape == (count,)
    assert result.expected_error_mm.shape == result.error_90_mm.shape == (count,)
    np.testing.assert_array_equal(result["b"], result.points[1])
    with pytest.raises(KeyError):
        result["nothing"]
    assert json.loads(json.dumps(result.to_dict()))["id"] == "piece"
    table = result.to_dataframe()
    assert list(table["name"]) == list(model.landmarks) and table["x"].tolist() == result.points[:, 0].tolist()
    result.write_markups(tmp_path / "piece.mrk.json")
    back = read_landmarks(tmp_path / "piece.mrk.json")
    inside = [name for name, status in zip(result.names, result.status, strict=True) if status != "outside_scan"]
    for name in inside:
        np.testing.assert_allclose(back[name], result[name], atol=1e-4)


def test_many_scans_come_in_order_and_one_bad_scan_is_a_result(model: Model, path: Path, result: Result) -> None:
    taken = []

    def scans() -> Iterator[object]:
        for n in range(6):
            taken.append(n)
            yield path.with_name("missing.nii.gz") if n == 2 else 7 if n == 3 else path

    results = model.localize_many(scans())
    first = next(results)
    assert len(taken) <= 3  # read ahead, but not all
    rest = list(results)
    assert [r.id for r in (first, *rest)] == ["piece", "piece", "missing", "array", "piece", "piece"]
    assert [r.error is None for r in (first, *rest)] == [True, True, False, False, True, True]
    assert not rest[1].reliable and rest[1].points.shape == (0, 3)
    np.testing.assert_array_equal(rest[-1].points, result.points)
    with pytest.raises(TrtlmError):
        rest[1].write_markups("nowhere.mrk.json")


def test_what_cannot_be_had_is_refused(tiny_bundle: Bundle) -> None:
    with pytest.raises(EngineError):
        Model.open(tiny_bundle.root, engine="tensorrt")
    with pytest.raises(EngineError):
        Model.open(tiny_bundle.root, engine="nothing")


@pytest.mark.parametrize(
    ("chosen", "code"),
    [({"pose": "search"}, "pose_unknown"), ({"pose": "any"}, "usage"), ({"tta": True}, "no_symmetry")],
)
def test_pose_and_averaged_views_are_refused_where_the_model_lacks_what_they_need(
    tiny_bundle: Bundle, model: Model, path: Path, chosen: dict[str, Any], code: str
) -> None:
    for refused in (lambda: Model.open(tiny_bundle.root, **chosen), lambda: model.localize(path, **chosen)):
        with pytest.raises(TrtlmError) as caught:
            refused()
        assert caught.value.code == code


def test_a_closed_model_says_so(tiny_bundle: Bundle, path: Path) -> None:
    with Model.open(tiny_bundle.root, threads=1) as model:
        pass
    with pytest.raises(EngineError) as caught:
        model.localize(path)
    assert caught.value.code == "model_closed"
    assert "tiny" in repr(model)
