"""The benchmark of survival, small."""

from __future__ import annotations

from pathlib import Path

from benchmarks.survival import KINDS, differences, survive
from trt_landmarks.bundles.bundle import Bundle


def test_a_small_run_survives(tiny_bundle: Bundle, tmp_path: Path) -> None:
    assert survive(tmp_path, str(tiny_bundle.root), good=6, bad=3, kills=2, seed=1) == []


def test_what_is_wrong_is_found() -> None:
    ok = {"status": "ok", "error": None}
    assert differences({"good-0": ok}, {"good-0": ok, "good-1": ok}) == ["good-1 is not the same"]
    found = {f"{kind}-0": {"status": "failed", "error": {"code": "other"}} for kind in KINDS}
    assert len(differences(found, {})) == len(KINDS)
    assert differences({"hang-0": ok}, {}) == ["hang-0: None"]
