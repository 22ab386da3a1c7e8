"""Memory: what scans need, and who may read when."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.runs.test_batch import TASK, Reader, empty, infer, put
from tests.synthetic import HEAD
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.errors import TrtlmError
from trt_landmarks.geometry import Geometry
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.runs import memory
from trt_landmarks.runs.memory import EXTRA, FACTOR, MemoryBudget, parse_memory, plan_memory, resident_memory, scan_need
from trt_landmarks.scan import Scan, ScanFile, find_scans, write_scan

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "size"),
    [("4G", 4 << 30), ("512M", 512 << 20), ("1.5 GiB", 3 << 29), ("2000000", 2000000), ("7kb", 7 << 10), (None, None)],
)
def test_sizes(text: str | None, size: int | None) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "4X", "0", "1e9", "4 G B"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(TrtlmError, match="is not a size"):
        parse_memory(text)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"])
def test_the_need_is_read_from_the_header(tmp_path: Path, suffix: str, kind: str) -> None:
    voxels = np.arange(60, dtype=kind).reshape(5, 4, 3)
    path = tmp_path / f"a{suffix}"
    write_scan(Scan("a", None, voxels, Geometry((3, 4, 5), (1, 1, 1), (0, 0, 0), np.eye(3))), path)
    assert scan_need(ScanFile("a", path)) == int(FACTOR * voxels.nbytes) + EXTRA


def test_what_cannot_be_told_is_left_to_reading(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.dcm"):
        (tmp_path / name).write_bytes(b"\x1f\x8b not a scan")
        assert scan_need(ScanFile("a", tmp_path / name)) == 0
    assert scan_need(ScanFile("a", tmp_path / "gone.nii")) == scan_need(ScanFile("a", tmp_path)) == 0
    assert capfd.readouterr().err == ""


def test_scans_take_no_more_than_that(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """The most memory over reading and localizing, above what the process had before, in a process of its own."""
    code = """
import sys
from pathlib import Path
import numpy as np, SimpleITK
from trt_landmarks.bundles.bundle import open_bundle
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.runs.memory import _Peak, _measure, resident_memory, scan_need
from trt_landmarks.scan import ScanFile, read_scan
bundle = open_bundle(sys.argv[1])
localizer = Localizer(bundle.task, bundle.mean_shape, OnnxRuntimeEngine(bundle.graphs, threads=1))
_measure(localizer, 1)
for kind, suffix in (("u1", ".nii.gz"), ("i2", ".nii.gz"), ("i2", ".nrrd"), ("f4", ".mha"), ("u1", ".nii")):
    voxels = np.resize(np.random.default_rng(0).integers(0, 250, (3, 250, 250)).astype(kind), (250, 250, 250))
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing([0.2] * 3)
    path = Path(sys.argv[2]) / f"a{suffix}"
    SimpleITK.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
    del image, voxels
    before = resident_memory()
    with _Peak(resident_memory) as peak:
        localizer.localize(read_scan(path))
    print(kind, suffix, (peak.most - before) / scan_need(ScanFile("a", path)))
"""
    command = [sys.executable, "-c", code, str(tiny_bundle.root), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shares = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines()}
    assert len(shares) == 5 and max(shares.values()) <= 1, shares


def scan_files(count: int) -> list[ScanFile]:
    return [ScanFile(str(number), Path(f"{number}.nii")) for number in range(count)]


def test_batches_get_their_memory_in_the_order_in_which_they_ask() -> None:
    needs = [4, 4, 4, 1, 10]
    files = scan_files(5)
    budget = MemoryBudget(10, lambda file: needs[int(file.id)])
    entered: list[int] = []

    def enter(number: int) -> None:
        budget.enter(number, files[number], [files[number]])
        entered.append(number)

    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=enter, args=(number,), daemon=True))
        threads[-1].start()
        time.sleep(0.05)
    assert entered == [0, 1]  # 3 would fit, and must not pass 2
    budget.leave(1)
    time.sleep(0.05)
    assert entered == [0, 1, 2, 3]
    for number in (0, 2, 3):
        assert 4 not in entered
        budget.leave(number)
        time.sleep(0.05)
    assert entered == [0, 1, 2, 3, 4]
    for thread in threads:
        thread.join(60)


def test_a_batch_that_needs_more_than_there_is_comes_alone() -> None:
    files = scan_files(3)
    budget = MemoryBudget(10, lambda file: 8)
    budget.enter(0, files[0], files[:2])
    budget.enter(0, files[1], files[:2])  # together more than 10
    second = threading.Thread(target=budget.enter, args=(1, files[2], files[2:]), daemon=True)
    second.start()
    second.join(0.1)
    assert second.is_alive()
    budget.leave(0)
    second.join(60)
    assert not second.is_alive()


@pytest.mark.parametrize("batch", [1, 3])
def test_a_scan_that_does_not_fit_fails_before_it_is_read(tmp_path: Path, batch: int) -> None:
    for name in "abcdefgh":
        put(tmp_path, name, 30)
    needs = dict.fromkeys("abcdefgh", 6 * MIB) | {"c": 11 * MIB}
    budget = MemoryBudget(10 * MIB, lambda file: needs[file.id])
    found = infer(find_scans([tmp_path]), [Localizer(TASK, HEAD, Reader())] * 2, empty(), memory=budget, batch=batch)
    failed = {case.id: case.error for case in found.cases if case.error is not None}
    assert [case.id for case in found.cases] == list("abcdefgh") and list(failed) == ["c"]
    assert failed["c"] is not None and failed["c"].code == "scan_memory"
    assert "c.mha: needs about 11 MiB of memory, and scans may have 10 MiB. Crop it" in failed["c"].message


def test_who_waits_for_memory_is_let_go_at_the_end(tmp_path: Path) -> None:
    for name in "abc":
        put(tmp_path, name, 30)
    before = set(threading.enumerate())

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    budget = MemoryBudget(10, lambda file: 9)
    budget._held[99] = 9  # somebody else's, for ever
    budget._need = lambda file: 1 if file.id == "a" else 9
    with pytest.raises(KeyboardInterrupt):
        infer(find_scans([tmp_path]), [Localizer(TASK, HEAD, Reader())], empty(), memory=budget, progress=interrupt)
    assert set(threading.enumerate()) == before


def test_fewer_workers_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    localizer = Localizer(TASK, HEAD, Reader())
    monkeypatch.setattr(memory, "_measure", lambda localizer, batch: (100 * MIB, 60 * MIB * batch))
    count, budget = plan_memory(1000 * MIB, localizer, 4, 1)
    assert count == 4 and budget.size == 660 * MIB
    count, budget = plan_memory(300 * MIB, localizer, 4, 1)
    assert count == 2 and budget.size == 80 * MIB
    assert plan_memory(200 * MIB, localizer, 4, 1)[0] == 1
    with pytest.raises(TrtlmError, match="the model needs 220 MiB to compute a batch of 2"):
        plan_memory(220 * MIB, localizer, 4, 2)


def test_the_memory_of_this_process() -> None:
    before = resident_memory()
    block = np.ones(64 * MIB, np.uint8)
    assert resident_memory() >= before + 48 * MIB
    del block
    assert resident_memory(peak=True) >= before + 48 * MIB
