"""Training data: a folder of scans and annotations, and how it is split.

::

    folder/images/<case>.nii.gz        or another scan format, see trt_landmarks.scan
    folder/landmarks/<case>.mrk.json   or .fcsv, .csv, see trt_landmarks.data.annotations
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_landmarks.data.annotations import find_landmark_files, landmark_files_of, read_landmarks, select
from trt_landmarks.errors import DatasetError, ScanError
from trt_landmarks.files import read_json
from trt_landmarks.geometry import Floats

if TYPE_CHECKING:
    from trt_landmarks.task.task import Task

#: Keys that a split file may use for its validation cases.
_VALIDATION_KEYS = ("val", "validation", "valid")


@dataclass(frozen=True)
class Case:
    """One annotated scan.

    Attributes:
        id: file name without its ending.
        image: the scan.
        points: ``[N, 3]`` LPS mm in the task's order; NaN rows are not annotated.
    """

    id: str
    image: Path
    points: Floats


@dataclass(frozen=True)
class Dataset:
    """The annotated scans of a folder.

    Attributes:
        folder: where they are.
        names: the task's N landmarks.
        cases: sorted by id.
        unannotated: ids of scans without a landmark file, or whose file has no landmark of the task defined;
            they are left out.
        without_image: ids of landmark files without a scan; left out too.
        other_files: landmark files that are not used, because another one of the same case is.
    """

    folder: Path
    names: tuple[str, ...]
    cases: tuple[Case, ...]
    unannotated: tuple[str, ...] = ()
    without_image: tuple[str, ...] = ()
    other_files: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the cases."""
        return tuple(case.id for case in self.cases)

    @property
    def points(self) -> Floats:
        """``[C, N, 3]`` LPS mm of all cases."""
        return np.array([case.points for case in self.cases], dtype=np.float64).reshape(-1, len(self.names), 3)

    @property
    def warnings(self) -> list[str]:
        """What was left out, one sentence per kind; empty if nothing was."""
        kinds = (
            ("without annotated landmarks", self.unannotated),
            ("without a scan", self.without_image),
            ("beside another landmark file of the case", self.other_files),
        )
        return [f"{self.folder}: left out {what}: {', '.join(ids)}." for what, ids in kinds if ids]

    def subset(self, ids: Iterable[str]) -> tuple[Case, ...]:
        """The cases with these ids, in their order.

        Raises:
            DatasetError: naming ids that the dataset does not have.
        """
        by_id = {case.id: case for case in self.cases}
        wanted = list(ids)
        unknown = [case_id for case_id in wanted if case_id not in by_id]
        if unknown:
            raise DatasetError(f"{self.folder}: has no annotated case {', '.join(unknown)}.")
        return tuple(by_id[case_id] for case_id in wanted)


@dataclass(frozen=True)
class Split:
    """Ids of the cases to train and to validate with; disjoint."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def load_dataset(folder: str | Path, task: Task) -> Dataset:
    """Find and read the annotations of a training folder; scans are listed, not read.

    Raises:
        DatasetError: if a folder is missing, no scan is annotated, or a landmark of the task occurs in no
            annotation.
        LandmarkFileError: if an annotation cannot be read or is of another task.
    """
    from trt_landmarks.scan import find_scans

    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder.", "Name the folder that holds images/ and landmarks/.")
    for name, content in (("images", "<case>.nii.gz"), ("landmarks", "<case>.mrk.json")):
        if not (folder / name).is_dir():
            raise DatasetError(
                f"{folder}: has no folder '{name}'.", f"Training data are images/ and landmarks/; put {content} there."
            )
    try:
        scans = find_scans([folder / "images"])
    except ScanError as error:
        raise DatasetError(error.message, error.remedy) from None
    files = find_landmark_files(folder / "landmarks")
    chosen = dict(files)
    cases, unannotated = [], []
    for scan in sorted(scans, key=lambda scan: scan.id):
        path = files.pop(scan.id, None)
        points = None if path is None else select(read_landmarks(path), task.landmarks, path)
        if points is None or np.isnan(points).all():
            unannotated.append(scan.id)
        else:
            cases.append(Case(scan.id, scan.path, points))
    if not cases:
        raise DatasetError(
            f"{folder}: none of its {len(scans)} scans is annotated.",
            f"A scan and its landmark file need the same name before the ending, e.g. {scans[0].id}.mrk.json.",
        )
    used = {*chosen.values()}
    present = [path for case in chosen for path in landmark_files_of(folder / "landmarks", case)]
    others = sorted(path.name for path in present if path not in used)
    dataset = Dataset(folder, task.landmarks, tuple(cases), tuple(unannotated), tuple(files), tuple(others))
    points = dataset.points
    never = [name for i, name in enumerate(task.landmarks) if np.isnan(points[:, i]).any(axis=-1).all()]
    if never:
        raise DatasetError(
            f"{folder}: no case is annotated with {', '.join(never)}.",
            "Annotate them, or remove them from the task file.",
        )
    return dataset


def split_from_file(path: str | Path, ids: Iterable[str]) -> Split:
    """Read a split: JSON ``{"train": [ids], "val": [ids]}``; ``validation`` and ``valid`` mean ``val``.

    Cases in neither list are not used; a ``test`` list is checked likewise and otherwise ignored.

    Args:
        path: the file.
        ids: the cases that exist.

    Raises:
        DatasetError: naming the file and the key or the ids, if a list is missing or empty, an id occurs twice
            or does not exist.
    """
    content = read_json(path, DatasetError, "split file")
    content = content if isinstance(content, dict) else {}
    validation = [key for key in _VALIDATION_KEYS if key in content]
    if "train" not in content or len(validation) != 1:
        raise DatasetError(
            f"{path}: needs the lists 'train' and 'val'; it has {', '.join(content) or 'neither'}.",
            'For example {"train": ["a", "b"], "val": ["c"]}.',
        )
    known, owner = set(ids), dict[str, str]()
    for key in ("train", validation[0], "test"):
        for case_id in _ids(path, key, content.get(key, [])):
            if case_id in owner:
                where = f"in '{owner[case_id]}' and in '{key}'" if owner[case_id] != key else f"twice in '{key}'"
                raise DatasetError(f"{path}: '{case_id}' is {where}.", "Each case belongs to one list.")
            owner[case_id] = key
    unknown = [case_id for case_id in owner if case_id not in known]
    if unknown:
        raise DatasetError(f"{path}: these cases are not in the dataset: {', '.join(unknown)}.")
    for key in ("train", validation[0]):
        if not content[key]:
            raise DatasetError(f"{path}: '{key}' is empty.", "Training and validation each need at least one case.")
    return Split(tuple(content["train"]), tuple(content[validation[0]]))


def k_folds(ids: Sequence[str], k: int, seed: int = 0) -> list[Split]:
    """Cross-validation: k splits, each case validating once; sizes differ by at most one.

    The same ids and seed give the same folds on every machine and in any order of ``ids``: cases are dealt out in
    the order of a hash of seed and id, not by a random generator whose stream may change.

    Raises:
        DatasetError: if there are fewer than two folds or fewer cases than folds, or an id occurs twice.
    """
    if not 2 <= k <= len(ids) or len(set(ids)) < len(ids):
        raise DatasetError(f"cannot make {k} folds of {len(ids)} cases.", "Folds: from 2 to the number of cases.")
    order = sorted(ids, key=lambda case_id: hashlib.sha256(f"{seed}:{case_id}".encode()).digest())
    folds = [tuple(sorted(order[fold::k])) for fold in range(k)]
    return [Split(tuple(sorted(set(ids) - set(fold))), fold) for fold in folds]


def _ids(path: str | Path, key: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise DatasetError(f"{path}: '{key}' is not a list of case ids.", "Put each id in quotes.")
    return value
