"""The command line: exit codes, one-line errors, and what it imports."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.geometry import Geometry
from trt_landmarks.results.predictions import SCHEMA_FILE
from trt_landmarks.scan import Scan, write_scan

GEOMETRY = Geometry((20, 22, 24), (0.9, 1.0, 1.1), (-3.0, 4.0, 5.0), np.eye(3))


def trtlm(*arguments: object, code: int | None = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, and check its exit code."""
    done = subprocess.run(
        [sys.executable, "-c", "from trt_landmarks.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done


def make_scan(path: Path, seed: int = 0) -> Path:
    """A small scan with structure."""
    rng = np.random.default_rng(seed)
    voxels = rng.integers(0, 255, (24, 22, 20), dtype=np.uint8)
    write_scan(Scan(path.name, path, voxels, GEOMETRY), path)
    return path


def read(path: Path) -> dict[str, object]:
    """A results file, checked against the schema."""
    content: dict[str, object] = json.loads(path.read_text())
    Draft202012Validator(json.loads(SCHEMA_FILE.read_text())).validate(content)
    return content


def imported_by(code: str) -> set[str]:
    """Top-level modules that a piece of code imports."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


HEAVY = {
    "torch", "tensorrt", "tensorrt_rtx", "modelopt", "onnx", "nvidia", "SimpleITK", "onnxruntime", "pydantic",
    "matplotlib", "openvino", "fastapi", "uvicorn", "highdicom",
}  # fmt: skip


def test_help_imports_nothing_heavy_and_is_quick() -> None:
    assert not imported_by("import trt_landmarks, trt_landmarks.cli") & HEAVY
    times = []
    for _ in range(3):
        start = time.perf_counter()
        assert "infer" in trtlm("--help").stdout
        times.append(time.perf_counter() - start)
    assert min(times) < 2.5  # a guard against heavy imports, not a measurement: the machine may be busy


def test_inference_imports_no_torch(tiny_bundle: Bundle, tmp_path: Path) -> None:
    scan, out = make_scan(tmp_path / "a.nii.gz"), tmp_path / "preds.json"
    code = f"""
import trt_landmarks.cli as cli
sys.argv = ["trtlm", "infer", {str(scan)!r}, "--out", {str(out)!r}, "--model", {str(tiny_bundle.root)!r}, "--quiet"]
try:
    cli.main()
except SystemExit as end:
    assert end.code == 0, end.code
"""
    modules = imported_by(code)
    assert modules & {"onnxruntime", "openvino"}
    assert not modules & {"torch", "tensorrt", "modelopt", "onnx", "matplotlib"}
    assert read(out)["cases"]


def test_some_bad_scans_give_1_and_all_the_good_ones(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    good = [make_scan(folder / f"good{n}.nii.gz", n) for n in range(2)]
    whole = good[0].read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "text.nrrd").write_text("not an image")
    flat = Scan("flat", None, np.full((9, 9, 9), 3, np.uint8), Geometry((9, 9, 9), (1, 1, 1), (0, 0, 0), np.eye(3)))
    write_scan(flat, folder / "flat.nii.gz")
    nan = np.random.default_rng(0).random((9, 9, 9)).astype(np.float32)
    nan[4, 4, 4] = np.nan
    write_scan(Scan("nan", None, nan, flat.geometry), folder / "nan.nii.gz")
    header = bytearray(gzip.decompress(whole))
    header[80:84] = np.float32(0).tobytes()  # pixdim[1] of a NIfTI header
    (folder / "zero.nii.gz").write_bytes(gzip.compress(bytes(header)))
    out = tmp_path / "preds.json"
    done = trtlm("infer", folder, "--out", out, "--model", tiny_bundle.root, code=1)
    cases = {case["id"]: case for case in read(out)["cases"]}  # type: ignore[attr-defined]
    assert sorted(cases) == ["cut", "flat", "good0", "good1", "nan", "text", "zero"]
    assert [name for name, case in cases.items() if case["status"] == "ok"] == ["good0", "good1"]
    for name in ("cut", "flat", "nan", "text", "zero"):
        message = cases[name]["error"]["message"]
        assert name in message and "\n" not in message
        assert message in done.stderr
    assert len({case["error"]["code"] for case in cases.values() if case["error"]}) == 5


def test_only_bad_scans_give_2(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(b"")
    trtlm("infer", tmp_path / "a.nii", "--out", tmp_path / "p.json", "--model", tiny_bundle.root, code=2)
    assert read(tmp_path / "p.json")["cases"][0]["status"] == "failed"  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["infer", "no-such-folder", "--out", "p.json"], "no-such-folder"),
        (["infer", ".", "--out", "p.json"], "no scan"),
        (["train", "no-task.yaml", "--data", ".", "--out", "run"], "no-task.yaml"),
        (["export", "no-run", "--out", "bundle"], "no-run"),
        (["build", "no-model"], "no-model"),
        (["build", "--precision", "int7"], "int7"),
        (["build", "--engine", "abacus"], "abacus"),
        (["eval", "no-preds.json", "."], "no-preds.json"),
    ],
)
def test_what_cannot_run_gives_2_and_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = trtlm(*arguments, code=2)
    assert says.lower() in done.stderr.lower()
    assert len([line for line in done.stderr.splitlines() if line.startswith("trtlm:")]) == 1


def test_an_explicit_engine_that_cannot_be_had_is_an_error(tiny_bundle: Bundle, tmp_path: Path) -> None:
    scan = make_scan(tmp_path / "a.nii.gz")
    for wrong in (["--engine", "tensorrt"], ["--engine", "onnxruntime", "--precision", "fp16"]):
        done = trtlm("infer", scan, "--out", tmp_path / "p.json", "--model", tiny_bundle.root, *wrong, code=2)
        assert "trtlm:" in done.stderr
    auto = trtlm("infer", scan, "--out", tmp_path / "p.json", "--model", tiny_bundle.root)
    assert f"engine: {read(tmp_path / 'p.json')['engine']['name']}" in auto.stderr  # type: ignore[index]
    assert read(tmp_path / "p.json")["engine"]["note"]  # type: ignore[index]


def test_the_preprocessing_is_chosen_and_told(tiny_bundle: Bundle, tmp_path: Path) -> None:
    scan, out = make_scan(tmp_path / "a.nii.gz"), tmp_path / "p.json"
    done = trtlm("infer", scan, "--out", out, "--model", tiny_bundle.root, "--preprocess", "dali")
    assert "preprocessing: dali" in done.stderr
    assert read(out)["engine"]["preprocessing"].startswith("dali")  # type: ignore[index]
    trtlm("infer", scan, "--out", out, "--model", tiny_bundle.root)
    assert read(out)["engine"]["preprocessing"] == "reference on the CPU"  # type: ignore[index]
    done = trtlm("infer", scan, "--out", out, "--model", tiny_bundle.root, "--preprocess", "abacus", code=2)
    assert "abacus: no such preprocessing" in done.stderr


def test_what_is_done_about_the_pose_is_told(tiny_bundle: Bundle, tmp_path: Path) -> None:
    scan, out = make_scan(tmp_path / "a.nii.gz"), tmp_path / "p.json"
    arguments = ("infer", scan, "--out", out, "--model", tiny_bundle.root)
    assert "pose: as-is" in trtlm(*arguments).stderr  # the model has no fitted confidence
    assert (read(out)["engine"]["pose"], read(out)["engine"]["tta"]) == ("as-is", False)  # type: ignore[index]
    for chosen in (["--pose", "search"], ["--pose", "any"], ["--tta"]):
        assert "trtlm:" in trtlm(*arguments, *chosen, code=2).stderr


def test_eval_prints_and_writes_the_figures(tiny_bundle: Bundle, tmp_path: Path) -> None:
    from trt_landmarks.data.annotations import write_mrk_json

    scan, out = make_scan(tmp_path / "a.nii.gz"), tmp_path / "p.json"
    trtlm("infer", scan, "--out", out, "--model", tiny_bundle.root)
    marks = read(out)["cases"][0]["landmarks"]  # type: ignore[index]
    truth = {mark["name"]: np.array(mark["position_lps_mm"]) + np.array([0.3, 0, 0]) for mark in marks}
    folder = tmp_path / "landmarks"
    folder.mkdir()
    write_mrk_json(folder / "a.mrk.json", truth)
    figures = tmp_path / "figures.json"
    done = trtlm("eval", out, folder, "--out", figures)
    assert "mean radial error 0.300 mm" in done.stdout
    assert json.loads(figures.read_text())["overall"]["mre_mm"] == pytest.approx(0.3, abs=1e-4)
    write_mrk_json(folder / "b.mrk.json", truth)
    assert "1 missing" in trtlm("eval", out, folder, code=1).stdout


@pytest.mark.parametrize(
    ("missing", "arguments"),
    [
        ("onnx", ["build", "{bundle}", "--precision", "fp16", "--engine", "onnxruntime"]),
        ("torch", ["train", "task.yaml", "--data", ".", "--out", "run"]),
        ("torch", ["export", "run", "--out", "bundle"]),
    ],
)
def test_a_missing_extra_is_named(missing: str, arguments: list[str], tiny_bundle: Bundle, tmp_path: Path) -> None:
    words = ["trtlm", *(word.format(bundle=tiny_bundle.root) for word in arguments)]
    code = (
        f"import sys; sys.modules[{missing!r}] = None; sys.argv = {words!r}; from trt_landmarks.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert missing in done.stderr and "Run: pip install" in done.stderr
