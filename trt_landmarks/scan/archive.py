"""Zipped scans: unpacked into a private temporary folder that is always removed, and never beside it.

An archive comes from anywhere.  Its names may lead out of the folder, be links, or stand for far more data than the
archive is long; such an archive is refused before anything of it is written.
"""

from __future__ import annotations

import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from trt_landmarks.errors import ScanError
from trt_landmarks.scan.formats import extension
from trt_landmarks.scan.limits import max_voxels
from trt_landmarks.scan.problems import COPY_AGAIN, truncated

#: Files that an archive may hold.
MOST_FILES = 100_000
#: How much longer than the archive its content may be; scans reach 10, an empty one 1000.
MOST_RATIO = 200
#: Content below this many bytes may have any ratio.
SMALL = 64 << 20

_REMEDY = "Unpack it yourself if you trust it, and name the folder."


def holds_scan(path: Path) -> bool:
    """Whether an archive seems to hold a scan, by its names or the beginnings of its first files."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [one for one in archive.infolist() if not one.is_dir() and not _hidden(one.filename)]
            if any(extension(one.filename) not in ("", ".zip") for one in members):
                return True
            for one in members[:20]:
                with archive.open(one) as file:
                    if file.read(132)[128:] == b"DICM":
                        return True
            return False
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error, EOFError):
        return True  # what is wrong with it is said when it is read


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A temporary folder with an archive's files; hidden files and archives in it are left out.

    Raises:
        ScanError: if it is damaged, encrypted, unsafe or too large.
    """
    with tempfile.TemporaryDirectory(prefix="trtlm-") as name:
        folder = Path(name)
        try:
            with zipfile.ZipFile(path) as archive:
                for member in _members(path, archive):
                    target = folder / member.filename
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(member) as source, target.open("xb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)  # no more than the member's stated size
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError):
            raise ScanError(f"{path}: is damaged, encrypted, or not a zip archive.", COPY_AGAIN) from None
        except EOFError:
            raise truncated(path, "the compressed data ends too early") from None
        except FileExistsError:
            raise _unsafe(path, "names a file twice") from None
        yield folder


def _members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files to unpack; raises ScanError if the archive is unsafe or too large."""
    infos = archive.infolist()
    if len(infos) > MOST_FILES:
        raise _too_large(path, f"holds {len(infos)} files; at most {MOST_FILES} are unpacked")
    for info in infos:
        name = info.orig_filename
        if "\0" in name or "\\" in name or name.startswith("/") or re.match("[A-Za-z]:", name):
            raise _unsafe(path, "names files by absolute paths or with backslashes")
        if ".." in PurePosixPath(name).parts:
            raise _unsafe(path, "names files outside its own folder")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _unsafe(path, "holds links or devices")
    size, limit = sum(info.file_size for info in infos), 8 * max_voxels()
    if size > limit:
        raise _too_large(path, f"unpacks to {size:.3g} bytes; at most {limit:.3g} are unpacked")
    if size > max(SMALL, MOST_RATIO * path.stat().st_size):
        raise _too_large(path, f"unpacks to more than {MOST_RATIO} times its size")
    if size > shutil.disk_usage(tempfile.gettempdir()).free:
        raise _too_large(path, "unpacks to more than fits into the folder for temporary files")
    return [i for i in infos if not i.is_dir() and not _hidden(i.filename) and extension(i.filename) != ".zip"]


def _hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part.startswith(".") for part in parts) or "__MACOSX" in parts


def _unsafe(path: Path, why: str) -> ScanError:
    return ScanError(f"{path}: {why}.", _REMEDY, code="archive_unsafe")


def _too_large(path: Path, why: str) -> ScanError:
    return ScanError(f"{path}: {why}.", _REMEDY, code="scan_too_large")
