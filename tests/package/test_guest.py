"""In other people's processes: what they have set stays, and does not matter."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch

from tests.cli.test_cli import make_scan
from tests.synthetic import small_task
from trt_landmarks import files
from trt_landmarks.export.onnx_graphs import graph_model
from trt_landmarks.nets.defaults import usual_defaults
from trt_landmarks.nets.model import build_nets
from trt_landmarks.scan import find_scans, read_scan
from trt_landmarks.scan.itk import quiet


@pytest.mark.parametrize("shown", [True, False])
def test_reading_leaves_the_warnings_of_simpleitk_as_they_were(tmp_path: Path, shown: bool) -> None:
    process = SimpleITK.ProcessObject
    before = process.GetGlobalWarningDisplay()
    try:
        process.SetGlobalWarningDisplay(shown)
        for name in ("a.nii.gz", "a.nrrd", "a.mha"):
            read_scan(make_scan(tmp_path / name))
        (tmp_path / "a.dcm").write_bytes(b"no DICOM")
        find_scans([tmp_path])
        assert process.GetGlobalWarningDisplay() == shown
        with quiet(), quiet():
            assert not process.GetGlobalWarningDisplay()
        inside, out = threading.Event(), threading.Event()

        def other() -> None:
            with quiet():
                inside.set()
                out.wait(60)

        thread = threading.Thread(target=other)
        with quiet():
            thread.start()
            inside.wait(60)
        assert not process.GetGlobalWarningDisplay()  # the other one is still within
        out.set()
        thread.join()
        assert process.GetGlobalWarningDisplay() == shown
    finally:
        process.SetGlobalWarningDisplay(before)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_nets_and_graphs_do_not_depend_on_the_defaults_of_pytorch(device: str) -> None:
    task = small_task()
    torch.manual_seed(0)
    expected = build_nets(task)["coarse"].eval()
    graph = graph_model(expected, "coarse", (1, *task.coarse.shape)).SerializeToString()
    torch.set_default_dtype(torch.float64)
    torch.set_default_device(device)
    try:
        with usual_defaults():
            torch.manual_seed(0)
            net = build_nets(task)["coarse"].eval()
            again = graph_model(net, "coarse", (1, *task.coarse.shape)).SerializeToString()
        assert torch.get_default_dtype() == torch.float64 and torch.get_default_device().type == device
        assert {value.dtype for value in build_nets(task)["coarse"].parameters()} == {torch.float32}
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert again == graph
    for name, value in net.state_dict().items():
        assert value.device.type == "cpu"
        np.testing.assert_array_equal(value.numpy(), expected.state_dict()[name].numpy())


def test_a_context_of_the_host_does_not_count() -> None:
    with torch.device("meta"), usual_defaults():
        assert torch.zeros(1).device.type == "cpu"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No home folder; returns the folder for temporary files."""

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("HOME", "XDG_CACHE_HOME", files.CACHE_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", none)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    files._own_temporary_folder.cache_clear()
    return tmp_path


def test_without_a_home_the_cache_is_a_private_temporary_folder(homeless: Path) -> None:
    folder = files.cache_folder()
    assert folder == homeless / f"trt-landmarks-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files._own_temporary_folder.cache_clear()
    assert files.cache_folder() == folder


def test_a_cache_that_others_may_write_to_is_not_used(homeless: Path) -> None:
    folder = homeless / f"trt-landmarks-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    other = files.cache_folder()
    assert other != folder and other.parent == homeless and stat.S_IMODE(other.stat().st_mode) == 0o700


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_onnx_runtime_keeps_to_the_cores_of_its_process() -> None:
    code = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from trt_landmarks.bundles.bundle import open_bundle
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
OnnxRuntimeEngine(open_bundle("mouse-skull").graphs)
print({core for thread in os.listdir("/proc/self/task") for core in os.sched_getaffinity(int(thread))})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str({min(os.sched_getaffinity(0))}) and done.stderr == ""
