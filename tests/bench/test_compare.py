"""Two reports: regressions are found, noise is none, and what is not comparable is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.bench.reports import make_report
from trt_landmarks.bench.compare import compare, differences, read_report
from trt_landmarks.bench.ways import DEFAULT
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.cli import app
from trt_landmarks.errors import TrtlmError


@pytest.fixture(scope="module")
def old(tiny_bundle: Bundle) -> dict[str, Any]:
    return make_report(tiny_bundle, seed=1)


def regressed(changes: Any) -> set[str]:
    return {one.what for one in changes if one.regressed}


def test_a_way_that_became_slower_is_found(tiny_bundle: Bundle, old: dict[str, Any]) -> None:
    new = make_report(tiny_bundle, seed=2, torch=1.3, onnxruntime_fp32=1.05, torch_bf16=0.5)
    changes = {one.what: one for one in compare(old, new)}
    assert regressed(changes.values()) == {"torch, warm", "torch, cold"}
    assert changes["torch, warm"].ratio.value == pytest.approx(1.3, rel=0.05)
    assert changes["torch-bf16, warm"].ratio.value == pytest.approx(0.5, rel=0.05)
    assert regressed(compare(old, new, threshold=2)) >= {f"{DEFAULT}, warm", "torch, warm"}
    assert "REGRESSION" in changes["torch, warm"].line() and "REGRESSION" not in changes["torch-bf16, warm"].line()


def test_what_the_runs_differ_among_themselves_is_no_regression(tiny_bundle: Bundle) -> None:
    before, after = (make_report(tiny_bundle, seed=seed, noise=0.6) for seed in (3, 9))
    changes = [one for one in compare(before, after, threshold=0) if one.what.endswith("warm")]
    beyond = [one for one in changes if one.ratio.value > 1]
    assert beyond, "the seeds are to make something slower by chance"
    assert not regressed(changes)


def test_a_folder_that_became_slower_is_found(old: dict[str, Any]) -> None:
    slow = {name: [1.5 * second for second in seconds] for name, seconds in old["throughput"]["seconds"].items()}
    new = old | {"throughput": old["throughput"] | {"seconds": slow}}
    assert regressed(compare(old, new)) == {f"{DEFAULT}, folder", f"{DEFAULT} pipelined, folder"}
    assert not regressed(compare(old, old | {"throughput": None}))


def test_what_differs_is_told(old: dict[str, Any]) -> None:
    assert differences(old, old) == []
    other = old | {"machine": old["machine"] | {"processor": "Abacus"}, "scans": {"ids": ["z"]}}
    told = "; ".join(differences(old, other))
    assert "the scans (a, b before, z now)" in told and "Abacus now" in told


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    for text in ("[1]", "{}", "not JSON"):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(TrtlmError, match=r"a\.json: is not a report"):
            read_report(tmp_path / "a.json")
    with pytest.raises(TrtlmError, match="no such benchmark report"):
        read_report(tmp_path / "none.json")


def test_exit_codes_of_the_command(tiny_bundle: Bundle, old: dict[str, Any], tmp_path: Path) -> None:
    slower = make_report(tiny_bundle, seed=2, torch=1.3)
    other = slower | {"machine": slower["machine"] | {"cores": 999}}
    files = {}
    for name, content in (("old", old), ("slower", slower), ("other", other)):
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(json.dumps(content))

    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app, ["bench", *map(str, arguments)])

    same = run("--compare", files["old"], "--report", files["old"])
    assert same.exit_code == 0 and "0 slower" in same.output
    worse = run("--compare", files["old"], "--report", files["slower"])
    assert worse.exit_code == 1 and "torch, warm" in worse.output and "REGRESSION" in worse.output
    assert run("--compare", files["old"], "--report", files["slower"], "--threshold", 50).exit_code == 0
    refused = run("--compare", files["old"], "--report", files["other"])
    assert isinstance(refused.exception, TrtlmError)  # main() makes exit code 2 of it
    assert "the number of cores" in str(refused.exception) and "--force" in str(refused.exception)
    assert run("--compare", files["old"], "--report", files["other"], "--force").exit_code == 1
    assert isinstance(run("--report", files["old"]).exception, TrtlmError)
