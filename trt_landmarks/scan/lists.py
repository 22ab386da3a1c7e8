"""Lists of scans: text with a path a line, or a table.

``.txt``: one path a line; empty lines and lines that start with ``#`` are skipped.  ``.csv``: a column ``path`` and, if
the cases are to have names of one's own, a column ``id``; columns are separated by commas, semicolons or tabs.
Paths are relative to the list's folder, those on standard input to the working folder.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from trt_landmarks.errors import ScanError
from trt_landmarks.files import read_text

#: Names of lists; ``-`` is standard input.
EXTENSIONS = (".txt", ".csv")
STANDARD_INPUT = "-"


class Listed(NamedTuple):
    """A line of a list: a scan file or a folder, and the id that it is to have, if any."""

    path: Path
    id: str | None = None


def is_list(path: Path) -> bool:
    """Whether a path that was named is a list of scans, not a scan."""
    return str(path) == STANDARD_INPUT or (path.suffix.lower() in EXTENSIONS and path.is_file())


def read_list(path: Path) -> list[Listed]:
    """The lines of a list.

    Raises:
        ScanError: if it cannot be read, has no lines or no column ``path``, or gives an id twice or one
            that cannot be part of a file name.
    """
    if str(path) == STANDARD_INPUT:
        content, folder = sys.stdin.read(), Path()
    else:
        content, folder = read_text(path, ScanError, "list of scans"), path.parent
    listed = _table(path, content) if path.suffix.lower() == ".csv" else _lines(content)
    if not listed:
        raise ScanError(f"{path}: lists no scans.", "Write one path a line.", code="scans_none")
    twice = [id for id, count in Counter(one.id for one in listed if one.id).items() if count > 1]
    if twice:
        message = f"{path}: the id '{twice[0]}' occurs twice."
        raise ScanError(message, "Give every scan an id of its own.", code="list_invalid")
    for one in listed:
        if one.id and re.search(r"^\.|[/\\\x00-\x1f]", one.id):
            message = f"{path}: '{one.id}' cannot be an id: files are named after it."
            raise ScanError(message, "Write ids without slashes or a leading point.", code="list_invalid")
    return [Listed(folder / one.path, one.id) for one in listed]


def _lines(content: str) -> list[Listed]:
    lines = (line.strip() for line in content.splitlines())
    return [Listed(Path(line)) for line in lines if line and not line.startswith("#")]


def _table(path: Path, content: str) -> list[Listed]:
    head = content.split("\n", 1)[0]
    separator = max(",;\t", key=head.count)
    rows = csv.DictReader(io.StringIO(content, newline=""), delimiter=separator, skipinitialspace=True)
    try:
        if "path" not in (rows.fieldnames or ()):
            message = f"{path}: has no column 'path'."
            raise ScanError(message, "Name the columns in its first line.", code="list_invalid")
        texts = [((row["path"] or "").strip(), (row.get("id") or "").strip()) for row in rows]
    except csv.Error as error:
        raise ScanError(f"{path}: is not a table: {error}.", "Save it as CSV.", code="list_invalid") from None
    return [Listed(Path(text), id or None) for text, id in texts if text]
