"""Finding scans and naming them."""

from __future__ import annotations

import io
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


# --- patterns -----------------------------------------------------------------------------------------------


def test_patterns(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.nii", "a/old/y.nii", "b/x.nrrd", "b/z.mha", "ct/1/1.dcm", "ct/old/2.dcm")

    def found(include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> list[str]:
        files = find_scans([tmp_path], include=include, exclude=exclude)
        return [file.path.relative_to(tmp_path).as_posix() for file in files]

    assert found() == ["a/old/y.nii", "a/x.nii", "b/x.nrrd", "b/z.mha", "ct/1", "ct/old"]
    assert found(("*.nii",)) == ["a/old/y.nii", "a/x.nii"]
    assert found(("x.*", "ct/*")) == ["a/x.nii", "b/x.nrrd", "ct/1", "ct/old"]
    assert found((), ("old",)) == found((), ("old/",)) == ["a/x.nii", "b/x.nrrd", "b/z.mha", "ct/1"]
    assert found((), ("*/x.*", "ct")) == ["a/old/y.nii", "b/z.mha"]
    assert found(("a/*",), ("*y*",)) == ["a/x.nii"]
    assert [file.id for file in find_scans([tmp_path / "a" / "x.nii"], exclude=("*",))] == ["x"]
    with pytest.raises(ScanError, match="6 scans are left out") as caught:
        find_scans([tmp_path], include=("*.gz",))
    assert caught.value.code == "scans_none"


# --- links --------------------------------------------------------------------------------------------------


def test_links_count_once_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.nii", "in/sub/b.nii", "in/ct/1.dcm", "out/c.nii", "out/dicom/1.dcm", "out/dicom/below/d.nii")
    (tmp_path / "in" / "z.nii").symlink_to("a.nii")
    (tmp_path / "in" / "far.nii").symlink_to(tmp_path / "out" / "c.nii")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "ct" / "loop").symlink_to("..")
    (tmp_path / "in" / "again").symlink_to("ct")
    (tmp_path / "in" / "dicom").symlink_to(tmp_path / "out" / "dicom")
    (tmp_path / "in" / "gone.nii").symlink_to("nowhere.nii")
    found = [file.path.relative_to(tmp_path).as_posix() for file in find_scans([tmp_path / "in"])]
    assert found == ["in/a.nii", "in/again", "in/dicom", "in/far.nii", "in/gone.nii", "in/sub/b.nii"]


# --- lists --------------------------------------------------------------------------------------------------


def test_text_lists(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.nii", "in/b 1.nii", "in/sub/c.mha", "in/sub/d.mha", "in/ct/IM1.dcm")
    path = tmp_path / "in" / "list.txt"
    (tmp_path / "in" / "empty").mkdir()
    path.write_text(
        f"\ufeff# scans\n\n a.nii \r\nsub\n{tmp_path}/in/b 1.nii\ngone.nii\nct\na.nii\nempty\n", encoding="utf-8"
    )
    found = find_scans([path])
    assert [file.id for file in found] == ["a", "c", "d", "b 1", "gone", "ct", "empty"]
    assert found[0].path == tmp_path / "in" / "a.nii"
    assert ids(tmp_path / "in") == ["a", "b 1", "ct", "c", "d"]  # a list in a folder is no scan


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables(tmp_path: Path, separator: str) -> None:
    touch(tmp_path, "a.nii", "sub/c.mha", "sub/d.mha", "x, y.nii")
    path = tmp_path / "list.csv"
    rows = [("id", "age", "path"), ("one", "7", "a.nii"), ("many", "8", "sub"), ("", "", "gone.nii"), ("", "", "")]
    rows.append(("comma", "9", '"x, y.nii"'))
    path.write_text("\r\n".join(separator.join(row) for row in rows))
    assert ids(path) == ["one", "many_c", "many_d", "gone", "comma"]
    path.write_text("path\na.nii\n")
    assert ids(path) == ["a"]


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.nii", "sub/b.nii")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("a.nii\nsub\n"))
    assert [(file.id, str(file.path)) for file in find_scans(["-"])] == [("a", "a.nii"), ("b", "sub/b.nii")]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.txt", "# nothing\n", "scans_none"),
        ("a.csv", "path\n", "scans_none"),
        ("a.csv", "file,id\na.nii,1\n", "list_invalid"),
        ("a.csv", "path,id\na.nii,1\nb.nii,1\n", "list_invalid"),
        ("a.csv", 'path\n"' + "x" * 200_000 + '"\n', "list_invalid"),
        ("a.csv", "", "list_invalid"),
        ("a.csv", "path,id\na.nii,../up\n", "list_invalid"),
        ("a.csv", "path,id\na.nii,.hidden\n", "list_invalid"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, name: str, content: str, code: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ScanError) as caught:
        find_scans([tmp_path / name])
    assert caught.value.code == code and name in caught.value.message


def test_lists_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(bytes(range(256)))
    with pytest.raises(ScanError, match="not UTF-8"):
        find_scans([tmp_path / "a.txt"])
