"""What a scan is stored in: its files, their size, and a digest of what is in them.

The SHA-256 of a scan in one file is that file's.  Of several files (a DICOM series, a header and its voxels) it is
the SHA-256 of the lines that ``sha256sum`` prints for them, sorted by name: ``<digest>  <name below the folder>``.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from trt_landmarks.files import file_sha256
from trt_landmarks.scan.dicom_objects import dicom_files
from trt_landmarks.scan.formats import extension
from trt_landmarks.scan.volume import ScanFile

#: Bytes in which a text header names its files of voxels.
_HEADER = 1 << 20


@dataclass(frozen=True)
class Content:
    """What a scan's files hold.

    Attributes:
        bytes: of all files.
        files: how many there are.
        sha256: of their contents.
        modified: when the last of them was changed, UTC.
    """

    bytes: int
    files: int
    sha256: str
    modified: str


def scan_content(file: ScanFile) -> Content | None:
    """The content of a scan; None if it cannot be read."""
    try:
        paths = scan_files(file)
        own = [os.stat(path) for path in paths]
        if not paths or not all(stat.S_ISREG(one.st_mode) for one in own):  # a pipe may have no end
            return None
        digests = [file_sha256(path) for path in paths]
    except (OSError, ValueError):
        return None
    base = file.path if file.path.is_dir() else file.path.parent
    lines = [f"{digest}  {os.path.relpath(path, base)}\n" for digest, path in zip(digests, paths, strict=True)]
    whole = hashlib.sha256(os.fsencode("".join(lines))).hexdigest() if len(paths) > 1 else digests[0]
    latest = datetime.fromtimestamp(max(one.st_mtime for one in own), timezone.utc)
    return Content(sum(one.st_size for one in own), len(paths), whole, latest.isoformat(timespec="microseconds"))


def scan_state(file: ScanFile) -> tuple[tuple[int, int], ...] | None:
    """Bytes and time of the last change of each of a scan's files; nothing is read but headers that name others."""
    try:
        return tuple((one.st_size, one.st_mtime_ns) for one in map(os.stat, scan_files(file)))
    except (OSError, ValueError):
        return None


def scan_files(file: ScanFile) -> list[Path]:
    """The files that a scan is read from.

    Of a folder all DICOM files; if one of several series is meant, those in folders below too, where its slices may be.

    Raises:
        OSError: if the folder or the header cannot be read.
    """
    path = file.path
    if path.is_dir():
        return dicom_files(path, deep=file.series is not None)
    if path.is_file() and extension(path) in (".mhd", ".mha", ".nhdr", ".nrrd"):
        return [path, *_named(path)]
    return [path]


def _named(path: Path) -> list[Path]:
    """The files of voxels that a text header names and that are there."""
    with path.open("rb") as stream:
        text = os.fsdecode(stream.read(_HEADER))
    match = re.search(r"^(?:ElementDataFile *=|data ?file:) *(.*?)\s*$", text, re.MULTILINE)
    if match is None or match[1].upper() == "LOCAL":
        return []
    name, *_ = match[1].split() or [""]
    if name.upper().startswith("LIST"):
        names = [line.strip() for line in text[match.end() :].splitlines()]
    elif "%" in name:
        names = [one.name for one in path.parent.glob(re.sub(r"%\d*[di]", "*", name))]
    else:
        names = [match[1]]
    return sorted({path.parent / one for one in names if one and (path.parent / one).is_file()} - {path})
