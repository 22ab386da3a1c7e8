"""Cases of the brain task: exact landmarks, shapes split by person, and the same case again from the same seed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trt_landmarks.task import Task, load_task
from trt_landmarks.training.warping import positions, resample

pytest.importorskip("nilearn", reason="the scan is nilearn's")

from benchmarks.brain import cases
from benchmarks.brain.horns import ATRIUM, REACH, TIPS, vary_horns
from benchmarks.brain.template import Template, aligned, load_template, other_templates, people

ROOT = Path(__file__).resolve().parents[2]
#: About a place, mm: the horns bend.
SHIFTS = [np.array([x, y, z]) for x in (-1, 0, 1, 2, 3) for y in (-2, 0, 2) for z in (-2, -1, 0, 1)]


@pytest.fixture(scope="module")
def task() -> Task:
    return load_task(ROOT / "tasks" / "brain-afids.yaml")


@pytest.fixture(scope="module")
def data(data_root: Path) -> Path:
    return data_root / "brain-afids"


@pytest.fixture(scope="module")
def template(data: Path, task: Task) -> Template:
    return load_template(data, task)


def test_task_and_data_have_the_same_landmarks(task: Task, template: Template, data: Path) -> None:
    shapes = people(data, task) | other_templates(data, task)
    assert len(people(data, task)) == 60 and len(other_templates(data, task)) == 13
    assert all(shape.shape == (32, 3) and np.isfinite(shape).all() for shape in shapes.values())
    # Left is left, and partners are partners: in the template's symmetric space they mirror each other.
    assert task.mirror is not None
    mirrored = template.points[list(task.mirror)] * [-1, 1, 1]
    assert np.linalg.norm(mirrored - template.points, axis=1).max() < 4
    for name, index in zip(task.landmarks, range(32), strict=True):
        if name not in task.groups[0].landmarks:
            assert (template.points[index, 0] > 0) == name.startswith("L")


def test_nobody_trains_and_validates(task: Task, data: Path) -> None:
    training, validation = cases.split_people(list(people(data, task)))
    assert (len(training), len(validation)) == (48, 12)
    assert not set(training) & set(validation)
    assert {name.split("-")[0] for name in validation} == {"HCP", "OASIS"}
    shapes = {name: np.zeros((32, 3)) for name in training}  # no other shape can be mixed in: it would be missing
    plan = cases.plan(shapes, training, 100, True, np.random.default_rng(0))
    assert {person.name.rsplit("-", 1)[0] for person in plan} <= set(training)
    assert len({person.name for person in plan}) == 100


def test_landmarks_come_back_to_the_template_through_the_warp(task: Task, template: Template, data: Path) -> None:
    rng = np.random.default_rng(5)
    for name in ("HCP-103111", "OASIS-0109"):  # an ordinary shape, and the one farthest from all others
        shape = aligned(people(data, task)[name], template)
        warp, points = cases.random_warp(template, shape, rng)
        assert warp.smallest_jacobian() > 0
        back = warp(torch.as_tensor(points)).numpy()
        assert np.linalg.norm(back - template.points, axis=1).max() < 0.05
        assert np.linalg.norm(points - template.points, axis=1).max() > 2  # it is somebody else


@pytest.mark.parametrize("seed", range(6))
def test_horns_change_and_nothing_else_does(template: Template, seed: int) -> None:
    before = template.image.clone()
    after = vary_horns(template.image, template.grid, template.points, template.names, np.random.default_rng(seed))
    assert torch.equal(template.image, before)  # the template is shared by all cases
    places = positions(template.grid)
    tips = [template.points[template.names.index(name)] for name in TIPS]
    near = torch.zeros(before.shape[2:], dtype=torch.bool)
    for tip in tips:
        start = ATRIUM * [np.sign(tip[0]), 1, 1]
        low, high = np.minimum(tip, start) - REACH - 3, np.maximum(tip, start) + REACH + 3
        near |= ((places > torch.as_tensor(low)) & (places < torch.as_tensor(high))).all(dim=-1)
    changed = (after != before)[0, 0]
    assert not changed[~near].any()
    assert not changed[before[0, 0] == 0].any() and after.min() >= 0 and after.max() <= 1


def test_horns_are_open_shut_and_in_between(template: Template) -> None:
    """A little before the tip some horns hold fluid and some are white matter; the template's are neither."""
    way = [ATRIUM + share * (template.points[template.names.index("LVOH")] - ATRIUM) for share in (0.6, 0.9)]
    darkest = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        image = vary_horns(template.image, template.grid, template.points, template.names, rng)
        box = [resample(image, template.grid, torch.as_tensor(place + shift, dtype=torch.float32)).item()
               for place in way for shift in SHIFTS]  # fmt: skip
        darkest.append(min(box))
    assert np.mean(np.array(darkest) < 0.4) > 0.15
    assert np.mean(np.array(darkest) > 0.6) > 0.15


def test_the_scan_is_found_without_torch() -> None:
    code = (
        "import sys; from benchmarks.brain.scan import main; main(); assert not {'torch', 'nilearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_file()


@pytest.fixture
def person(task: Task, template: Template, data: Path, monkeypatch: pytest.MonkeyPatch) -> cases.Person:
    monkeypatch.setattr(cases, "LARGEST", 2e5)  # coarse voxels: quick
    return cases.Person("HCP-103111", aligned(people(data, task)["HCP-103111"], template))


@pytest.mark.parametrize("head", [False, True])
def test_a_case_is_a_scan_with_its_landmarks(template: Template, person: cases.Person, head: bool) -> None:
    made = cases.make_case(template, person, np.random.default_rng(7), head)
    geometry = made.scan.geometry
    assert made.head == head
    assert made.scan.voxels.dtype == np.uint8 and made.scan.voxels.max() > 200
    assert geometry.contains(made.points).all()
    # The brain is where the landmarks are: brighter there than the dark corners of the scan.
    i, j, k = np.round(geometry.world_to_voxel(made.points)).astype(int).T
    corners = made.scan.voxels[:: geometry.size[2] - 1, :: geometry.size[1] - 1, :: geometry.size[0] - 1]
    assert made.scan.voxels[k, j, i].mean() > 2 * corners.mean()
    if head:
        again = cases.make_case(template, person, np.random.default_rng(7), head)
        assert (made.scan.voxels == again.scan.voxels).all() and (made.points == again.points).all()
