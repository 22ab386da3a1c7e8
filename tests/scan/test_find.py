"""Finding scans and naming them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_landmarks.errors import ScanError
from trt_landmarks.scan import case_id, find_scans


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def ids(*paths: Path | str) -> list[str]:
    return [scan.id for scan in find_scans(paths)]


def test_real_folder(mouse_scans: list[Path]) -> None:
    found = find_scans([mouse_scans[0].parent])
    assert [scan.path for scan in found] == mouse_scans
    assert "LG.J_" in {scan.id for scan in found} and len({scan.id for scan in found}) == len(mouse_scans)


def test_folder_rules(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "in",
        *("b.nii.gz", "a/z.MHA", "a/c 1.nrrd", ".hidden.nii", ".git/x.nii", "notes.txt", "a/c 1.raw", ".nii.gz"),
        *("ct/1.dcm", "ct/2.dcm", "ct/more/3.dcm"),
    )
    found = find_scans([root])
    assert [(scan.id, scan.path.relative_to(root).as_posix()) for scan in found] == [
        ("c 1", "a/c 1.nrrd"), ("z", "a/z.MHA"), ("b", "b.nii.gz"), ("ct", "ct"), ("more", "ct/more"),
    ]  # fmt: skip


def test_clashing_ids(tmp_path: Path) -> None:
    touch(tmp_path, "s/a/x.nii", "s/b/x.nii", "s/y.nii", "t/y.nii.gz", "t/y.nrrd", "t/a_b.nii", "t/B.nii")
    assert ids(tmp_path / "s") == ["a_x", "b_x", "y"]
    assert ids(tmp_path / "s", tmp_path / "t") == ["a_x", "b_x", "s_y", "B", "a_b", "t_y", "t_y_2"]
    assert ids(tmp_path / "s" / "a" / "x.nii", tmp_path / "s" / "b" / "x.nii") == ["a_x", "b_x"]
    assert ids(tmp_path / "s" / "y.nii", tmp_path / "s" / "y.nii", tmp_path / "s") == ["y", "a_x", "b_x"]
    touch(tmp_path, "u/q.nii", "u/q.nrrd", "u/u_q_2.nii", "u/Q.mha")
    found = ids(tmp_path / "u")
    assert len(found) == 4 == len({id.casefold() for id in found})


def test_missing_and_empty(tmp_path: Path) -> None:
    for path, code in ((tmp_path / "gone", "scan_missing"), (tmp_path, "scans_none")):
        with pytest.raises(ScanError, match=r"\.nrrd") as caught:
            find_scans([path])
        assert caught.value.code == code and str(path) in caught.value.message


def test_unknown_files_named_explicitly_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "notes.doc")
    assert ids(tmp_path / "notes.doc") == ["notes.doc"]


def test_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = touch(tmp_path / "here", "1.dcm", "sub/x.nii")
    monkeypatch.chdir(root)
    assert ids(".") == ["here", "x"]
    assert case_id("sub/LG.J_.nii.gz") == "LG.J_"
