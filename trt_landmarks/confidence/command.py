"""From annotated scans to the confidence of a model, and how good it is: what ``trtlm confidence`` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.confidence.fitting import fit_confidence, left_out, sample
from trt_landmarks.confidence.measuring import judge_left_out, measure
from trt_landmarks.confidence.observation import Observation, load_observations, observe_case, save_observations
from trt_landmarks.data.dataset import Case, Split, load_dataset, split_from_file
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.errors import DatasetError
from trt_landmarks.localization.confidence import ConfidenceModel
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.localization.shape_model import ShapeModel, fit_shape_model

#: What of the measurement goes into the bundle.
KEPT = ("cases", "parts", "wrong")


@dataclass(frozen=True)
class Fitted:
    """A fitted confidence, and how good it is.

    Attributes:
        model: the confidence, fitted to all cases.
        report: every figure, each case judged by a fit without it; plain data.
    """

    model: ConfidenceModel
    report: dict[str, Any]


def shape_and_cases(bundle: Bundle, data: Path, split: Path | None = None) -> tuple[ShapeModel, tuple[Case, ...]]:
    """How the training cases' landmarks lie, and the validation cases.

    Args:
        bundle: the model.
        data: folder with ``images/`` and ``landmarks/``.
        split: which are which; None for the split the model was trained with.

    Raises:
        DatasetError: if the data do not fit, or there are too few training cases.
    """
    dataset = load_dataset(data, bundle.task)
    if split is not None:
        chosen = split_from_file(split, dataset.ids)
    else:
        kept = bundle.manifest.get("training", {}).get("split", {})
        if not kept.get("train") or not kept.get("val"):
            message = f"{bundle.root}: does not say which cases it was trained with."
            raise DatasetError(message, "Name a split file with --split.")
        chosen = Split(tuple(kept["train"]), tuple(kept["val"]))
    shapes = np.stack([case.points for case in dataset.subset(chosen.train)])
    return fit_shape_model(shapes), dataset.subset(chosen.validation)


def gather(
    bundle: Bundle,
    cases: Sequence[Case],
    kept: Path | None = None,
    *,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Observation]:
    """What the FP32 graphs find in validation scans and their perturbations.

    Args:
        bundle: the model.
        cases: the validation cases.
        kept: file of observations of this model; taken if it is there, else written.
        seed: of the perturbations.
        threads: of ONNX Runtime; None takes all cores.
        progress: called after each case, which takes about forty times as long as one scan.

    Raises:
        DatasetError: if ``kept`` is not of these cases, or cannot be written.
        ScanError: if a scan cannot be read.
    """
    if kept is not None and kept.is_file():
        seen = load_observations(kept, bundle.task)
        if {one.case for one in seen} != {case.id for case in cases}:
            raise DatasetError(f"{kept}: is not of the validation cases.", "Remove it, or name another file.")
        return seen
    localizer = Localizer(bundle.task, bundle.mean_shape, OnnxRuntimeEngine(bundle.cpu_graphs, threads=threads))
    seen = []
    for case in cases:
        seen += observe_case(localizer, case, seed=seed)
        progress(case.id)
    if kept is not None:
        save_observations(kept, seen)
    return seen


def fit(bundle: Bundle, shape: ShapeModel, observations: Sequence[Observation]) -> Fitted:
    """Fit a confidence and measure it; the bundle is not changed.

    Raises:
        DatasetError: if there are too few cases.
    """
    data = sample(shape, observations)
    model = fit_confidence(bundle.task, shape, data)
    judged = judge_left_out(data, left_out(bundle.task, shape, data))
    report = {
        "model": bundle.name,
        "task": bundle.task.name,
        "large_error_mm": round(model.large_error_mm, 4),
        "low_below": round(model.low_below, 4),
        "shape_modes": len(shape.modes),
        "shape_noise_mm": round(float(shape.noise.mean()), 4),
        **measure(judged, bundle.task.low_confidence_below),
    }
    return Fitted(replace(model, measured={key: report[key] for key in KEPT}), report)
