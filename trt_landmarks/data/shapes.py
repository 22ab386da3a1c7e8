"""Landmark shapes of many cases: their mean, the mirror pairs in it, and the landmarks that share a plane."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from trt_landmarks.geometry import Floats, rigid_rotation

#: Distances below this share of the shape's size (root mean square radius) count as none.
CLOSE = 0.02
#: A mirrored landmark lies within this share of the shape's size of its partner.
PARTNER = 0.12
#: Random shapes that tell how many landmarks share a plane by chance.
DRAWS = 20
#: Triples of landmarks through which planes are laid, at most: all of 40 landmarks, some of more.
MOST_TRIPLES = 10_000
#: A key slice's normal may lean this much from the world's axis it belongs to, degrees.
LEAN = 20.0


def average_shape(points: Floats, mirror: tuple[int, ...] | None = None, axis: int | None = None) -> Floats:
    """The mean ``[N, 3]`` of shapes ``[C, N, 3]`` (mm, NaN where not annotated).

    Poses are averaged out by aligning every case to the mean (rotation about the centroid, a few rounds).  With
    mirror pairs the mean is made symmetric about ``axis``, so that its axis is the anatomy's.
    """
    mean: Floats = np.nanmean(points, axis=0)
    for _ in range(5):
        aligned = []
        for shape in points:
            known = ~np.isnan(shape).any(axis=1)
            if known.sum() >= 3:
                rotation = rigid_rotation(shape[known], mean[known])
                centre, target = shape[known].mean(0), mean[known].mean(0)
                aligned.append((shape - centre) @ rotation.T + target)
        if aligned:
            seen = np.stack(aligned)
            count = (~np.isnan(seen)).sum(axis=0)
            # A landmark may occur only in cases that cannot be aligned, of fewer than three.
            mean = np.where(count > 0, np.nansum(seen, axis=0) / np.maximum(count, 1), mean)
        if mirror is not None and axis is not None:
            has_image = np.asarray(mirror) >= 0
            flip = np.ones(3)
            flip[axis] = -1
            middle = mean[has_image].mean(0) * (1 - flip) / 2  # the plane is where the symmetric landmarks' centre is
            image = (mean * flip + 2 * middle)[list(mirror)]
            mean = np.where(has_image[:, None], 0.5 * (mean + image), mean)
    return mean


def typical_shape(points: Floats) -> Floats:
    """The median ``[N, 3]`` of aligned shapes ``[C, N, 3]`` (mm, NaN where not annotated): few wrong ones do not show.

    Where :func:`average_shape` of few cases is pulled to a wrong one, the median stays with the others.
    """
    typical = average_shape(points)
    for _ in range(5):
        aligned = np.full_like(points, np.nan)
        for case, shape in enumerate(points):
            known = ~np.isnan(shape).any(axis=1)
            if known.sum() >= 3:
                rotation = rigid_rotation(shape[known], typical[known])
                aligned[case] = (shape - np.median(shape[known], axis=0)) @ rotation.T
                aligned[case] += np.median(typical[known], axis=0)
        seen = ~np.isnan(aligned).all(axis=(0, 2))
        typical[seen] = np.nanmedian(aligned[:, seen], axis=0)
    return typical


def shape_size(shape: Floats) -> float:
    """Root mean square distance of ``[N, 3]`` landmarks from their centre."""
    return float(np.sqrt(((shape - shape.mean(0)) ** 2).sum(1).mean()))


@dataclass(frozen=True)
class MirrorPairs:
    """A symmetry found in a shape.

    Attributes:
        axis: 0, 1 or 2, perpendicular to the plane of symmetry.
        partner: for each landmark its mirror image, itself on the midline, -1 without one.
        residual: mean distance between mirrored landmarks and their partners, in the shape's unit.
    """

    axis: int
    partner: tuple[int, ...]
    residual: float


def mirror_pairs(shape: Floats) -> MirrorPairs | None:
    """Mirror pairs in a mean shape ``[N, 3]``; None unless most landmarks have a partner.

    For each axis the plane is fitted in turns: mutual nearest neighbours of the mirrored shape are partners, and
    partners give the best reflection (the rigid fit of a reflected copy).
    """
    found = [candidate for axis in range(3) if (candidate := _mirrored_along(shape, axis)) is not None]
    if not found:
        return None
    return max(found, key=lambda one: (sum(n >= 0 for n in one.partner), -one.residual))


def _mirrored_along(shape: Floats, axis: int) -> MirrorPairs | None:
    centred = shape - shape.mean(0)
    flip = np.ones(3)
    flip[axis] = -1
    image = centred * flip
    partner, apart = np.full(len(shape), -1), np.zeros((1, 1))
    for _ in range(20):
        apart = np.linalg.norm(image[:, None] - centred[None], axis=-1)
        nearest = apart.argmin(1)
        mutual = (nearest[nearest] == np.arange(len(shape))) & (apart.argmin(0) == nearest)
        near = apart[np.arange(len(shape)), nearest] <= PARTNER * shape_size(shape)
        now = np.where(mutual & near, nearest, -1)
        if (now == partner).all() or (now >= 0).sum() < 4:
            break
        partner = now
        known = partner >= 0
        source, target = (centred * flip)[known], centred[partner[known]]
        rotation = rigid_rotation(source, target)
        image = (centred * flip - source.mean(0)) @ rotation.T + target.mean(0)
    known = partner >= 0
    sides = partner != np.arange(len(shape))
    if known.sum() < max(4, 0.6 * len(shape)) or not (known & sides).any():
        return None
    normal = _mirror_normal(centred, partner)
    if abs(normal[axis]) < np.cos(np.deg2rad(LEAN)):
        return None
    residual = float(apart[np.where(known)[0], partner[known]].mean())
    return MirrorPairs(axis, tuple(int(n) for n in partner), residual)


def _mirror_normal(shape: Floats, partner: Floats) -> Floats:
    """Unit normal of the plane of symmetry: the common direction from partner to partner."""
    across = np.stack([shape[a] - shape[b] for a, b in enumerate(partner) if b > a])
    normal: Floats = np.linalg.svd(across, full_matrices=False)[2][0]
    return normal


@dataclass(frozen=True)
class PlaneSet:
    """Landmarks that lie in one plane in all cases: a candidate for a group with a key slice.

    Attributes:
        axis: 0, 1 or 2, the world's axis that is about perpendicular to the plane.
        members: indices of the landmarks.
        distance: mean distance from each case's own plane, in the unit of the points.
    """

    axis: int
    members: tuple[int, ...]
    distance: float


def coplanar_sets(points: Floats, pairs: MirrorPairs | None = None) -> list[PlaneSet]:
    """Landmarks that share a plane in all cases ``[C, N, 3]``; no landmark is in two sets.

    The midline of ``pairs`` is one set if it is flat.  Elsewhere some of many landmarks lie in a plane by chance: a
    set counts only if it is larger than what is found when the landmarks' places along the axis are drawn at random
    (the same for partners).
    """
    mean = average_shape(points)
    limit = CLOSE * shape_size(mean)
    free = list(range(len(mean)))
    sets: list[PlaneSet] = []
    if pairs is not None:
        middle = [n for n, other in enumerate(pairs.partner) if n == other]
        members = _in_all_cases(points, middle, limit)
        if len(members) > 3:
            sets.append(PlaneSet(pairs.axis, members, float(_distances(points, members).mean())))
            free = [n for n in free if n not in members]
    chance = [_by_chance(mean, axis, limit, pairs) for axis in range(3)]
    while True:
        found = []
        for axis in range(3):
            members = _in_all_cases(points, _largest_plane(mean, free, axis, limit), limit)
            if len(members) > max(3, chance[axis]):
                found.append(PlaneSet(axis, members, float(_distances(points, members).mean())))
        if not found:
            return sets
        sets.append(max(found, key=lambda one: (len(one.members), -one.distance)))
        free = [n for n in free if n not in sets[-1].members]


def _by_chance(mean: Floats, axis: int, limit: float, pairs: MirrorPairs | None) -> float:
    """What the size of the largest plane across ``axis`` hardly exceeds if the places along it are random.

    That is three standard deviations above the mean of :data:`DRAWS` draws.
    """
    rng = np.random.default_rng(0)
    owner = np.arange(len(mean))  # landmarks of one owner keep one place
    if pairs is not None and axis != pairs.axis:
        owner = np.array([n if m < 0 else min(n, m) for n, m in enumerate(pairs.partner)])
    units = np.unique(owner)
    sizes = []
    for _ in range(DRAWS):
        drawn = dict(zip(units, rng.uniform(mean[:, axis].min(), mean[:, axis].max(), len(units)), strict=True))
        shuffled = mean.copy()
        shuffled[:, axis] = [drawn[n] for n in owner]
        sizes.append(len(_largest_plane(shuffled, list(range(len(mean))), axis, limit)))
    return float(np.mean(sizes) + 3 * np.std(sizes))


def _largest_plane(mean: Floats, free: list[int], axis: int, limit: float) -> list[int]:
    """Those of the ``free`` landmarks that lie in the plane across ``axis`` which holds most of them."""
    if len(free) < 3:
        return []
    if math.comb(len(free), 3) <= MOST_TRIPLES:
        triples = np.array(list(combinations(free, 3)))
    else:
        drawn = np.random.default_rng(0).integers(len(free), size=(MOST_TRIPLES, 3))
        triples = np.array(free)[drawn]  # of a landmark drawn twice comes no plane
    a, b, c = (mean[triples[:, n]] for n in range(3))
    normals = np.cross(b - a, c - a)
    length = np.linalg.norm(normals, axis=1)
    upright = np.abs(normals[:, axis]) > np.cos(np.deg2rad(LEAN)) * np.maximum(length, 1e-9)
    if not upright.any():
        return []
    normals, through = normals[upright] / length[upright, None], a[upright]
    apart = np.abs(normals @ mean[free].T - (normals * through).sum(1)[:, None])
    return [free[n] for n in np.where(apart[(apart <= limit).sum(1).argmax()] <= limit)[0]]


def _in_all_cases(points: Floats, members: list[int], limit: float) -> tuple[int, ...]:
    """Without those, worst first, that are not within ``limit`` of the plane in the cases' mean."""
    kept = list(members)
    while len(kept) > 3:
        distance = _distances(points, tuple(kept))
        worst = int(distance.argmax())
        if distance[worst] <= limit:
            break
        del kept[worst]
    return tuple(kept)


def _distances(points: Floats, members: tuple[int, ...]) -> Floats:
    """Mean distance ``[M]`` of each member from the plane fitted to all members, over the cases that have it."""
    every = []
    for shape in points[:, list(members)]:
        known = ~np.isnan(shape).any(axis=1)
        if known.sum() < 4:
            continue
        centre = shape[known].mean(0)
        normal = np.linalg.svd(shape[known] - centre, full_matrices=False)[2][2]
        every.append(np.abs((shape - centre) @ normal))
    if not every:
        return np.zeros(len(members))
    distance: Floats = np.nanmean(np.stack(every), axis=0)
    return distance
