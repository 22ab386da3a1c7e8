"""Training and validation cases of the brain task, made from one T1 template and people's landmark shapes.

    python -m tasks.brain_afids.cases tasks/brain-afids.yaml --data DIR --out DIR [--train 168] [--validation 24]

DIR of ``--data`` is the folder of the fiducials (AFIDs-HCP_groundtruth.csv and so on); nilearn must be installed.
The template is warped to the shape of one person (or between two), with further random deformation; it gets a
random contrast, texture, uneven field, blur and noise, in half of the cases a random head around the brain, and is
stored with random spacing, field of view, pose and order of axes.  The landmarks are traced through the very map that
resampled the scan.  Shapes are split by person: nobody gives both a training and a validation case.  All images
derive from ONE template, so cases differ from real scans of other people in everything that a warp of this template
cannot show.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.brain_afids.head import head_around
from tasks.brain_afids.horns import TIPS, draw_horn
from tasks.brain_afids.template import Template, aligned, load_template, other_templates, people
from tasks.brain_afids.ventricles import slide_into_planes
from trt_landmarks.data.annotations import write_mrk_json
from trt_landmarks.geometry import Floats, Geometry, Grid
from trt_landmarks.scan import Scan, scan_from_array, write_scan
from trt_landmarks.task.task import load_task
from trt_landmarks.training.appearance import (
    any_table,
    bias_field,
    blur,
    magnitude_noise,
    monotone_table,
    through_table,
)
from trt_landmarks.training.augmentation import rotation_xyz
from trt_landmarks.training.warping import FoldedWarpError, Warp, positions, resample, smooth_noise, warp_between

#: Every n-th person validates.
VALIDATION_EVERY = 5
#: Control points of the warps: spacing and extent about the template's middle, mm.
CONTROL_SPACING, CONTROL_POINTS = 6.0, (48, 52, 56)
#: Share of cases with a head around the brain.
HEADS = 0.55
#: Share of cases whose tissues' grey values are in T1's order.
T1 = 0.75
#: Share of the occipital horns that are the template's own.
OWN_HORN = 0.2
#: Voxels of a case, at most.
LARGEST = 6e6
#: Where the brain lies about the template's landmarks' mean, from and to (LPS mm); the head may reach further.
BRAIN = np.array([[-76, 76], [-82, 112], [-80, 86.0]])


@dataclass(frozen=True)
class Person:
    """Whose shape a case has.

    Attributes:
        name: the case's first name.
        points: ``[N, 3]`` mm, aligned to the template.
    """

    name: str
    points: Floats


def split_people(names: list[str]) -> tuple[list[str], list[str]]:
    """Training and validation people; both studies are in both."""
    validation = names[VALIDATION_EVERY // 2 :: VALIDATION_EVERY]
    return [name for name in names if name not in validation], validation


def random_warp(template: Template, shape: Floats, rng: np.random.Generator) -> tuple[Warp, Floats]:
    """A warp of the template to about ``shape``, longer, wider or higher; and that shape.

    The ends of the occipital horns take no part: they are drawn (:mod:`tasks.brain_afids.horns`).
    """
    spacing = (CONTROL_SPACING,) * 3
    centre = template.points.mean(0) + np.array([0, 10, -20])
    control = Grid(CONTROL_POINTS, spacing, centre)
    lattice = CONTROL_POINTS[::-1]
    smoothing, strength = rng.uniform(2, 10), 1.0
    wide, narrow = rng.uniform(0, 2.0), rng.uniform(0, 0.8)
    wide_noise = smooth_noise(lattice, 36 / CONTROL_SPACING, rng, 3)
    narrow_noise = smooth_noise(lattice, 12 / CONTROL_SPACING, rng, 3)
    scale = np.exp(rng.uniform(-0.06, 0.06, 3))  # heads are longer, wider or higher
    shape = (shape - shape.mean(0)) * scale + shape.mean(0)
    pulled = [n for n, name in enumerate(template.names) if name not in TIPS]
    for _ in range(8):
        extra = strength * (wide * wide_noise + narrow * narrow_noise)
        try:
            warp = warp_between(shape[pulled], template.points[pulled], control, smoothing, extra)
            warp.preimage(template.points)  # refuses a warp through which a landmark cannot be traced back
            return warp, shape
        except FoldedWarpError:  # smoother until it can be inverted
            smoothing, strength = 2 * smoothing, 0.7 * strength
    raise FoldedWarpError("no smooth warp was found for this shape.")


def individual(template: Template, warp: Warp, shape: Floats, rng: np.random.Generator) -> tuple[Tensor, Floats]:
    """What the warp does not do: the template with a person's horns, and its landmarks as they are defined.

    Returns:
        The template's grey values ``[1, 1, Z, Y, X]``, and its landmarks ``[N, 3]``, both before the warp.
    """
    image, marks = template.image.clone(), template.points.copy()
    for n, name in enumerate(template.names):
        if name not in TIPS or rng.random() < OWN_HORN:
            continue
        end = warp(torch.as_tensor(shape[n])).numpy()
        if resample(image, template.grid, torch.as_tensor(end, dtype=torch.float32))[0] > 0:  # it is in the brain
            draw_horn(image, template.grid, marks[n], end, rng)
            marks[n] = end
    return image, slide_into_planes(marks, template.names, warp)


def random_geometry(centre: Floats, whole: bool, rng: np.random.Generator) -> tuple[Geometry, Floats]:
    """Where the scan's voxels lie in a head-centred frame, and the head's rotation in the world.

    The head keeps its own frame (the template's); the scan's box is turned about it instead.
    """
    spacing = rng.uniform(0.85, 1.5) * np.exp(rng.uniform(-0.1, 0.1, 3))
    if rng.random() < 0.25:  # thick slices
        spacing = np.full(3, rng.uniform(0.9, 1.2))
        spacing[rng.integers(3)] = rng.uniform(2, 3.5)
    turn = rotation_xyz(np.deg2rad(rng.uniform(-15, 15, 3)))
    if whole:
        low = BRAIN[:, 0] - rng.uniform([5, 5, 0], [40, 60, 100])
        high = BRAIN[:, 1] + rng.uniform([5, 5, 8], [40, 30, 40])
    else:
        low = BRAIN[:, 0] - rng.uniform(-4, 12, 3) * rng.uniform(0.5, 3)
        high = BRAIN[:, 1] + rng.uniform(-4, 12, 3) * rng.uniform(0.5, 3)
    spacing = spacing * max(1.0, float(np.prod((high - low) / spacing) / LARGEST) ** (1 / 3))
    size = np.round((high - low) / spacing).astype(int)
    middle = centre + turn.T @ ((low + high) / 2)
    order, signs = rng.permutation(3), rng.choice([-1.0, 1.0], 3)
    direction = (turn.T @ np.eye(3))[:, order] * signs
    size, spacing = size[order], spacing[order]
    origin = middle - direction @ ((size - 1) / 2 * spacing)
    geometry = Geometry(
        (int(size[0]), int(size[1]), int(size[2])),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        direction,
    )
    return geometry, turn


def contrast(original: Tensor, rng: np.random.Generator) -> tuple[Tensor, bool]:
    """A template ``[1, 1, Z, Y, X]`` with random grey values of about 0 to 1, and if they are in T1's order."""
    image = original
    if rng.random() < 0.6:  # an average of many brains is blurred: sharpen it
        image = image + rng.uniform(0, 1.5) * (image - blur(image[0, 0], np.full(3, rng.uniform(1, 2)))[None, None])
        image = torch.where(original > 0, image.clamp(0.02, 1), 0)
    values = np.linspace(0, 1, 256)
    t1 = bool(rng.random() < T1)
    if t1:
        table = monotone_table(values / 0.9, rng, rng.uniform(0.1, 0.7))  # 0.9: the template's white matter
        floor = rng.uniform(0, 0.15)
        table = floor + (1 - floor) * table
    else:
        table = any_table(values, rng)
    return torch.where(original > 0, through_table(image, table), 0), t1


@dataclass(frozen=True)
class Made:
    """A made case.

    Attributes:
        scan: the image.
        points: ``[N, 3]`` LPS mm.
        head: whether there is a head around the brain.
        t1: whether its tissues' grey values are in T1's order.
    """

    scan: Scan
    points: Floats
    head: bool
    t1: bool


def make_case(template: Template, person: Person, rng: np.random.Generator, head: bool | None = None) -> Made:
    """One case, with or without a head around the brain (None: by chance); all chance is drawn from ``rng``."""
    warp, person_shape = random_warp(template, person.points, rng)
    own, marks = individual(template, warp, person_shape, rng)
    points = warp.preimage(marks)
    by_chance = bool(rng.random() < HEADS)
    whole = by_chance if head is None else head
    geometry, turn = random_geometry(template.points.mean(0), whole, rng)
    grid = Grid(geometry.size, geometry.spacing, geometry.centre, geometry.direction)
    step = float(np.mean(geometry.spacing))
    places = warp(positions(grid))
    distance, wider = template.outside
    outside = resample(distance, wider, places, border=True)[0]
    image, t1 = contrast(own, rng)
    brain = resample(image, template.grid, places)[0]
    covered = resample((template.image > 0).float(), template.grid, places)[0]
    shape = tuple(brain.shape)
    texture = rng.uniform(0, 0.12) * smooth_noise(shape, rng.uniform(1.5, 5) / step, rng)[0, 0]
    brain = brain / covered.clamp(min=0.5) * (1 + texture)
    keep = (covered > 0.5).float()
    if whole:
        around = head_around(places, outside, step, rng)
        volume = keep * brain + (1 - keep) * around
    else:
        edge = rng.uniform(-2, 4) + rng.uniform(0, 1.5) * smooth_noise(shape, 20 / step, rng)[0, 0]
        volume = torch.where(keep > 0, brain, torch.full_like(brain, rng.uniform(0, 0.3))) * (outside < edge)
    volume = blur(volume, np.full(3, rng.uniform(0, 0.9)) * step / np.array(geometry.spacing))
    volume = volume * bias_field(shape, np.array(geometry.spacing), rng, rng.uniform(0, 0.25))
    level = rng.uniform(0, 0.05) if rng.random() < 0.85 else rng.uniform(0.05, 0.1)
    noisy = magnitude_noise(volume, rng, level)
    if not whole and rng.random() < 0.8:  # brain extracted after the noise: the background is exactly dark
        noisy = noisy * (volume > 0)
    highest = float(np.quantile(noisy.numpy().reshape(-1)[::17], 0.9995))
    voxels = (noisy * (250 / max(highest, 1e-3))).clamp(0, 255).round().to(torch.uint8).numpy()
    # From the head's frame to the world: turned back, and put anywhere.
    shift = rng.uniform(-80, 80, 3)
    x, y, z = turn @ np.asarray(geometry.origin) + shift
    placed = Geometry(geometry.size, geometry.spacing, (x, y, z), turn @ geometry.direction)
    slight = rotation_xyz(np.deg2rad(rng.uniform(-2, 2, 3)))  # scans lie slightly oblique in the world
    x, y, z = slight @ np.asarray(placed.origin)
    placed = Geometry(placed.size, placed.spacing, (x, y, z), slight @ placed.direction)
    return Made(scan_from_array(voxels, placed, person.name), (points @ turn.T + shift) @ slight.T, whole, t1)


def plan(
    shapes: dict[str, Floats], names: list[str], count: int, mixed: bool, rng: np.random.Generator
) -> list[Person]:
    """``count`` shapes of ``names``, each in turn; with ``mixed`` every third lies between two of them."""
    chosen = []
    for n in range(count):
        name = names[n % len(names)]
        points = shapes[name]
        if mixed and n % 3 == 2:
            share = rng.uniform(0.3, 0.7)
            points = share * points + (1 - share) * shapes[names[int(rng.integers(len(names)))]]
        chosen.append(Person(f"{name}-{n // len(names)}", points))
    return chosen


def write_case(
    person: Person, template: Template, marks: tuple[str, ...], out: Path, seed: int
) -> tuple[str, dict[str, bool]]:
    """Make and write one case; the same name and seed give the same case.  Returns its name and what kind it is of."""
    torch.set_num_threads(1)
    made = make_case(template, person, np.random.default_rng([seed, *person.name.encode()]))
    write_scan(made.scan, out / "images" / f"{person.name}.nii.gz")
    write_mrk_json(out / "landmarks" / f"{person.name}.mrk.json", dict(zip(marks, made.points, strict=True)))
    return person.name, {"head": made.head, "t1": made.t1}


def main() -> None:
    """Make the folder: images/, landmarks/, split.json and kinds.json (with a head? T1?)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, default=168)
    parser.add_argument("--validation", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    task = load_task(options.task)
    template = load_template(options.data, task)
    everyone, others = people(options.data, task), other_templates(options.data, task)
    shapes = {name: aligned(points, template) for name, points in {**everyone, **others}.items()}
    training, validation = split_people(list(everyone))
    rng = np.random.default_rng(options.seed)
    persons = {
        "train": plan(shapes, [*training, *others], options.train, True, rng),
        "val": plan(shapes, validation, options.validation, False, rng),
    }
    for folder in ("images", "landmarks"):
        (options.out / folder).mkdir(parents=True, exist_ok=True)
    split = {part: [one.name for one in members] for part, members in persons.items()}
    (options.out / "split.json").write_text(json.dumps(split, indent=1) + "\n")
    make = partial(write_case, template=template, marks=task.landmarks, out=options.out, seed=options.seed)
    kinds = {}
    with ProcessPoolExecutor(options.workers) as pool:
        for name, kind in pool.map(make, [one for members in persons.values() for one in members]):
            print(name, flush=True)
            kinds[name] = kind
    (options.out / "kinds.json").write_text(json.dumps(kinds, indent=1) + "\n")


if __name__ == "__main__":
    main()
