"""DICOM series made from scans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import ArrayLike

from trt_landmarks.scan import Scan

STORAGE = "1.2.840.10008.5.1.4.1.1"


def write_slice(path: Path, pixels: np.ndarray, spacing: Sequence[float], tags: Mapping[str, str]) -> Path:
    """A DICOM file of one slice ``[j, i]``, whatever its name; tags of None are left out."""
    image = SimpleITK.GetImageFromArray(pixels[None])
    image.SetSpacing((*spacing[:2], 1.0))
    for key, value in tags.items():
        image.SetMetaData(key, value)
    writer = SimpleITK.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)
    return path


def write_series(
    folder: Path,
    scan: Scan,
    uid: str = "1.2.3.4",
    *,
    number: str = "",
    suffix: str = ".dcm",
    positions: ArrayLike | None = None,
    tags: Mapping[str, str] | None = None,
) -> list[Path]:
    """The scan's slices as DICOM files, named against their order in space; ``positions`` ``[K, 3]`` replace theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    count = scan.geometry.size[2]
    usual = scan.geometry.voxel_to_world([[0, 0, k] for k in range(count)])
    places = usual if positions is None else np.asarray(positions)
    paths = []
    for k in range(count):
        path = folder / f"{uid}_{count - k:03d}{suffix}"
        said = {
            "0008|0060": "CT",
            "0008|0018": f"{uid}.5.{k}",
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0011": number,
            "0020|0013": str(count - k),
            "0020|0032": "\\".join(f"{v:.8f}" for v in places[k]),
            "0020|0037": "\\".join(f"{v:.10f}" for v in scan.geometry.direction[:, :2].T.ravel()),
            **(tags or {}),
        }
        paths.append(write_slice(path, scan.voxels[k], scan.geometry.spacing, said))
    return paths


def replace_bytes(path: Path, old: bytes, new: bytes) -> None:
    """Change a file where it says something first."""
    content = path.read_bytes()
    assert old in content and len(old) == len(new)
    path.write_bytes(content.replace(old, new, 1))
