"""The gate: how far a build's landmarks are from FP32's on scans it was not calibrated on, and how far they may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from trt_landmarks.bundles.builds import deviation_summary
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.calibration.recipe import LIMITS
from trt_landmarks.engines.base import Engine
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.localization.result import Localization
from trt_landmarks.scan import Scan


def localize_all(bundle: Bundle, engine: Engine, scans: Sequence[Scan]) -> list[Localization]:
    """The whole method on every scan, one after the other."""
    localizer = Localizer(bundle.task, bundle.mean_shape, engine)
    return [localizer.localize(scan) for scan in scans]


def deviation(
    bundle: Bundle, expected: Sequence[Localization], found: Sequence[Localization], truth: Floats | None
) -> dict[str, Any]:
    """Compare what two engines localize in the same scans.

    Args:
        bundle: the model.
        expected: FP32's results, one per scan.
        found: the other engine's.
        truth: ``[scans, N, 3]`` LPS mm, NaN where not annotated; or None.

    Returns:
        Plain data: distances of the landmarks in voxels of the patch grid and in mm (``mean_voxel``, ``p95_voxel``,
        ``p99_voxel``, ``max_voxel``, ``mean_mm``, ``max_mm``), those of the coarse points (``coarse_mean_mm``), the
        largest difference of confidences and of key slices, per landmark ``mean_mm``, ``p95_mm`` and ``max_mm``, and
        where there is truth the mean radial errors ``mre_fp32_mm``, ``mre_mm`` and ``mre_percent``, the growth of it.
    """
    old, new = np.stack([x.points for x in expected]), np.stack([x.points for x in found])
    coarse = np.stack([a.coarse_points - b.coarse_points for a, b in zip(expected, found, strict=True)])
    mm = np.linalg.norm(new - old, axis=-1)
    voxels = np.linalg.norm((new - old) / np.asarray(bundle.task.fine.spacing_mm), axis=-1)
    confidence = max(float(np.abs(a.confidence - b.confidence).max()) for a, b in zip(expected, found, strict=True))
    planes = [
        abs(float((q.point - p.point) @ p.normal))
        for a, b in zip(expected, found, strict=True)
        for p, q in zip(a.slices, b.slices, strict=True)
    ]
    figures: dict[str, Any] = {
        "mean_voxel": voxels.mean(),
        "p95_voxel": np.percentile(voxels, 95),
        "p99_voxel": np.percentile(voxels, 99),
        "max_voxel": voxels.max(),
        "mean_mm": mm.mean(),
        "max_mm": mm.max(),
        "coarse_mean_mm": np.linalg.norm(coarse, axis=-1).mean(),
        "max_confidence": confidence,
        "max_key_slice_mm": max(planes, default=0.0),
    }
    if truth is not None and np.isfinite(truth).any():
        errors = [np.nanmean(np.linalg.norm(points - truth, axis=-1)) for points in (old, new)]
        figures |= {"mre_fp32_mm": errors[0], "mre_mm": errors[1], "mre_percent": 100 * (errors[1] / errors[0] - 1)}
    figures = {name: round(float(value), 6) for name, value in figures.items()}
    figures["landmarks"] = {
        name: {
            "mean_mm": round(float(mm[:, n].mean()), 5),
            "p95_mm": round(float(np.percentile(mm[:, n], 95)), 5),
            "max_mm": round(float(mm[:, n].max()), 5),
        }
        for n, name in enumerate(bundle.task.landmarks)
    }
    return figures


def judged(figures: dict[str, Any], precision: str) -> dict[str, Any]:
    """A deviation with the verdict on it.

    Returns:
        ``passed``, ``failures`` (the limits that are not kept, in words; a figure that is not a number does not keep
        its limit), ``limits``, and the figures.
    """
    limits = {name: limit for name, limit in asdict(LIMITS[precision]).items() if limit is not None}
    failures = []
    for name, limit in limits.items():
        unit = " %" if name == "mre_percent" else ""
        if name in figures and not figures[name] <= limit:
            label = name.replace("_", " ").removesuffix(" percent")
            failures.append(f"{label} {figures[name]:.3g}{unit} (allowed {limit:g}{unit})")
    return {"passed": not failures, "failures": failures, "limits": limits, **figures}


def table(figures: dict[str, Any]) -> list[str]:
    """The deviation per landmark, worst first, as lines of text."""
    lines = [f"{'landmark':<24}{'mean mm':>10}{'p95 mm':>10}{'max mm':>10}"]
    rows = sorted(figures["landmarks"].items(), key=lambda item: -item[1]["mean_mm"])
    lines += [f"{name:<24}{row['mean_mm']:>10.4f}{row['p95_mm']:>10.4f}{row['max_mm']:>10.4f}" for name, row in rows]
    return [*lines, deviation_summary(figures)]
