"""Cases of the brain task: exact landmarks, shapes split by person, and the same case again from the same seed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from trt_landmarks.task.task import Task, load_task
from trt_landmarks.training.warping import positions, resample

pytest.importorskip("nilearn", reason="the scan is nilearn's")

from tasks.brain_afids import cases
from tasks.brain_afids.horns import ATRIUM, REACH, TIPS, draw_horn
from tasks.brain_afids.template import Template, aligned, load_template, other_templates, people
from tasks.brain_afids.ventricles import ROOFS

ROOT = Path(__file__).resolve().parents[2]


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
    assert people(data, task) and other_templates(data, task)
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
        warp, _ = cases.random_warp(template, shape, rng)
        points = warp.preimage(template.points)
        assert warp.smallest_jacobian() > 0
        back = warp(torch.as_tensor(points)).numpy()
        assert np.linalg.norm(back - template.points, axis=1).max() < 0.05
        assert np.linalg.norm(points - template.points, axis=1).max() > 2  # it is somebody else


def grey(image: torch.Tensor, template: Template, place: np.ndarray) -> float:
    """Darkest of the template's grey values within 2 mm of a place."""
    cube = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), -1).reshape(-1, 3)
    near = torch.as_tensor(place + cube, dtype=torch.float32)
    return float(resample(image, template.grid, near).min())


@pytest.mark.parametrize("name", TIPS)
@pytest.mark.parametrize("end", [60.0, 70.0, 88.0])
def test_a_horn_ends_where_it_is_told(template: Template, name: str, end: float) -> None:
    before = template.points[template.names.index(name)]
    tip = before * [1.2, 1, 1]
    tip[1] = end
    inside, outside = tip + np.array([0, -4, 0]), tip + np.array([0, 5, 0])
    lumen, behind = [], []
    for seed in range(12):
        image = template.image.clone()
        draw_horn(image, template.grid, before, tip, np.random.default_rng(seed))
        lumen.append(grey(image, template, inside))
        behind.append(grey(image, template, outside))
    was_lumen, was_behind = (grey(template.image, template, place) for place in (inside, outside))
    assert np.mean(lumen) < was_lumen  # darker than the template
    assert np.mean(behind) >= was_behind and np.mean(behind) > np.mean(lumen) + 0.05


def test_only_the_horn_is_drawn(template: Template) -> None:
    before = template.points[template.names.index("LVOH")]
    tip = before - [-4, 12, 0]
    image = template.image.clone()
    draw_horn(image, template.grid, before, tip, np.random.default_rng(0))
    places, ends = positions(template.grid), np.stack([before, tip, ATRIUM])
    low, high = ends.min(0) - REACH - 6, ends.max(0) + REACH + 6
    near = ((places > torch.as_tensor(low)) & (places < torch.as_tensor(high))).all(dim=-1)
    changed = (image != template.image)[0, 0]
    assert changed.any() and not changed[~near].any()
    assert not changed[template.image[0, 0] == 0].any()
    assert image.min() >= 0 and image.max() <= 1


def test_landmarks_of_a_case_are_where_they_are_defined(template: Template, task: Task, data: Path) -> None:
    rows = {name: n for n, name in enumerate(template.names)}
    ends = []
    for seed, shape in enumerate(list(people(data, task).values())[:12:3]):
        rng = np.random.default_rng(seed)
        warp, shape = cases.random_warp(template, aligned(shape, template), rng)
        _, marks = cases.individual(template, warp, shape, rng)
        points = warp.preimage(marks)
        forward = points[rows["AC"]] - points[rows["PC"]]
        forward /= np.linalg.norm(forward)
        for plane, names in (("AC", ("RLVAC", "LLVAC")), ("PC", ("RLVPC", "LLVPC"))):
            for name in names:
                assert abs((points[rows[name]] - points[rows[plane]]) @ forward) < 0.1
        for name in TIPS:
            own = np.allclose(marks[rows[name]], template.points[rows[name]])
            ends.append(own or np.linalg.norm(points[rows[name]] - shape[rows[name]]) < 0.01)
        others = [n for name, n in rows.items() if name not in (*TIPS, *sum(ROOFS, ()))]
        np.testing.assert_array_equal(marks[others], template.points[others])
    assert all(ends)


def test_the_scan_is_found_without_torch() -> None:
    code = (
        "import sys; from tasks.brain_afids.scan import main; main(); "
        "assert not {'torch', 'nilearn'} & set(sys.modules)"
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
