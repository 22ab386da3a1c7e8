"""File names of cases: safe, distinct, and the id itself where that will do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_landmarks.outputs.names import FileNames

#: Texts that are alike, so that they clash.
similar = st.text(alphabet="aA/._: \u00e9e\u0301", min_size=1, max_size=4)
ids = st.lists(st.text(min_size=1, max_size=12) | similar, max_size=8)


@given(ids=ids)
def test_any_ids_become_distinct_names_inside_the_folder(ids: list[str]) -> None:
    names = FileNames()
    given = {case_id: names.name(case_id) for case_id in ids}
    folder = Path("/some/folder")
    for case_id, name in given.items():
        path = folder / f"{name}.mrk.json"
        assert path.parent == folder and path.resolve().parent == folder
        assert name.isprintable() and not name.startswith(".") and len(f"{name}.mrk.json".encode()) < 255
        assert names.name(case_id) == name
    assert len({name.casefold() for name in given.values()}) == len(given)


@pytest.mark.parametrize("case_id", ["LG.J_", "head 3", "Köpfchen", "129S1_SVLMJ_", "a" * 160])
def test_a_safe_id_is_its_own_name(case_id: str) -> None:
    assert FileNames().name(case_id) == case_id


@pytest.mark.parametrize(
    ("case_id", "start"),
    [
        ("../../etc/passwd", "_.._etc_passwd-"), ("/abs", "_abs-"), ("..", "case-"), (".hidden", "hidden-"),
        ("a\0b\n", "a_b_-"), ("C:\\x", "C__x-"), ("con", "_con-"), ("nul.nii", "_nul.nii-"),
        ("x" * 500, "x" * 160 + "-"), ("end. ", "end-"), ("\ud800", "_-"), ("\u202egpj", "_gpj-"),
    ],
)  # fmt: skip
def test_an_unsafe_id_is_mended_and_marked(case_id: str, start: str) -> None:
    name = FileNames().name(case_id)
    assert name.startswith(start) and len(name) == len(start) + 8


def test_names_differ_on_disks_that_ignore_case() -> None:
    names = FileNames()
    assert names.name("Head") == "Head"
    assert names.name("head").startswith("head-")
    assert names.name("a:b") != names.name("a?b")
