"""How much memory a run may take: what scans need, told by their headers, and who may read when.

    limit = what the process has when its nets are open + what each worker needs to compute + scans in memory

The first two are measured, by localizing in an empty scan; the third is estimated from the sizes in the headers.
"""

from __future__ import annotations

import math
import re
import struct
import threading
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from trt_landmarks.errors import TrtlmError
from trt_landmarks.geometry import Geometry
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.localization.whole_scan import WholeScanLocalizer
from trt_landmarks.scan import ScanFile, extension, scan_from_array
from trt_landmarks.scan.dicom_objects import dicom_files
from trt_landmarks.system import resident_bytes

#: Bytes that a scan takes at most, for each byte of its voxels: decompressed and converted while it is read, and
#: sampled in floating point while it is localized (``tests/runs/test_memory.py`` measures it).
FACTOR = 3.0
#: Bytes that every scan takes besides.
EXTRA = 16 << 20

#: Bytes at the start of a file in which its header is looked for.
_HEADER = 1 << 16
_RESCALE = (("Slope", 1), ("Intercept", 0))
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_memory(text: str | None) -> int | None:
    """Bytes from ``4G``, ``512M`` or ``1.5GiB``.

    Raises:
        TrtlmError: if it is anything else.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    size = math.floor(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if not size:
        raise TrtlmError(f"--limit-memory {text}: is not a size.", "Write it like this: 4G.", code="usage")
    return size


def scan_need(file: ScanFile) -> int:
    """Bytes that reading and localizing in a scan take, estimated from its header; 0 if that cannot be read."""
    voxels = _voxel_bytes(file.path)
    return int(FACTOR * voxels) + EXTRA if voxels else 0


class MemoryBudget:
    """Memory for scans, given out batch by batch in the order in which they ask.

    Args:
        size: bytes for all scans that are in memory.
        need: bytes that a scan takes.
    """

    def __init__(self, size: int, need: Callable[[ScanFile], int] = scan_need) -> None:
        self.size = size
        self._need = need
        self._changed = threading.Condition()
        self._held: dict[int, int] = {}  # batch -> bytes
        self._waiting: deque[int] = deque()
        self._closed = False

    def enter(self, number: int, file: ScanFile, batch: Sequence[ScanFile]) -> None:
        """Wait until the batch of a scan has its memory.

        A batch that needs more than there is comes alone, when no other scan is in memory.

        Args:
            number: of the batch.
            file: the scan.
            batch: all scans of its batch.

        Raises:
            TrtlmError: if the scan alone needs more than there is.
        """
        need = self._need(file)
        if need > self.size:
            raise TrtlmError(
                f"{file.path}: needs about {need / 2**20:,.0f} MiB of memory, and scans may have "
                f"{self.size / 2**20:,.0f} MiB.",
                "Crop it, or allow more memory.",
                code="scan_memory",
            )
        with self._changed:
            if number in self._held:
                return
        total = sum(size for size in map(self._need, batch) if size <= self.size)
        with self._changed:
            if number in self._held or number in self._waiting:
                self._changed.wait_for(lambda: self._closed or number in self._held)
                return
            self._waiting.append(number)
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or (self._waiting[0] == number and (not self._held or self._in_use + total <= self.size))
                )
            )
            self._waiting.remove(number)
            self._held[number] = total
            self._changed.notify_all()

    def leave(self, number: int) -> None:
        """Give back what a batch had."""
        with self._changed:
            self._held.pop(number, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Let everybody in: the run ends."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def _in_use(self) -> int:
        return sum(self._held.values())


def plan_memory(
    limit: int, localizer: Localizer | WholeScanLocalizer, jobs: int, batch: int
) -> tuple[int, MemoryBudget]:
    """How many workers a limit allows, and what is left for scans.

    Args:
        limit: bytes, for the whole process.
        localizer: that is ready.
        jobs: workers that are wanted.
        batch: scans that go through the nets together.

    Returns:
        Workers, at least 1 and at most ``jobs``, and the budget for scans.  One quarter of what is left beside a
        worker is for its scans, at least.

    Raises:
        TrtlmError: if even one worker needs more, or if this system does not tell how much memory is in use.
    """
    base, work = _measure(localizer, batch)
    left = limit - base
    if left < work + EXTRA:
        raise TrtlmError(
            f"--limit-memory: the model needs {(base + work) / 2**20:,.0f} MiB to compute a batch of {batch}, and "
            f"scans come on top of it; {limit / 2**20:,.0f} MiB are allowed.",
            "Allow more memory.",
            code="memory_limit",
        )
    workers = max(1, min(jobs, int(left / (work / 0.75))))
    return workers, MemoryBudget(left - workers * work)


def resident_memory(peak: bool = False) -> int:
    """Resident memory of this process in bytes, or the most it had.

    Raises:
        TrtlmError: if this system does not tell it.
    """
    size = resident_bytes(peak)
    if size is not None:
        return size
    raise TrtlmError("this system does not tell how much memory is in use.", "Leave --limit-memory out.", code="usage")


def _measure(localizer: Localizer | WholeScanLocalizer, batch: int) -> tuple[int, int]:
    """Bytes that the process has, and bytes that a worker takes in addition while it computes."""
    base = resident_memory()
    voxels = np.zeros((16, 16, 16), np.uint8)
    voxels[8, 8, 8] = 1
    scan = scan_from_array(voxels, Geometry((16, 16, 16), (1, 1, 1), (0, 0, 0), np.eye(3)))
    peak = _Peak(resident_memory)
    with peak:
        localizer.localize_batch([scan] * batch)
    return base, max(0, peak.most - base)


class _Peak:
    """The most memory that the process had within: looked at all the time by a thread."""

    def __init__(self, look: Callable[[], int]) -> None:
        self.most = 0
        self._look = look
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.002):
            self.most = max(self.most, self._look())


def _voxel_bytes(path: Path) -> int:
    """Bytes of a scan's voxels as its header tells them, in the type they are given out in; 0 if it does not tell.

    Headers are read here without C++, in which a damaged one might end the run.
    """
    known = extension(path)
    try:
        if path.is_dir() or known == ".dcm":
            return _dicom_bytes(path)
        if not path.is_file():  # a pipe may have no end
            return 0
        with path.open("rb") as stream:
            start = stream.read(_HEADER)
        if known in (".nii", ".nii.gz"):
            return _nifti_bytes(start)
        if known in (".zip", ".npz"):
            with zipfile.ZipFile(path) as archive:
                return sum(entry.file_size for entry in archive.infolist())
        if known in (".nrrd", ".nhdr", ".mha", ".mhd"):
            return _text_bytes(start)
    except Exception:  # headers are damaged in every way; reading says what is wrong
        pass
    return 0


def _nifti_bytes(start: bytes) -> int:
    if start[:2] == b"\x1f\x8b":
        start = zlib.decompressobj(wbits=47).decompress(start, _HEADER)
    order = "<" if start[:4] == struct.pack("<i", 348) else ">"
    dims = struct.unpack_from(order + "8h", start, 40)
    (bits,) = struct.unpack_from(order + "h", start, 72)
    slope, intercept = struct.unpack_from(order + "2f", start, 112)
    scaled = not (intercept == 0 and slope in (0, 1))
    return _product(dims[1 : max(1, dims[0]) + 1]) * (8 if scaled else max(1, bits // 8))


def _text_bytes(start: bytes) -> int:
    """MetaImage and NRRD."""
    text = start.decode("latin-1")
    sizes = re.search(r"^(?:DimSize *=|sizes:) *([\d ]+)", text, re.MULTILINE)
    kind = re.search(r"^(?:ElementType *= *MET_|type:) *([\w ]+)", text, re.MULTILINE)
    if not sizes or not kind:
        return 0
    name = kind[1].lower()
    wide = "double" in name or "long" in name or "64" in name
    small = {"char": 1, "int8": 1, "short": 2, "int16": 2, "int": 4, "float": 4}
    each = 8 if wide else next((size for word, size in small.items() if word in name), 8)
    return _product(map(int, sizes[1].split())) * each


def _dicom_bytes(path: Path) -> int:
    """One frame or volume, times the files of the folder."""
    count = 1
    if path.is_dir():
        files = dicom_files(path)
        if not files:
            return 0
        path, count = files[0], len(files)
    if not path.is_file():
        return 0
    from pydicom import dcmread

    header = dcmread(path, stop_before_pixels=True, force=True)
    sizes = [int(header.get(name) or 1) for name in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel")]
    stored = 2 ** int(header.get("BitsStored") or 0)
    slope, intercept = (float(header.get(f"Rescale{name}") or default) for name, default in _RESCALE)
    if stored < 2:
        return 0
    if slope % 1 or intercept % 1:
        each = 8
    else:  # the smallest type that holds what rescaled values may be
        each = next((size for size in (1, 2) if abs(slope) * stored + abs(intercept) <= 256**size), 4)
    return _product(sizes) * each * count


def _product(sizes: Iterable[int]) -> int:
    return math.prod(max(0, size) for size in sizes)
