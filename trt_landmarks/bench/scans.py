"""Which scans are measured on, and what is known of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.data.annotations import find_landmark_files, read_landmarks, select
from trt_landmarks.errors import ScanError
from trt_landmarks.geometry import Floats
from trt_landmarks.scan import ScanFile, find_scans

#: Environment variable naming the folder of real data; the mouse skulls in it are the default scans of their model.
DATA_VARIABLE = "TRTLM_DATA"
MOUSE_SKULLS = Path("mouse-skull-ct", "posed", "images")


def choose_files(bundle: Bundle, scans: Path | None) -> list[ScanFile]:
    """The scans to measure on, those that the model's training did not see first.

    Args:
        bundle: the model.
        scans: file or folder; None for the mouse skulls of ``TRTLM_DATA``, if they are the model's.

    Raises:
        ScanError: if there are none.
    """
    if scans is None:
        data = os.environ.get(DATA_VARIABLE)
        if bundle.task.name != "mouse-skull" or not data or not (Path(data) / MOUSE_SKULLS).is_dir():
            raise ScanError(
                "There are no scans to measure on.", "Name a file or folder of real ones: --scans FOLDER.",
                code="scans_none",
            )  # fmt: skip
        scans = Path(data) / MOUSE_SKULLS
    return sorted(find_scans([scans]), key=lambda file: file.id not in unseen(bundle))


def unseen(bundle: Bundle) -> list[str]:
    """Ids of the scans that the model's training kept for validation."""
    return list(bundle.manifest.get("training", {}).get("split", {}).get("val", []))


def annotated(
    bundle: Bundle, files: Sequence[ScanFile], scans: Path | None, landmarks: Path | None
) -> dict[str, Floats]:
    """Scan id to annotated points ``[N, 3]`` (LPS mm), for those that have any.

    Args:
        bundle: the model.
        files: the scans.
        scans: file or folder that was named for them.
        landmarks: folder of annotations; None looks for ``landmarks/`` in and beside ``scans``.

    Raises:
        LandmarkFileError: if an annotation cannot be read or is of another task.
    """
    root = scans if scans is not None and scans.is_dir() else files[0].path.parent
    beside = (root / "landmarks", root.parent / "landmarks")
    folder = landmarks or next((path for path in beside if path.is_dir()), None)
    known = find_landmark_files(folder) if folder is not None else {}
    names, ids = bundle.task.landmarks, [file.id for file in files]
    return {id: select(read_landmarks(known[id]), names, known[id]) for id in ids if id in known}
