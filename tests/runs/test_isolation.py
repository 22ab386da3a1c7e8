"""Reader processes: a crash, a hang or a memory kill costs the scan that it is of, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.test_cli import make_scan
from tests.runs.hostile import hostile_read, modules
from tests.runs.test_batch import TASK, Reader, empty, infer, put
from tests.synthetic import HEAD
from trt_landmarks.errors import ScanError
from trt_landmarks.geometry import Geometry
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.runs import batch
from trt_landmarks.runs import isolation as module
from trt_landmarks.runs.isolation import Isolation, ReaderEndedError, series_lister
from trt_landmarks.scan import Scan, ScanFile, find_scans, read_scan, write_scan

MEMORY = 2 << 30
#: What may happen while a scan is read, and the code of its case.
CODES = {
    "segfault": "reader_crashed", "abort": "reader_crashed", "leave": "reader_crashed", "killed": "out_of_memory",
    "eat": "out_of_memory", "hang": "timeout", "spin": "timeout",
}  # fmt: skip


@pytest.fixture(scope="module")
def isolation() -> Iterator[Isolation]:
    with Isolation(MEMORY, warn=pytest.fail) as isolation:
        yield isolation


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def gone(pid: int) -> bool:
    end = time.monotonic() + 20
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_scan_is_the_same_to_the_bit(isolation: Isolation, tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    voxels = rng.integers(-1000, 3000, (50, 40, 30)).astype(np.int16)
    path = make_scan(tmp_path / f"small{suffix}")
    large = tmp_path / f"large{suffix}"
    write_scan(Scan("large", None, voxels, Geometry((30, 40, 50), (0.5, 0.6, 0.7), (1, 2, 3), np.eye(3))), large)
    for one in (path, large):
        file = ScanFile("a", one)
        here, there = read_scan(file), isolation.call(read_scan, file, name=one)
        assert there.voxels.dtype == here.voxels.dtype and there.voxels.flags.c_contiguous
        assert (there.voxels.flags.writeable and there.voxels.ctypes.data % 64 == 0) or one is path
        np.testing.assert_array_equal(there.voxels, here.voxels)
        assert (there.id, there.path, there.warnings) == (here.id, here.path, here.warnings)
        np.testing.assert_array_equal(there.geometry.direction, here.geometry.direction)
        assert (there.geometry.size, there.geometry.spacing) == (here.geometry.size, here.geometry.spacing)


def test_what_a_function_raises_is_raised(isolation: Isolation, tmp_path: Path) -> None:
    with pytest.raises(ScanError) as raised:
        isolation.call(read_scan, ScanFile("a", tmp_path / "none.nii"), name="a")
    assert raised.value.code == "scan_missing" and raised.value.remedy == "Check the path."
    assert raised.value.message.endswith("none.nii: no such scan.")


def test_each_way_to_die_costs_its_own_scan(isolation: Isolation, tmp_path: Path) -> None:
    good = make_scan(tmp_path / "good.nii.gz")
    isolation.call(hostile_read, ScanFile("good", good), name=good)
    before = descriptors()
    for kind, code in CODES.items():
        path = make_scan(tmp_path / f"{kind}-a.nii.gz")
        with pytest.raises((ReaderEndedError, MemoryError)) as raised:
            isolation.call(hostile_read, ScanFile(kind, path), name=path, timeout=0.5 if code == "timeout" else 60)
        found = getattr(raised.value, "code", "out_of_memory")
        assert found == code, kind
        if isinstance(raised.value, ReaderEndedError):
            assert str(path) in raised.value.message and raised.value.remedy
        assert isolation.call(hostile_read, ScanFile("good", good), name=good).voxels.shape == (24, 22, 20)
    assert descriptors() <= before + 2


def test_what_a_scan_broke_does_not_cost_the_next_one(tmp_path: Path) -> None:
    poison, good = make_scan(tmp_path / "poison-a.mha"), make_scan(tmp_path / "good.mha")
    with Isolation(MEMORY) as isolation:
        with pytest.raises(ValueError, match="poisoned"):
            isolation.call(hostile_read, ScanFile("a", poison), name="a")
        assert isolation.call(read_scan, ScanFile("b", good), name="b").voxels.any()


def test_more_scans_hang_than_a_run_has_threads(isolation: Isolation, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Each is ended, and its thread goes on."""
    monkeypatch.setattr(batch, "read_scan", hostile_read)
    for number in range(10):
        put(tmp_path, f"hang-{number}", 30)
    for kind in ("segfault", "eat", "killed"):
        put(tmp_path, f"{kind}-0", 30)
    for number in range(8):
        put(tmp_path, f"good-{number}", 20 + number)
    before = set(threading.enumerate())
    files = find_scans([tmp_path])
    localizers = [Localizer(TASK, HEAD, Reader())] * 2
    cases = infer(files, localizers, empty(), timeout=0.3, readers=3, isolation=isolation).cases
    codes = {case.id: case.error.code for case in cases if case.error is not None}
    expected = {f"hang-{number}": "timeout" for number in range(10)}
    expected |= {"segfault-0": "reader_crashed", "eat-0": codes.get("eat-0", ""), "killed-0": "out_of_memory"}
    assert codes == expected and codes["eat-0"] in ("out_of_memory", "timeout")
    assert [case.id for case in cases] == [file.id for file in files]
    assert set(threading.enumerate()) == before


def test_a_listing_that_crashes_is_one_scan_that_fails(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "a.dcm").write_bytes(bytes(200))
    make_scan(tmp_path / "good.nii.gz")

    class Crashing:
        def call(self, function: Any, path: Path, **more: Any) -> Any:
            if path == folder:
                raise ReaderEndedError("crashed")
            return function(path)

    files = find_scans([tmp_path], lister=series_lister(Crashing()))  # type: ignore[arg-type]
    assert [file.id for file in files] == ["good", "series"]


def test_threads_share_it(isolation: Isolation, tmp_path: Path) -> None:
    files = [ScanFile(str(n), make_scan(tmp_path / f"{n}.nii.gz", n)) for n in range(12)]
    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(lambda file: isolation.call(read_scan, file, name="a").voxels.sum(), files))
    assert sums == [read_scan(file).voxels.sum() for file in files]


def test_a_nursery_that_is_killed_is_replaced(tmp_path: Path) -> None:
    file = ScanFile("a", make_scan(tmp_path / "a.mha"))
    with Isolation(MEMORY, warn=pytest.fail) as isolation:
        for _ in range(module.LOSSES):
            isolation.call(read_scan, file, name="a")
            assert isolation._nursery is not None
            isolation._nursery.kill()
            isolation._nursery.wait()
        assert isolation.call(read_scan, file, name="a").voxels.any()


def test_where_no_process_can_be_had_it_says_so_and_reads_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = ScanFile("a", make_scan(tmp_path / "a.mha"))
    for executable in ("/nowhere/python", "/bin/false"):
        monkeypatch.setattr(sys, "executable", executable)
        said: list[str] = []
        with Isolation(MEMORY, warn=said.append) as isolation:
            assert isolation.call(read_scan, file, name="a").voxels.any()
            assert isolation.call(os.getppid, name="a", here=os.getpid) == os.getpid()
        assert len(said) == 1 and "are read in this process" in said[0]


def test_no_process_outlives_the_command(tmp_path: Path) -> None:
    """Neither the nursery nor a reader that hangs, when the command is killed."""
    path = make_scan(tmp_path / "spin-a.mha")
    code = f"""
import threading, time
from pathlib import Path
from tests.runs.hostile import hostile_read
from trt_landmarks.runs.isolation import Isolation
from trt_landmarks.scan import ScanFile, read_scan
isolation = Isolation({MEMORY})
file = ScanFile("a", Path({str(path)!r}))
isolation.call(read_scan, file, name="a")
pid = isolation._idle[0].pid
threading.Thread(target=isolation.call, args=(hostile_read, file), kwargs=dict(name="a"), daemon=True).start()
time.sleep(0.3)
print(isolation._nursery.pid, pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 2 and all(map(alive, pids))
        process.send_signal(signal.SIGKILL)
    assert all(map(gone, pids))


def test_reader_processes_import_nothing_of_what_computes(isolation: Isolation) -> None:
    loaded = isolation.call(modules, name="a")
    assert "SimpleITK" in loaded
    assert not loaded & {"torch", "onnxruntime", "openvino", "tensorrt", "onnx", "typer", "pydantic", "matplotlib"}
