"""What the tests of calibration share: folders of small scans, annotated or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK

from trt_landmarks.data.annotations import write_mrk_json


def write_scans(folder: Path, ids: Sequence[str], ending: str = ".nii.gz") -> list[Path]:
    """Small scans (20 x 22 x 24 voxels of 1 mm), smooth and each different."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, id in enumerate(ids):
        rng = np.random.default_rng(number)
        k, j, i = np.meshgrid(*(np.arange(n) - n / 2 for n in (24, 22, 20)), indexing="ij")
        voxels = sum(
            np.exp(-0.5 * (((i - x) ** 2 + (j - y) ** 2 + (k - z) ** 2) / 9)) for x, y, z in rng.uniform(-7, 7, (6, 3))
        )
        image = SimpleITK.GetImageFromArray((200 * voxels).astype(np.int16))
        paths.append(folder / f"{id}{ending}")
        SimpleITK.WriteImage(image, str(paths[-1]))
    return paths


def annotate(folder: Path, ids: Sequence[str], landmarks: Sequence[str]) -> list[Path]:
    """Annotations of the scans, the landmarks anywhere in them."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, id in enumerate(ids):
        points = np.random.default_rng(number).uniform(3, 17, (len(landmarks), 3))
        paths.append(folder / f"{id}.mrk.json")
        write_mrk_json(paths[-1], dict(zip(landmarks, points, strict=True)))
    return paths
