"""What the model found in scans whose truth is known: gathered once, kept in a file, fitted as often as wanted.

A file (``.npz``) holds, over S scans and N landmarks: ``case``, ``kind``, ``range`` [S] text; ``strength`` [S];
``points``, ``coarse_points``, ``truth`` [S, N, 3] LPS mm; ``peaks`` [S, N]; and ``slices`` [S, G, 2, 3], point and
normal of the groups' key slices.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks.confidence.perturbation import Perturbed, perturbations
from trt_landmarks.data.dataset import Case
from trt_landmarks.errors import DatasetError
from trt_landmarks.files import write_bytes
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.localization.result import Localization, SlicePlane
from trt_landmarks.scan import read_scan
from trt_landmarks.task.task import Task


@dataclass(frozen=True)
class Observation:
    """A localization and the truth.

    Attributes:
        case: id of the annotated scan that this one was made of.
        kind: what was done to it (:mod:`~trt_landmarks.confidence.perturbation`).
        range: ``mild``, ``hard`` or ``wrong``.
        strength: how much of it.
        found: what the model found, its confidence the height of the heat maps.
        truth: ``[N, 3]`` LPS mm; NaN where not annotated.
    """

    case: str
    kind: str
    range: str
    strength: float
    found: Localization
    truth: Floats

    @property
    def errors(self) -> Floats:
        """``[N]`` radial errors, mm; NaN where not annotated."""
        distance: Floats = np.linalg.norm(self.found.points - self.truth, axis=1)
        return distance


def observe(localizer: Localizer, made: Perturbed) -> Observation:
    """Localize one scan."""
    found = localizer.localize(made.scan)
    return Observation(made.scan.id, made.kind, made.range, made.strength, found, made.points)


def observe_case(localizer: Localizer, case: Case, *, seed: int = 0) -> list[Observation]:
    """Localize an annotated scan and its perturbations.

    Raises:
        ScanError: if it cannot be read.
    """
    scan = replace(read_scan(case.image), id=case.id)
    return [observe(localizer, made) for made in perturbations(scan, case.points, localizer.task, seed=seed)]


def save_observations(path: str | Path, observations: Sequence[Observation]) -> None:
    """Write them to a ``.npz`` file.

    Raises:
        DatasetError: if the file cannot be written.
    """
    arrays: dict[str, Any] = {
        "case": np.array([one.case for one in observations]),
        "kind": np.array([one.kind for one in observations]),
        "range": np.array([one.range for one in observations]),
        "strength": np.array([one.strength for one in observations]),
        "points": np.stack([one.found.points for one in observations]),
        "coarse_points": np.stack([one.found.coarse_points for one in observations]),
        "peaks": np.stack([one.found.confidence for one in observations]),
        "truth": np.stack([one.truth for one in observations]),
        "slices": np.array([[(p.point, p.normal) for p in one.found.slices] for one in observations]),
    }
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(path, content.getbuffer(), DatasetError)


def load_observations(path: str | Path, task: Task) -> list[Observation]:
    """Read a file of :func:`save_observations`.

    Raises:
        DatasetError: if it is not such a file or is of another task.
    """
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            kept = {name: file[name] for name in file.files}
        if kept["points"].shape[1:] != (len(task.landmarks), 3):
            raise DatasetError(
                f"{path}: holds {kept['points'].shape[1]} landmarks; the task has {len(task.landmarks)}."
            )
        return [_observation(kept, row, task) for row in range(len(kept["case"]))]
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        raise DatasetError(f"{path}: is not a file of observations.", "Make it again with trtlm confidence.") from None


def _observation(kept: Mapping[str, Any], row: int, task: Task) -> Observation:
    planes = zip(task.groups, kept["slices"][row], strict=False)
    found = Localization(
        kept["points"][row],
        kept["peaks"][row],
        kept["coarse_points"][row],
        tuple(SlicePlane(group, point, normal) for group, (point, normal) in planes),
        {},
    )
    return Observation(
        str(kept["case"][row]),
        str(kept["kind"][row]),
        str(kept["range"][row]),
        float(kept["strength"][row]),
        found,
        kept["truth"][row],
    )
