"""The record of a training run: which task, split, settings and data a run folder belongs to."""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks.data.dataset import Case
from trt_landmarks.errors import CheckpointError
from trt_landmarks.files import read_json, write_text

#: Keys of a task that do not change what is trained.
UNTRAINED_KEYS = ("description", "sdr_radii_mm", "low_confidence_below", "batches", "measurements")


@contextmanager
def claimed(folder: Path, record: Mapping[str, Any], cases: Sequence[Case]) -> Iterator[None]:
    """Hold a run folder for one training, from its first start to its end.

    Args:
        folder: the run folder; its ``stages`` exist.
        record: plain data: task, split, seed, settings.
        cases: the annotated scans of training and validation.

    Raises:
        CheckpointError: if another process trains in the folder, or it holds a run of another task, split, settings,
            annotations or images; the keys that differ are named.
    """
    with (folder / "stages" / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError(
                f"{folder}: another training is running in this folder.",
                "Name another --out folder.",
                code="run_in_use",
            ) from None
        _compare(folder, record, cases)
        yield


def _compare(folder: Path, record: Mapping[str, Any], cases: Sequence[Case]) -> None:
    path = folder / "stages" / "run.json"
    points = hashlib.sha256()
    for case in cases:
        points.update(np.ascontiguousarray(case.points).tobytes())
    images = {case.id: _fingerprint(case.image) for case in cases}
    whole = {**record, "annotations_sha256": points.hexdigest(), "images": images}
    now: dict[str, Any] = json.loads(json.dumps(whole, default=str))
    if path.exists():
        changed = changed_keys(_read_record(path), now)
        if changed:
            raise CheckpointError(
                f"{folder}: holds a run with other values of {', '.join(changed)}.",
                "Name another --out folder, or repeat the command that began this run.",
                code="run_differs",
            )
    write_text(path, json.dumps(now, indent=1), CheckpointError)


def changed_keys(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Dotted keys whose values differ and matter: what only describes or judges a model may change."""
    keys = []
    for key in sorted(before.keys() | now.keys()):
        if key in UNTRAINED_KEYS:
            continue
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            keys += [f"{key}.{inner}" for inner in changed_keys(old, new)]
        elif old != new:
            keys.append(key)
    return keys


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path, CheckpointError, "run record", remedy="Remove the run folder and train again."))
    except (TypeError, ValueError):
        raise CheckpointError(f"{path}: is damaged.", "Remove the run folder and train again.") from None


def _fingerprint(path: Path) -> str:
    """SHA-256 of a file's size and of its first and last MiB; of a folder, of the names and sizes in it."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()
    size = path.stat().st_size
    digest.update(str(size).encode())
    with path.open("rb") as stream:
        digest.update(stream.read(1 << 20))
        stream.seek(max(0, size - (1 << 20)))
        digest.update(stream.read())
    return digest.hexdigest()
