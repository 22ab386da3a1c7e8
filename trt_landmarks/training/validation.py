"""Validation of a whole checkpoint: both stages, through the same localizer that inference uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trt_landmarks.data.dataset import Case
from trt_landmarks.engines.torch import TorchEngine
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.localization.result import Localization
from trt_landmarks.results.metrics import evaluate_points
from trt_landmarks.scan import read_scan
from trt_landmarks.training.checkpoint import Checkpoint


def localize_cases(checkpoint: Checkpoint, cases: Sequence[Case]) -> list[Localization]:
    """Landmarks of annotated scans, by the PyTorch nets."""
    localizer = Localizer(checkpoint.task, checkpoint.mean_shape, TorchEngine(checkpoint.nets))
    return [localizer.localize(read_scan(case.image)) for case in cases]


def validate_checkpoint(checkpoint: Checkpoint, cases: Sequence[Case]) -> dict[str, Any]:
    """MRE, SDR and the rest (:func:`~trt_landmarks.results.metrics.evaluate_points`): both stages, coarse alone, and
    ``mean_shape``, what is right without any net: the training set's mean shape about the scan's middle.
    """
    localizer = Localizer(checkpoint.task, checkpoint.mean_shape, TorchEngine(checkpoint.nets))
    results, middles = [], []
    for case in cases:
        scan = read_scan(case.image)
        results.append(localizer.localize(scan))
        middles.append(scan.geometry.centre)
    truth = np.stack([case.points for case in cases])
    task = checkpoint.task
    groups = {group.name: list(group.landmarks) for group in task.groups}

    def tables(points: list[Any]) -> dict[str, Any]:
        return evaluate_points(np.stack(points), truth, task.landmarks, task.sdr_radii_mm, groups=groups).to_dict()

    return {
        "cases": [case.id for case in cases],
        "fine": tables([result.points for result in results]),
        "coarse": tables([result.coarse_points for result in results]),
        "mean_shape": tables([checkpoint.mean_shape + middle for middle in middles]),
    }
