"""README's commands and code run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml

from trt_landmarks.data.annotations import write_mrk_json
from trt_landmarks.geometry import Geometry
from trt_landmarks.scan import Scan, write_scan
from trt_landmarks.training.checkpoint import Checkpoint

TRTLM = [sys.executable, "-c", "from trt_landmarks.cli import main; main()"]
#: By a word of the command. A complete training takes hours; this shows that the commands do what they say.
SHORT = {
    "train": ["--length", "0.0005"],
    "--calib": ["--n", "1", "--accept-deviation"],
    "serve": ["--port", "0"],
    "bench": ["--engines", "onnxruntime", "--rounds", "1", "--count", "1", "--cold", "1", "--folder", "0"],
}


def blocks(repo_root: Path, language: str) -> list[str]:
    """Code blocks of the README."""
    return re.findall(rf"```{language}\n(.*?)```", (repo_root / "README.md").read_text(), re.DOTALL)


def commands(repo_root: Path) -> list[list[str]]:
    """The ``trtlm`` lines of the README, comments removed."""
    lines = [line for block in blocks(repo_root, "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("trtlm ")]


@pytest.fixture(scope="module")
def place(mouse_scans: list[Path], tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README's commands name: scans/, landmarks/, task.yaml, folder/."""
    place = tmp_path_factory.mktemp("readme")
    (place / "scans").mkdir()
    for copy in (place / "scans", place):
        shutil.copy(mouse_scans[0], copy / "head.nii.gz")
    name = mouse_scans[0].name.removesuffix(".nii.gz")
    (place / "landmarks").mkdir()
    annotated = mouse_scans[0].parent.parent / "landmarks" / f"{name}.mrk.json"
    shutil.copy(annotated, place / "landmarks" / "head.mrk.json")
    task = tiny_checkpoint.task
    (place / "task.yaml").write_text(yaml.safe_dump(task.model_dump(mode="json")))
    rng = np.random.default_rng(0)
    shape = {mark: rng.uniform(-6, 6, 3) * ([0, 1, 1] if mark in task.group_of else 1) for mark in task.landmarks}
    for case in range(5):
        geometry = Geometry((24, 22, 20), (1.0, 1.1, 1.2), (-10.0, -9.0, 5.0), np.eye(3))
        for folder in ("images", "landmarks"):
            (place / "folder" / folder).mkdir(parents=True, exist_ok=True)
        voxels = rng.integers(0, 255, (20, 22, 24), dtype=np.uint8)
        write_scan(Scan("", None, voxels, geometry), place / "folder" / "images" / f"case{case}.nii.gz")
        points = {mark: geometry.centre + place + rng.normal(size=3) * 0.3 for mark, place in shape.items()}
        write_mrk_json(place / "folder" / "landmarks" / f"case{case}.mrk.json", points)
    return place


def stopped(server: subprocess.Popen[str]) -> str:
    """End a server as Ctrl-C does, once it has answered that it is ready; what it had printed until then."""
    assert server.stdout is not None
    printed = ""
    for line in server.stdout:
        printed += line
        if line.startswith("serving at "):
            address = line.removeprefix("serving at ").strip().rstrip("/")
            with urllib.request.urlopen(f"{address}/v2/health/ready", timeout=60) as answer:
                assert answer.status == 200
            server.send_signal(signal.SIGINT)
            break
    return printed


def test_the_readme_has_the_lines_of_every_command(repo_root: Path) -> None:
    shown = {words[0] for words in commands(repo_root)}
    assert shown >= {
        "train", "export", "build", "infer", "eval", "inspect", "models", "doctor", "bench", "convert", "view",
        "report", "serve",
    }  # fmt: skip
    assert ["build", "--precision", "fp16"] in commands(repo_root)
    assert ["infer", "scans/", "--out", "preds.json"] in commands(repo_root)


def test_the_readmes_commands_run_in_order(repo_root: Path, place: Path) -> None:
    for words in commands(repo_root):
        command = subprocess.Popen(
            [*TRTLM, *words, *(option for word in words for option in SHORT.get(word, []))],
            cwd=place,
            env={**os.environ, "TRTLM_CACHE": str(place / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        served = stopped(command) if words[0] == "serve" else ""
        printed = served + command.communicate()[0]
        assert command.returncode == 0, f"trtlm {shlex.join(words)}\n{printed}"
    for name in ("preds.json", "preds.csv", "slicer/head.mrk.json", "view.png", "report.html", "report/bench.json"):
        assert (place / name).is_file(), name


def test_the_readmes_python_runs(repo_root: Path, place: Path) -> None:
    (code,) = blocks(repo_root, "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(32, 3)" in done.stdout


def test_the_readmes_make_targets_exist(repo_root: Path) -> None:
    wanted = re.findall(r"^make (\w+)", "\n".join(blocks(repo_root, "sh")), re.MULTILINE)
    makefile = (repo_root / "Makefile").read_text()
    assert wanted[:2] == ["demo", "test"]
    for target in wanted:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_readmes_links_lead_somewhere(repo_root: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (repo_root / "README.md").read_text()):
        assert "://" in target or (repo_root / target).exists(), target
