"""The shipped brain-afids model: on the template that it was made from, and on made cases of people it never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.bundles.select import open_engine
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.scan import Scan, read_scan
from trt_landmarks.task.task import load_task

pytest.importorskip("nilearn", reason="the scan is nilearn's")

from tasks.brain_afids import cases
from tasks.brain_afids.horns import TIPS
from tasks.brain_afids.scan import t1_path
from tasks.brain_afids.template import Template, aligned, load_template, people


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle("brain-afids")


@pytest.fixture(scope="module")
def localizer(bundle: Bundle) -> Localizer:
    engine, _ = open_engine(bundle, "onnxruntime")
    return Localizer(bundle.task, bundle.mean_shape, engine, confidence=bundle.confidence)


@pytest.fixture(scope="module")
def data(data_root: Path) -> Path:
    if not (data_root / "brain-afids").is_dir():
        pytest.skip(f"no brain-afids in {data_root}")
    return data_root / "brain-afids"


@pytest.fixture(scope="module")
def template(data: Path, bundle: Bundle) -> Template:
    return load_template(data, bundle.task)


def errors(localizer: Localizer, scan: Scan, truth: Floats) -> tuple[Floats, Floats]:
    """Radial errors ``[N]`` (mm) of both stages together, and of the coarse one; what is far off must be flagged."""
    found = localizer.localize(scan)
    assert found.reliability is not None
    assert found.reliability.low[np.linalg.norm(found.points - truth, axis=1) > 10].all()
    return np.linalg.norm(found.points - truth, axis=1), np.linalg.norm(found.coarse_points - truth, axis=1)


def test_files_are_small_and_their_origin_is_told(bundle: Bundle, repo_root: Path) -> None:
    assert max(path.stat().st_size for path in bundle.root.rglob("*")) <= 15e6
    provenance = bundle.manifest["provenance"]
    assert {"data", "licence", "command", "cases", "citation"} <= set(provenance)
    assert "Copyright (C) 1993-2009 Louis Collins" in provenance["licence"]["template"]
    assert "CC-BY-4.0" in provenance["licence"]["landmarks"]
    assert "seed" in bundle.manifest["training"]
    assert load_task(repo_root / "tasks" / "brain-afids.yaml") == bundle.task


def test_millimetres_on_the_template(localizer: Localizer, template: Template) -> None:
    fine, coarse = errors(localizer, read_scan(t1_path()), template.points)
    assert fine.mean() <= 0.8  # 0.43 measured
    assert fine.mean() < coarse.mean() <= 4.5  # 1.66


@pytest.mark.parametrize("head", [False, True])
def test_millimetres_on_people_it_was_not_trained_on(
    localizer: Localizer, template: Template, data: Path, monkeypatch: pytest.MonkeyPatch, head: bool
) -> None:
    monkeypatch.setattr(cases, "LARGEST", 1.5e6)
    shapes = people(data, localizer.task)
    name = cases.split_people(list(shapes))[1][3 + head]
    person = cases.Person(name, aligned(shapes[name], template))
    made = cases.make_case(template, person, np.random.default_rng(2), head)
    assert made.t1
    fine, coarse = errors(localizer, made.scan, made.points)
    assert fine.mean() < coarse.mean() <= 8.0  # 2.9 and 4.9 measured
    # The horns' ends are guessed more than seen: they can be farther from the coarse points than a patch reaches.
    seen = [n for n, name in enumerate(localizer.task.landmarks) if name not in TIPS]
    assert fine[seen].mean() <= 1.8  # 0.9 and 1.2
