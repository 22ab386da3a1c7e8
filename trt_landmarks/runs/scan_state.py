"""Whether a scan is still the one that was read: its size and the time of its last change."""

from __future__ import annotations

import os
import stat
from pathlib import Path

#: Bytes, nanoseconds of the last change, and files: one, or those of a folder.
State = tuple[int, int, int]


def scan_state(path: Path) -> State | None:
    """The state of a scan file, or of a folder with a DICOM series; None if it cannot be looked at.

    Contents are not read: a digest of 10,000 scans would take as long as reading them.  A file that is changed without
    changing its size, and given its old time back, goes unnoticed.  Files beside a header file (``.mhd``, ``.nhdr``)
    are not looked at.
    """
    try:
        own = os.stat(path)
        if not stat.S_ISDIR(own.st_mode):
            return own.st_size, own.st_mtime_ns, 1
        with os.scandir(path) as entries:
            files = [entry.stat() for entry in entries if entry.is_file()]
    except (OSError, ValueError):
        return None
    return sum(one.st_size for one in files), max((one.st_mtime_ns for one in files), default=0), len(files)
