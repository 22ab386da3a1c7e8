"""Shapes and localizations whose errors are known, made up so that low heat maps mean large errors."""

from __future__ import annotations

import numpy as np

from tests.synthetic import HEAD, small_task
from trt_landmarks.confidence.observation import Observation
from trt_landmarks.confidence.perturbation import HARD, MILD, WRONG
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.result import Localization, SlicePlane

TASK = small_task()


def shapes(count: int, seed: int = 0) -> Floats:
    """Heads that differ in size, length and details, each lying somewhere."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        longer = np.array([1, 1 + 0.1 * random.normal(), 1])
        detail = 0.1 * random.normal(size=HEAD.shape)
        made.append((1 + 0.1 * random.normal()) * (HEAD * longer + detail) + random.normal(size=3) * 5)
    return np.stack(made)


def observations(cases: int, scans: int = 12, seed: int = 0) -> list[Observation]:
    """Half of the landmarks of hard scans are found with low heat maps and large errors; wrong scans are nonsense."""
    random = np.random.default_rng(seed)
    seen = []
    for number, truth in enumerate(shapes(cases, seed + 100)):
        for scan in range(scans):
            part = (MILD, HARD, WRONG)[scan % 3] if scan else MILD
            bad = random.random(len(truth)) < (0.5 if part == HARD else 0.02)
            error = np.where(bad, 3.0, 0.3)[:, None] * random.normal(size=truth.shape) / np.sqrt(3)
            peaks = np.clip(np.where(bad, 0.25, 0.75) + 0.12 * random.normal(size=len(truth)), 0.02, 1)
            points, expected = truth + error, truth
            if part == WRONG:
                points, peaks = random.normal(size=truth.shape) * 10, np.full(len(truth), 0.05)
                expected = np.full_like(truth, np.nan)
            plane = SlicePlane(TASK.groups[0], points[4], np.array([1.0, 0, 0]))
            found = Localization(points, peaks, points + 1, (plane,), {})
            seen.append(
                Observation(f"case{number}", "clean" if scan == 0 else "made", part, float(scan), found, expected)
            )
    return seen
