"""DICOM files in a folder: which are slices of a volume, and what the others are.

Files are known by their content, whatever they are called.  Only what tells slices apart is looked at; no tag that
could name a person is read or kept.
"""

from __future__ import annotations

import os
import struct
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trt_landmarks.geometry import Floats
from trt_landmarks.scan.formats import extension
from trt_landmarks.scan.itk import open_header

#: Objects that are no pictures of a volume, by the start of their SOP class (PS3.4, annex B.5).
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_OTHERS = {
    "1.2.840.10008.1.3.10": "directory (DICOMDIR)",
    f"{_STORAGE}9": "waveform",
    f"{_STORAGE}11": "presentation state",
    f"{_STORAGE}66": "segmentation, registration or raw data",
    f"{_STORAGE}88": "report (SR)",
    f"{_STORAGE}104": "document (PDF)",
    f"{_STORAGE}481": "radiotherapy object (RT)",
}
_SECONDARY = f"{_STORAGE}7"
#: Classes of pictures: one that cannot be read is damaged.  Anything else that has no picture is "another object".
_PICTURES = tuple(f"{_STORAGE}{n}" for n in (1, 2, 3, 4, 6, 7, 12, 13, 20, 128, 130))
#: A series of one slice.
SINGLE = "single slice"
_MODALITIES = {
    "SR": "report (SR)",
    "KO": "report (SR)",
    "DOC": "document (PDF)",
    "PR": "presentation state",
    "SEG": "segmentation, registration or raw data",
    "REG": "segmentation, registration or raw data",
    **dict.fromkeys(("RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD"), "radiotherapy object (RT)"),
}


@dataclass(frozen=True)
class Slice:
    """What the header of one picture says.

    Attributes:
        path: its file.
        series: series instance UID.
        number: series number; empty if it has none.
        sop_class: what kind of object it is.
        modality: such as ``CT``.
        localizer: whether it says that it is one.
        size: pixels along i, j, and frames.
        components: numbers per pixel.
        pixel: ITK's id of their type, rescaled.
        position: LPS mm of the first pixel; None if not said.
        axes: ``[3, 2]``, the world directions of i and j; None if not said.
        spacing: mm along i, j; None if not said.
    """

    path: Path
    series: str
    number: str
    sop_class: str
    modality: str
    localizer: bool
    size: tuple[int, int, int]
    components: int
    pixel: int
    position: Floats | None
    axes: Floats | None
    spacing: Floats | None


@dataclass(frozen=True)
class Series:
    """The slices of one volume, or the file that holds it.

    Attributes:
        uid: series instance UID; where a series has several files of many frames, with ``#2`` and so on behind.
        number: series number; empty if it has none.
        slices: in no order.
        localizers: how many localizers under the same series UID are not among them.
    """

    uid: str
    number: str
    slices: tuple[Slice, ...]
    localizers: int = 0

    @property
    def places(self) -> set[tuple[float, ...]]:
        """Positions of the slices, to 1e-3 mm; those that state none are not among them."""
        return {tuple(one.position.round(3).tolist()) for one in self.slices if one.position is not None}

    @property
    def voxels(self) -> int:
        """How many pixels all slices have."""
        return sum(int(np.prod(one.size)) for one in self.slices)


@dataclass(frozen=True)
class DicomFolder:
    """The DICOM files of one folder.

    Attributes:
        path: the folder.
        volumes: series that are, or should be, volumes; by series number.
        others: kind -> how many objects of it there are that are no volume.
        damaged: files that cannot be read.
        singles: series of one slice: the others may lie in other folders.
    """

    path: Path
    volumes: tuple[Series, ...]
    others: Counter[str]
    damaged: tuple[Path, ...]
    singles: tuple[Series, ...] = ()


def dicom_files(folder: Path, deep: bool = False) -> list[Path]:
    """Files that are DICOM by extension or by their first bytes, sorted; with ``deep`` those in folders below too."""
    here = [Path(root, name) for root, _, names in os.walk(folder) for name in names] if deep else folder.iterdir()
    files = [path for path in here if not path.name.startswith(".") and path.name != "DICOMDIR" and path.is_file()]
    return sorted(p for p in files if extension(p) == ".dcm" or (not extension(p) and is_dicom(p)))


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM: with the mark behind its preamble, or without both, with a low tag."""
    start = _start(path, 132)
    return start[128:] == b"DICM" or _bare(start)


def list_series(folder: Path, deep: bool = False) -> DicomFolder | None:
    """Read the headers of a folder's DICOM files, with ``deep`` of folders below too; None if it has none."""
    files = dicom_files(folder, deep)
    if not files:
        return None
    found: dict[str, list[Slice]] = defaultdict(list)
    others: Counter[str] = Counter()
    damaged = []
    for path in files:
        one = read_header(path)
        if isinstance(one, Slice):
            found[one.series].append(one)
        elif one:
            others[one] += 1
        elif one is None:
            damaged.append(path)
    volumes: list[Series] = []
    singles: list[Series] = []
    for uid, slices in found.items():
        localizers = [one for one in slices if one.localizer]
        images = [one for one in slices if not one.localizer] or localizers
        framed = [one for one in images if one.size[2] > 1]
        parts = [*([one] for one in framed), [one for one in images if one.size[2] == 1]]
        for part in filter(None, parts):
            if kind := _no_volume(part):
                others[kind] += 1
                if kind == SINGLE:
                    singles.append(Series(uid, part[0].number, tuple(part)))
                continue
            earlier = sum(volume.slices[0].series == uid for volume in volumes)
            name = f"{uid}#{earlier + 1}" if earlier else uid
            volumes.append(Series(name, part[0].number, tuple(part), len(localizers)))
    volumes.sort(key=lambda one: (int(one.number) if one.number.isdecimal() else 1 << 31, one.uid))
    return DicomFolder(folder, tuple(volumes), others, tuple(damaged), tuple(singles))


def counted(others: Counter[str]) -> str:
    """What is no volume, in words: ``2 x localizer, 1 x report (SR)``; empty if there is nothing."""
    return ", ".join(f"{count} x {kind}" for kind, count in sorted(others.items()))


def read_header(path: Path) -> Slice | str | None:
    """A file's header; the kind of an object that is no picture; empty for a file that is not DICOM; None: damaged."""
    start = _start(path, 4096)
    sop_class = _sop_class(start)
    for prefix, kind in _OTHERS.items():
        if _belongs(sop_class, prefix):
            return kind
    try:
        reader = open_header(path)
    except RuntimeError:
        if sop_class and not any(_belongs(sop_class, prefix) for prefix in _PICTURES):
            return "another object"
        return None if start[128:132] == b"DICM" or extension(path) == ".dcm" else ""

    def tag(key: str) -> str:
        return reader.GetMetaData(key).strip(" \0") if reader.HasMetaDataKey(key) else ""

    modality = tag("0008|0060")
    if modality in _MODALITIES:
        return _MODALITIES[modality]
    i, j, k = (*reader.GetSize(), 1)[:3]
    axes = _numbers(tag("0020|0037"), 6)
    spacing = _numbers(tag("0028|0030"), 2)  # of rows, then of columns: along j, then i
    return Slice(
        path, tag("0020|000e"), tag("0020|0011"), sop_class or tag("0008|0016"), modality,
        "LOCALIZER" in tag("0008|0008"), (i, j, k), reader.GetNumberOfComponents(), reader.GetPixelID(),
        _numbers(tag("0020|0032"), 3), None if axes is None else axes.reshape(2, 3).T,
        None if spacing is None else spacing[::-1],
    )  # fmt: skip


def _no_volume(slices: Sequence[Slice]) -> str:
    """Why pictures of one series are no volume; empty if they are, or should be."""
    if any(one.localizer for one in slices):
        return "localizer"
    if any(one.components != 1 for one in slices):
        return "picture in colour"
    if slices[0].size[2] > 1:
        return ""
    lying = [one for one in slices if one.position is not None and one.axes is not None]
    normals = np.array([np.cross(*one.axes.T) for one in lying if one.axes is not None])
    along = [float(one.position @ normals[0]) for one in lying if one.position is not None]
    apart = len(lying) == len(slices) and np.ptp(along) > 0
    if _belongs(slices[0].sop_class, _SECONDARY) and not apart:
        return "secondary capture"
    if len(slices) < 2:
        return SINGLE
    if len(lying) and (normals @ normals[0] < 0.99).any():
        return "series of planes that are not parallel"
    if len(lying) == len(slices) and not apart:
        return "series of pictures at one position"
    return ""


def _start(path: Path, count: int) -> bytes:
    """A file's first bytes; none if it may not be read, which is said when it is."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


def _belongs(sop_class: str, prefix: str) -> bool:
    return sop_class == prefix or sop_class.startswith(prefix + ".")


def _bare(start: bytes) -> bool:
    """Whether bytes begin as a data set without preamble: with a tag of group 2 or 8, its type or a short length."""
    if len(start) < 8 or start[:2] not in (b"\x02\0", b"\x08\0") or start[2:4] > b"\x20\0":
        return False
    (length,) = struct.unpack_from("<I", start, 4)
    return start[4:6] in (b"UL", b"OB", b"UI", b"CS", b"DA", b"SH") or length < 256


def _sop_class(start: bytes) -> str:
    """The SOP class in a file's meta information (PS3.10, section 7.1); empty if there is none."""
    at = 132 if start[128:132] == b"DICM" else 0
    while at + 12 <= len(start):
        group, element, form = struct.unpack_from("<HH2s", start, at)
        if group != 2:
            return ""
        long = form in (b"OB", b"OW", b"UN", b"UT", b"SQ")
        (length,) = struct.unpack_from("<I" if long else "<H", start, at + (8 if long else 6))
        at += 12 if long else 8
        if element == 2:
            return start[at : at + length].decode("ascii", "replace").strip(" \0")
        at += length
    return ""


def _numbers(text: str, count: int) -> Floats | None:
    """A tag's numbers; None if they are not so many."""
    try:
        values = np.array([float(word) for word in text.split("\\")])
    except ValueError:
        return None
    return values if len(values) == count and np.isfinite(values).all() else None
