"""The record beside a plan: complete, and whatever is wrong with it is one error that says what to do."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.engines.tensorrt.plans import COMMAND, change
from trt_landmarks.engines.tensorrt.record import PlanRecord, record_path, set_gate
from trt_landmarks.errors import EngineError
from trt_landmarks.files import file_sha256


def test_a_record_is_read_as_it_was_written(plan: Path) -> None:
    record = PlanRecord.read(plan)
    before = record_path(plan).read_bytes()
    assert (record.graph, record.command, record.gate) == ("coarse", COMMAND, {"mean_voxel": 0.01})
    assert record.plan_sha256 == file_sha256(plan)
    assert record.profile["volume"][2][0] == 4
    record.write(plan)
    assert record_path(plan).read_bytes() == before
    assert json.loads(before)["format"] == 1


def test_gate_figures_come_after_the_build_and_change_nothing_else(plan: Path) -> None:
    before = PlanRecord.read(plan)
    after = set_gate(plan, {"max_voxel": 0.2, "points": [0.1, 0.2]})
    assert after.gate == {"max_voxel": 0.2, "points": [0.1, 0.2]}
    assert PlanRecord.read(plan) == after
    assert {**before.as_data(), "gate": after.gate} == after.as_data()


def test_a_record_that_cannot_be_written_stays_as_it_was(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {file.name: file.read_bytes() for file in plan.parent.iterdir()}

    def full(*paths: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(EngineError, match=r"coarse\.plan\.json: cannot be written: no space left on device"):
        set_gate(plan, {})
    assert {file.name: file.read_bytes() for file in plan.parent.iterdir()} == before


def refused(plan: Path) -> EngineError:
    with pytest.raises(EngineError) as error:
        PlanRecord.read(plan, COMMAND)
    assert "coarse.plan" in error.value.message
    assert error.value.remedy == f"Build the plan again: {COMMAND}."
    assert error.value.code == "plan_unrecorded"
    return error.value


def test_a_missing_record(plan: Path) -> None:
    record_path(plan).unlink()
    assert "no such record of this plan" in refused(plan).message


def test_every_truncated_record_is_refused(plan: Path) -> None:
    content = record_path(plan).read_bytes().rstrip()
    for length in range(0, len(content), 11):
        record_path(plan).write_bytes(content[:length])
        refused(plan)


def test_no_flipped_bit_of_a_record_makes_a_traceback(plan: Path) -> None:
    """Some make another valid record (a letter of a name): the plan's SHA-256 and what is asked for are for those."""
    good = PlanRecord.read(plan)
    content = record_path(plan).read_bytes()
    damaged = 0
    for place in range(0, len(content), 3):
        spoiled = bytearray(content)
        spoiled[place] ^= 1 << place % 8
        record_path(plan).write_bytes(spoiled)
        try:
            assert PlanRecord.read(plan) != good
        except EngineError as error:
            damaged += 1
            assert "coarse.plan.json" in error.message and error.remedy
    assert damaged > len(content) / 9


@pytest.mark.parametrize(
    "text",
    ["", "null", "3", "[]", '"text"', "{}", "[" * 100_000, "\x00", '{"landmarks": []}']
    + [f'{{"format": {value}}}' for value in ("1", '"1"', "true", "1e400", "[]")],
)
def test_foreign_files_are_refused(plan: Path, text: str) -> None:
    record_path(plan).write_text(text)
    refused(plan)


def test_bytes_that_are_no_text(plan: Path) -> None:
    record_path(plan).write_bytes(b"\xff\xfe\x80{")
    assert "is not a record of this plan: it is not UTF-8 text" in refused(plan).message


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"format": 2}, "has format 2; this version reads 1"),
        ({"format": None}, "has format None; this version reads 1"),
        ({"plan_sha256": "0" * 63}, "plan_sha256 is no SHA-256"),
        ({"source_sha256": "G" * 64}, "source_sha256 is no SHA-256"),
        ({"seconds": "fast"}, "seconds: "),
        ({"version": 11}, "version: "),
        ({"note": ""}, "note: "),
        ({"flavour": "openvino"}, "flavour is 'openvino'"),
        ({"flavour": "tensorrt"}, "target must say compute_capability, driver, gpu, platform"),
        ({"target": {}}, "target must say compute_capability"),
        ({"settings": {"workspace_bytes": -1}}, "workspace: -1"),
        ({"settings": {"version_compatible": True}}, "tensorrt-rtx has no version compatibility"),
        ({"settings": {"tf32": True}}, "settings.tf32"),
        ({"profile": {"patches": [[1], [1], [1]]}}, "profile and inputs do not name the same"),
        ({"profile": {"volume": [[1, 3], [1, 3]]}}, "profile.volume"),
        ({"profile": {"volume": [[1, 3], [1, 3], [1]]}}, "differ in their number of axes"),
        ({"inputs": [], "profile": {}}, "no inputs or no outputs"),
        ({"outputs": [{"name": "points", "dtype": "float32"}]}, "outputs.0.shape"),
        ({"gate": []}, "gate: "),
    ],
)
def test_damaged_entries_are_named(plan: Path, entries: dict[str, Any], says: str) -> None:
    change(plan, **entries)
    assert says in refused(plan).message


def test_a_missing_entry_is_named(plan: Path) -> None:
    content = json.loads(record_path(plan).read_text())
    for name in content:
        record_path(plan).write_text(json.dumps({key: value for key, value in content.items() if key != name}))
        assert name == "format" or name in refused(plan).message
