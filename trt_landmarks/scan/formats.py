"""Which files are scans, by their names, and what a case is called after its file."""

from __future__ import annotations

import os
from pathlib import Path

from trt_landmarks.scan.names import printable_name

#: Known extensions and ITK's name for what reads them (empty: not ITK); DICOM files need none.
EXTENSIONS: dict[str, str] = {
    ".nii.gz": "NiftiImageIO",
    ".nii": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".dcm": "GDCMImageIO",
    ".npz": "",
    ".zip": "",
}
KNOWN = f"Known are {', '.join(EXTENSIONS)} and folders with DICOM files."


def extension(path: str | Path) -> str:
    """The scan extension of a file name, in lower case; empty if it has none of :data:`EXTENSIONS`."""
    name = Path(path).name.lower()
    return next((e for e in EXTENSIONS if name.endswith(e) and name != e), "")


def case_id(path: str | Path) -> str:
    """A file's name without its scan extension, a folder's name: ``LG.J_.nii.gz`` is ``LG.J_``."""
    name = Path(os.path.abspath(path)).name
    known = "" if Path(path).is_dir() else extension(path)
    return printable_name(name[: len(name) - len(known)]) or "scan"
