"""The header of a run's results: all that made them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from trt_landmarks import __version__
from trt_landmarks.bundles.builds import RECORD, find_build
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.files import file_sha256
from trt_landmarks.results.predictions import Predictions
from trt_landmarks.runs.report import PACKAGES
from trt_landmarks.runs.workers import Workers
from trt_landmarks.system import installed_version, installed_versions

#: Engine to the package that it is in.
_DISTRIBUTIONS = {"tensorrt": "tensorrt-cu13", "tensorrt-rtx": "tensorrt-rtx-cu13"}


def run_header(bundle: Bundle, workers: Workers, settings: Mapping[str, Any], views: Mapping[str, Any]) -> Predictions:
    """Product, model, engine, settings and measurements of a run; no cases.

    The model's ``sha256`` is the manifest's, which names those of all its files; ``build_sha256`` is that of the
    build's record, which names those of the build's files.

    Args:
        bundle: the model, with the measurements of the run.
        workers: what computes.
        settings: what the user chose, plain data.
        views: which views of a scan were computed: ``pose``, ``tta``.
    """
    engine = workers.engine
    build = find_build(bundle, engine.name, engine.precision)
    confidence = bundle.confidence_file
    return Predictions(
        bundle.task.name,
        {
            "name": bundle.name,
            "path": str(bundle.root),
            "sha256": bundle.sha256,
            "confidence_sha256": None if confidence is None else file_sha256(confidence),
            "build_sha256": None if build is None else file_sha256(build.folder / RECORD),
        },
        {
            "name": engine.name,
            "version": installed_version(_DISTRIBUTIONS.get(engine.name, engine.name)),
            "precision": engine.precision,
            "provider": engine.provider,
            "note": workers.note,
            "preprocessing": workers.preprocessing,
            **views,
        },
        run={
            "version": __version__,
            "versions": {"python": platform.python_version(), **installed_versions(PACKAGES)},
            "settings": dict(settings),
            "measurements": [measure.model_dump(mode="json") for measure in bundle.task.measurements],
        },
    )
