"""Scans to calibrate on and to measure on: chosen by a seed, never the same, and told apart by their content."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from tests.calibration.folders import annotate, write_scans
from tests.cli.test_cli import make_scan
from trt_landmarks.calibration.scans import CalibrationScans, choose_scans, read_scans
from trt_landmarks.errors import LandmarkFileError, ScanError
from trt_landmarks.scan import ScanFile, read_scan, write_scan

IDS = [f"head{n:02}" for n in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve files that only have names."""
    root = tmp_path_factory.mktemp("named") / "scans"
    root.mkdir()
    for id in IDS:
        (root / f"{id}.nii.gz").write_bytes(id.encode())
    return root


def ids(files: tuple[ScanFile, ...]) -> list[str]:
    return [file.id for file in files]


@given(
    count=st.integers(1, 14),
    held_out=st.integers(1, 14),
    seed=st.integers(0, 2**32 - 1),
    validation=st.lists(st.sampled_from([*IDS, "elsewhere"]), unique=True),
)
def test_no_scan_is_in_both_sets(folder: Path, count: int, held_out: int, seed: int, validation: list[str]) -> None:
    unseen = set(validation) & set(IDS)
    enough = count <= 12 - len(unseen) and (unseen or count < 12)
    if not enough:
        with pytest.raises(ScanError) as caught:
            choose_scans(folder, count, held_out, seed=seed, validation=validation)
        assert caught.value.code == "too_few_scans"
        return
    chosen = choose_scans(folder, count, held_out, seed=seed, validation=validation)
    calibration, apart = ids(chosen.calibration), ids(chosen.held_out)
    assert not set(calibration) & set(apart)
    assert len(calibration) == count == len(set(calibration)) and calibration == sorted(calibration)
    assert len(apart) == min(held_out, 12 - count) == len(set(apart)) and apart == sorted(apart)
    assert not unseen & set(calibration)  # never calibrated on
    assert unseen <= set(apart) or set(apart) <= unseen  # and held out first
    assert choose_scans(folder, count, held_out, seed=seed, validation=validation[::-1]) == chosen


def test_the_seed_decides(folder: Path) -> None:
    chosen = {tuple(ids(choose_scans(folder, 4, 3, seed=seed).calibration)) for seed in range(20)}
    assert len(chosen) > 10
    assert {id for few in chosen for id in few} == set(IDS)
    assert choose_scans(folder, 4, 3, seed=3).seed == 3
    # More to measure on leaves alone what is calibrated on.
    few, many = (choose_scans(folder, 4, held_out, seed=5) for held_out in (1, 6))
    assert few.calibration == many.calibration and set(few.held_out) < set(many.held_out)


def test_too_few_scans_are_counted(folder: Path) -> None:
    with pytest.raises(ScanError, match=r"scans: has 12 scans; calibrating on 12 and .* takes more\. .*--n\.$") as e:
        choose_scans(folder, 12)
    assert str(folder) in e.value.message
    with pytest.raises(ScanError, match=r"has 12 scans, 2 of them for validation; calibrating on 11 and"):
        choose_scans(folder, 11, validation=IDS[:2])
    assert len(choose_scans(folder, 10, validation=IDS[:2]).held_out) == 2


def test_no_scans_at_all(tmp_path: Path) -> None:
    for path, code in ((tmp_path, "scans_none"), (tmp_path / "gone", "scan_missing")):
        with pytest.raises(ScanError) as caught:
            choose_scans(path, 1)
        assert caught.value.code == code


@pytest.mark.parametrize("place", ["scans/landmarks", "landmarks"])
def test_annotations_are_found_in_the_folder_or_beside_it(tmp_path: Path, place: str) -> None:
    scans = tmp_path / "scans"
    write_scans(scans / "images" if place.startswith("scans") else scans, IDS[:5])
    annotate(tmp_path / place, [*IDS[:3], "another"], ["a", "b"])
    chosen = choose_scans(scans, 1, 4, seed=1)
    expected = {id: tmp_path / place / f"{id}.mrk.json" for id in ids(chosen.held_out) if id in IDS[:3]}
    assert chosen.annotations == expected and len(expected) >= 2
    truth = chosen.truth(["b", "c", "a"])
    assert truth is not None and truth.shape == (4, 3, 3)
    for row, id in enumerate(ids(chosen.held_out)):
        assert np.isnan(truth[row, 1]).all()
        assert np.isfinite(truth[row, [0, 2]]).all() == (id in expected)
        if id in expected:
            points = np.random.default_rng(IDS.index(id)).uniform(3, 17, (2, 3))
            assert np.allclose(truth[row, [2, 0]], points)


def test_annotations_elsewhere_and_none(tmp_path: Path) -> None:
    write_scans(tmp_path / "scans", IDS[:3])
    assert choose_scans(tmp_path / "scans", 1).truth(["a"]) is None
    annotate(tmp_path / "mine", IDS[:3], ["a"])
    chosen = choose_scans(tmp_path / "scans", 1, landmarks=tmp_path / "mine")
    assert set(chosen.annotations) == set(ids(chosen.held_out))
    with pytest.raises(LandmarkFileError, match="none of the task's landmarks"):
        chosen.truth(["another"])
    with pytest.raises(LandmarkFileError, match="no such folder"):
        choose_scans(tmp_path / "scans", 1, landmarks=tmp_path / "gone")


def flipped(path: Path) -> None:
    """Change one bit in the middle of a file, and neither its size nor its times."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_digests_are_those_of_the_content(tmp_path: Path) -> None:
    paths = write_scans(tmp_path / "scans", IDS[:4])
    annotations = annotate(tmp_path / "landmarks", IDS[:4], ["a"])
    chosen = choose_scans(tmp_path / "scans", 2, seed=2)
    before = chosen.digests()
    assert set(before["calibration"]) == set(ids(chosen.calibration))
    assert set(before["held_out"]) == set(before["annotations"]) == set(ids(chosen.held_out))
    for path in (*paths, *annotations):
        os.utime(path, (1, 1))  # time plays no part
    assert choose_scans(tmp_path / "scans", 2, seed=2).digests() == before
    for use, file in (("calibration", chosen.calibration[0]), ("held_out", chosen.held_out[1])):
        flipped(file.path)
        after = chosen.digests()
        assert [id for id in before[use] if after[use][id] != before[use][id]] == [file.id]
        assert {name for name in before if after[name] != before[name]} == {use}
        before = after
    flipped(annotations[IDS.index(chosen.held_out[0].id)])
    after = chosen.digests()
    assert {name for name in before if after[name] != before[name]} == {"annotations"}


@pytest.mark.parametrize(("ending", "voxels"), [(".mhd", ".raw"), (".nhdr", ".raw"), (".nhdr", ".raw.gz")])
def test_voxels_in_a_file_of_their_own_belong_to_the_digest(tmp_path: Path, ending: str, voxels: str) -> None:
    (path,) = write_scans(tmp_path, ["head"], ending)
    if voxels.endswith(".gz"):
        path.with_suffix(".raw").unlink()
        SimpleITK.WriteImage(SimpleITK.Cast(SimpleITK.Image(3, 4, 5, SimpleITK.sitkInt8), 2), str(path), True)
    (tmp_path / "unrelated.raw").write_bytes(b"1234")
    chosen = CalibrationScans((ScanFile("head", path),), ())
    before = chosen.digests()
    flipped(tmp_path / "unrelated.raw")
    assert chosen.digests() == before
    flipped(tmp_path / f"head{voxels}")
    assert chosen.digests() != before
    changed = chosen.digests()
    flipped(path)
    assert chosen.digests() != changed


def test_a_dicom_folder_is_one_scan_with_one_digest(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for n in range(3):
            (tmp_path / name / f"{n}.dcm").write_bytes(bytes([n] * 100))
    chosen = choose_scans(tmp_path, 1)
    (calibration,) = chosen.calibration
    assert {calibration.id, chosen.held_out[0].id} == {"one", "two"}
    before = chosen.digests()
    assert list(before["calibration"].values()) == list(before["held_out"].values())  # the same files
    flipped(calibration.path / "1.dcm")
    after = chosen.digests()
    assert after["held_out"] == before["held_out"] and after["calibration"] != before["calibration"]
    (calibration.path / "2.dcm").rename(calibration.path / "3.dcm")
    assert chosen.digests()["calibration"] != after["calibration"]


def test_scans_are_read_under_the_ids_they_were_found_by(tmp_path: Path) -> None:
    for name in ("left", "right"):
        write_scans(tmp_path / name, ["head"])
    chosen = choose_scans(tmp_path, 1)
    files = (*chosen.calibration, *chosen.held_out)
    scans = read_scans(files)
    assert {scan.id for scan in scans} == {"left_head", "right_head"}
    assert [scan.path for scan in scans] == [file.path for file in files]
    assert np.array_equal(scans[0].voxels, read_scan(files[0].path).voxels)


def test_a_broken_scan_is_named(tmp_path: Path, real: Path) -> None:
    paths = write_scans(tmp_path, IDS[:3])
    whole = real.read_bytes()
    paths[1].write_bytes(whole[: len(whole) // 2])
    files = choose_scans(tmp_path, 2).calibration + choose_scans(tmp_path, 2).held_out
    with pytest.raises(ScanError, match=r"head01\.nii\.gz: .*It was chosen for calibration; nothing was built") as e:
        read_scans(files)
    assert e.value.code == "scan_truncated" and "take it out of the folder" in e.value.remedy
    assert "\n" not in str(e.value)


def test_what_is_measured_on_must_not_be_calibrated_on_under_another_name(tmp_path: Path) -> None:
    """Nor in another format, or compressed."""
    for number in range(4):
        make_scan(tmp_path / f"{number}.nii.gz", number)
    chosen = choose_scans(tmp_path, 2, 2)
    chosen.check_apart()
    write_scan(read_scan(chosen.calibration[0]), tmp_path / "copy.mha")
    copied = replace(chosen, held_out=(chosen.held_out[0], ScanFile("copy", tmp_path / "copy.mha")))
    with pytest.raises(ScanError, match=r"copy\.mha: has the same voxels as") as caught:
        copied.check_apart()
    assert caught.value.code == "scans_equal"
