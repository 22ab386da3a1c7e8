"""Which real scans a build is calibrated on, and which it is measured on: never the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks.data.annotations import find_landmark_files, read_landmarks, select
from trt_landmarks.errors import ScanError
from trt_landmarks.files import file_sha256
from trt_landmarks.geometry import Floats
from trt_landmarks.scan import Scan, ScanFile, find_scans, read_scan
from trt_landmarks.scan.content import scan_content

#: Scans to calibrate on and to measure on, unless told otherwise.
CALIBRATION, HELD_OUT = 16, 5


@dataclass(frozen=True)
class CalibrationScans:
    """Scans chosen from a folder.

    Attributes:
        calibration: scans whose inputs set the ranges.
        held_out: scans that a build is compared with FP32 on.
        annotations: landmark files of held-out scans, by id.
        seed: of the choice.
    """

    calibration: tuple[ScanFile, ...]
    held_out: tuple[ScanFile, ...]
    annotations: dict[str, Path] = field(default_factory=dict)
    seed: int = 0

    def digests(self) -> dict[str, Any]:
        """SHA-256 of every file's content, by use and id: the part of a build's key that the scans are."""
        return {
            "calibration": {file.id: _sha256(file) for file in self.calibration},
            "held_out": {file.id: _sha256(file) for file in self.held_out},
            "annotations": {id: file_sha256(path) for id, path in sorted(self.annotations.items())},
        }

    def check_apart(self) -> None:
        """Check that no scan to measure on equals one to calibrate on, whatever their files are called.

        Raises:
            ScanError: naming two that have the same voxels; or one that cannot be read.
        """
        known: dict[str, ScanFile] = {}
        for file in (*self.calibration, *self.held_out):
            (scan,) = read_scans([file])
            voxels = np.ascontiguousarray(scan.voxels, dtype=np.float32)
            digest = hashlib.sha256(f"{voxels.shape}".encode() + voxels.tobytes()).hexdigest()
            if file in self.held_out and digest in known:
                raise ScanError(
                    f"{file.path}: has the same voxels as {known[digest].path}, which is calibrated on.",
                    "Take one of them out of the folder: what is measured on must be unseen.",
                    code="scans_equal",
                )
            if file in self.calibration:
                known.setdefault(digest, file)

    def truth(self, names: Sequence[str]) -> Floats | None:
        """``[held-out scans, N, 3]`` LPS mm, NaN where not annotated; None if no held-out scan is annotated.

        Raises:
            LandmarkFileError: if a file is damaged.
        """
        if not self.annotations:
            return None
        points = np.full((len(self.held_out), len(names), 3), np.nan)
        for row, file in enumerate(self.held_out):
            if file.id in self.annotations:
                path = self.annotations[file.id]
                points[row] = select(read_landmarks(path), names, path)
        return points


def choose_scans(
    data: Path,
    count: int = CALIBRATION,
    held_out: int = HELD_OUT,
    *,
    seed: int = 0,
    validation: Sequence[str] = (),
    landmarks: Path | None = None,
) -> CalibrationScans:
    """Choose scans of a folder by a seed.

    Args:
        data: a folder of scans; or a data set, with its annotations in ``landmarks/`` in it or beside it.
        count: scans to calibrate on.
        held_out: scans to measure on, at most; there is always one at least.
        seed: of the choice.
        validation: ids that the model's training did not see; they are held out first and never calibrated on.
        landmarks: folder of annotations; None looks for ``landmarks/``.

    Raises:
        ScanError: if there are no scans or too few.
        LandmarkFileError: if ``landmarks`` is not a folder of landmark files.
    """
    files = find_scans([data])
    order = np.random.default_rng(seed).permutation(len(files))
    shuffled = [files[n] for n in order]
    unseen = [file for file in shuffled if file.id in validation]
    others = [file for file in shuffled if file.id not in validation]
    apart = (unseen + others[count:])[:held_out]
    calibration = others[:count]
    if len(calibration) < count or not apart:
        raise ScanError(
            f"{data}: has {len(files)} scans"
            + (f", {len(unseen)} of them for validation" if unseen else "")
            + f"; calibrating on {count} and measuring on others takes more.",
            "Add scans, or ask for fewer with --n.",
            code="too_few_scans",
        )
    folder = landmarks or next((p for p in (data / "landmarks", data.parent / "landmarks") if p.is_dir()), None)
    known = find_landmark_files(folder) if folder is not None else {}
    return CalibrationScans(
        tuple(sorted(calibration, key=lambda file: file.id)),
        tuple(sorted(apart, key=lambda file: file.id)),
        {file.id: known[file.id] for file in apart if file.id in known},
        seed,
    )


def read_scans(files: Sequence[ScanFile]) -> list[Scan]:
    """Read chosen scans, under the ids they were found by.

    Raises:
        ScanError: naming the first that cannot be read: a build is not made on other scans than it names.
    """
    scans = []
    for file in files:
        try:
            scans.append(read_scan(file))
        except ScanError as error:
            raise ScanError(
                f"{error.message} It was chosen for calibration; nothing was built.",
                "Mend this scan or take it out of the folder.",
                code=error.code,
            ) from None
    return scans


def _sha256(file: ScanFile) -> str:
    content = scan_content(file)
    if content is None:
        raise ScanError(f"{file.path}: cannot be read.", "Check its permissions.")
    return content.sha256
