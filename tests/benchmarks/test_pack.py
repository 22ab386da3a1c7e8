"""The parts of a visit: small enough, whole when they are put together, and the visit's command runs to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import pack
from trt_landmarks.engines.tensorrt.gpu import gpu_problem
from trt_landmarks.geometry import Geometry
from trt_landmarks.scan import Scan, write_scan


@pytest.mark.skipif(gpu_problem() is None, reason="there is a GPU here")
def test_a_visit_is_packed_unpacked_and_run(
    tmp_path: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repo_root)
    if subprocess.run(["git", "rev-parse"], capture_output=True, check=False).returncode:
        pytest.skip("this is no git checkout")
    scans, out, there = tmp_path / "scans", tmp_path / "parts", tmp_path / "there"
    scans.mkdir()
    there.mkdir()
    voxels = np.random.default_rng(1).integers(0, 255, (24, 22, 20), dtype=np.uint8)
    write_scan(Scan("a", None, voxels, Geometry((20, 22, 24), (1, 1, 1), (0, 0, 0), np.eye(3))), scans / "a.nii.gz")
    assert pack.main(["--out", str(out), "--scans", str(scans), "--limit", "16"]) == 0
    parts = sorted(out.iterdir())
    assert len(parts) > 1 and all(part.stat().st_size < 16 << 20 for part in parts)
    with subprocess.Popen(["tar", "xf", "-", "-C", str(there)], stdin=subprocess.PIPE) as tar:
        assert tar.stdin is not None
        for part in parts:
            tar.stdin.write(part.read_bytes())
    assert tar.returncode == 0
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["sh", "visit.sh", str(tmp_path / "r")], cwd=there, env=environment, check=False)
    assert done.returncode == 2  # no GPU: the report says so
    assert "There is no GPU here" in (tmp_path / "r" / "gpu_check.md").read_text()
    assert "Verdict" in (tmp_path / "r" / "doctor.txt").read_text()


def test_what_cannot_be_packed_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pack.main(["--out", str(tmp_path / "x"), "--scans", str(tmp_path / "none")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
