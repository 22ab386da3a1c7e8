"""Where ``trtlm infer`` writes: formats by suffix, nothing destroyed, and what is said at the end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trt_landmarks.errors import TrtlmError

if TYPE_CHECKING:
    from trt_landmarks.runs.report import Tally

#: Suffixes of ``--out`` and their formats; no suffix is JSON.
FORMATS = {".json": "results", ".csv": "table", "": "results"}
#: What an output option gives, for the lines at the end.
_LABELS = {
    "--out": "results",
    "--csv": "table",
    "--report": "report of the run",
    "--log": "log",
    "--markups": "3D Slicer files",
    "--dicom-sr": "DICOM reports",
    "--figures": "pictures",
}


def is_csv(out: Path) -> bool:
    """Whether results go to a CSV table.

    Raises:
        TrtlmError: if the suffix names no format.
    """
    if out.exists() and not out.is_file() and not out.is_dir():  # a pipe or a device
        return False
    suffix = out.suffix.lower()
    if suffix not in FORMATS:
        raise TrtlmError(
            f"--out {out}: unknown format {suffix}.", "The suffix gives the format: .json or .csv.", code="usage"
        )
    return FORMATS[suffix] == "table"


def check_outputs(files: Mapping[str, Path | None], folders: Mapping[str, Path | None], inputs: Iterable[Path]) -> None:
    """Refuse outputs that would destroy an input or each other.

    Args:
        files: option to the file that it names.
        folders: option to the folder that it names.
        inputs: the scans.

    Raises:
        TrtlmError: naming the options, before anything is written.
    """
    taken: dict[str, str] = {}
    for option, path in (*files.items(), *folders.items()):
        if path is None or (path.exists() and not path.is_file() and not path.is_dir()):
            continue
        if option in files and path.is_dir():
            raise TrtlmError(f"{option} {path}: is a folder.", "Name a file.", code="usage")
        if option in folders and path.is_file():
            raise TrtlmError(f"{option} {path}: is a file.", "Name a folder.", code="usage")
        real = os.path.realpath(path)
        if real in taken:
            raise TrtlmError(
                f"{taken[real]} and {option} name the same place: {path}.", "Name another.", code="output_collision"
            )
        taken[real] = option
    for scan in inputs:
        option = taken.get(os.path.realpath(scan), "")
        if option and (option in files or not scan.is_dir()):
            raise TrtlmError(
                f"{option} {scan}: is one of the scans and would be overwritten.",
                "Name another.",
                code="output_collision",
            )


def written(counts: Tally, places: Mapping[str, Path | None]) -> list[str]:
    """The lines at the end of a run: how the scans came out, and where everything lies."""
    rows = [
        ("ok", counts.ok - counts.wrong, ""),
        ("of these with a landmark of low confidence", counts.low, "  "),
        ("do not show this anatomy", counts.wrong, ""),
        ("failed", counts.failed, ""),
    ]
    lines = [f"{counts.scans} scan{'' if counts.scans == 1 else 's'}:"]
    lines += [f"  {indent}{count:>6}  {label}" for label, count, indent in rows if count or label == "ok"]
    return lines + [f"{_LABELS[option]:<18} {path}" for option, path in places.items() if path is not None]
