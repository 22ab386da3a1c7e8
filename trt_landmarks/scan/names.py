"""File names for libraries and for results: C++ readers abort on names that are not UTF-8."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path


def printable_name(name: str) -> str:
    """A name as valid Unicode: bytes that are not UTF-8 become backslash escapes, the same in every output."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def readable_path(path: Path) -> Path:
    """A path to the same file that a C++ library can open: the path itself, or an ASCII link to it.

    Links lie in a temporary folder of this process and go with it.  Where only a folder's name is not UTF-8 the link
    is to the folder, so that files that belong together stay beside each other.
    """
    whole = os.path.abspath(path)
    if _is_utf8(whole):
        return path
    name = os.path.basename(whole)
    if _is_utf8(name):
        return _link(os.path.dirname(whole), "folder") / name
    suffixes = "".join(part for part in Path(name).suffixes[-2:] if _is_utf8(part) and part.isascii())
    return _link(whole, f"scan{suffixes}")


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # surrogates: bytes that are not UTF-8
        return False
    return True


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="trtlm-links-")


@cache
def _link(target: str, name: str) -> Path:
    link = Path(tempfile.mkdtemp(dir=_folder().name)) / name
    link.symlink_to(target)
    return link
