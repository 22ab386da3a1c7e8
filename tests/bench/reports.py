"""A report of made-up timings, put together by the code that makes real ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from trt_landmarks.bench import machine
from trt_landmarks.bench.measure import Subject
from trt_landmarks.bench.report import SCHEMA_VERSION, accuracy, describe_way, ratios
from trt_landmarks.bench.statistics import ratio, spread
from trt_landmarks.bench.ways import DEFAULT, FOLDER, Spec, list_ways
from trt_landmarks.bundles.bundle import Bundle

#: Median milliseconds of a scan, and how far a way's points are off, mm.
MEDIANS = {"torch": (600, 0.0), "torch-bf16": (300, 0.03), DEFAULT: (200, 0.0)}
SCANS, ROUNDS = ("a", "b"), 6


def make_report(bundle: Bundle, seed: int = 0, noise: float = 0.03, **factors: float) -> dict[str, Any]:
    """The report; ``factors`` make the ways of that name (``_`` for ``-``) so many times as slow."""
    random = np.random.default_rng(seed)
    named = {way.name: way for way in list_ways(bundle)}
    shape, subjects = (len(bundle.task.landmarks), 3), []
    for name, (median, off) in MEDIANS.items():
        factor = factors.get(name.replace("-", "_"), 1.0)
        subject = Subject(named[name], Spec(name, named[name].engine), "as made up", cold=[5.0 * median * factor] * 3)
        for _ in range(ROUNDS):
            for scan in SCANS:
                total = factor * median * float(np.exp(noise * random.normal()))
                subject.samples.setdefault(scan, []).append(total)
                subject.cpu.append(2 * total)
                for stage, share in (("read", 0.1), ("coarse", 0.3), ("fine_independent", 0.55), ("write", 0.05)):
                    subject.stages.setdefault(stage, []).append(share * total)
        subject.points = {scan: np.full(shape, off / np.sqrt(3)) for scan in SCANS}
        subject.host_peak_mib, subject.warm_up = 400.0, {"runs": 3, "stable": True}
        subjects.append(subject)
    seconds = {DEFAULT: [2.0, 2.1, 2.2], FOLDER: [1.0, 1.05, 1.1]}
    return {
        "schema_version": SCHEMA_VERSION,
        "date": "2026-01-02T03:04:05+00:00",
        "model": {"name": bundle.name, "sha256": bundle.sha256, "landmarks": shape[0]},
        "scans": {"ids": list(SCANS), "unseen_in_training": ["a"]},
        "machine": machine.describe(),
        "versions": machine.versions(),
        "commit": None,
        "method": {
            "rounds": ROUNDS, "scans": len(SCANS), "threads": 1, "torch_device": "cpu",
            "cold_processes": 3, "warm_up": "none", "order": "none", "outliers": "none removed",
        },
        "share_of_others": spread([0.1, 0.2]),
        "ways": [describe_way(one) for one in subjects],
        "ratios": ratios(subjects),
        "accuracy": accuracy(bundle, subjects, {"a": np.zeros(shape)}),
        "preprocessing": [],
        "throughput": {
            "scans": 10, "rounds": 3, "note": "made up", "one_by_one_per_second": spread([5, 4.8, 4.5]),
            "pipelined_per_second": spread([10, 9.5, 9]), "pipelined_host_peak_mib": 500.0, "seconds": seconds,
            "times_as_fast": ratio(seconds[DEFAULT], seconds[FOLDER]).to_dict(),
        },
        "not_run": [{"way": "tensorrt-fp16", "reason": "there is no GPU"}],
    }  # fmt: skip
