"""Scans that lie anyhow: the pose in which the nets know the anatomy is searched, without further training.

::

    24 turns of the cube -> coarse net -> posed by its points, up to four times -> full model on the likeliest
                                                                                -> the first that passes

How likely a pose is, the shape tells that the coarse net's points form in it: how usual it is, how upright it lies and
how large it is.  Whether the full model has then found the anatomy, the fitted confidence says: more than half of the
landmarks have to be reliable, which is asked of a search because it looks often.  A mirrored scan (left and right
swapped) has a usual shape too, and cannot be told from a true one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.errors import TrtlmError
from trt_landmarks.geometry import Floats, rigid_rotation, turned_by
from trt_landmarks.localization.confidence import ConfidenceModel
from trt_landmarks.localization.localizer import Frame, Localizer, coarse_grid
from trt_landmarks.localization.result import Localization, PoseSearch
from trt_landmarks.localization.views import averaged, check_symmetry
from trt_landmarks.preprocessing.reference import Range
from trt_landmarks.preprocessing.sampling import intensity_range
from trt_landmarks.scan import Scan

#: ``as-is`` takes scans as they lie; ``auto`` searches the pose of those in which nothing credible is found that way;
#: ``search`` searches the pose of all.
POSES = ("auto", "as-is", "search")

#: How often poses are posed again by the points seen in them.
ROUNDS = 4
#: Poses that are left after the second time.
KEPT = 16
#: Poses in which the full model runs, at most.
CANDIDATES = 4
#: How unlikely a pose may be in which the full model runs before the last round.
LIKELY = 1.4
#: Poses nearer to each other than this, degrees, are one.
SAME_DEG = 10.0
#: Scans in which credible landmarks lie further from upright, degrees, are posed by them and run again.
UPRIGHT_DEG = 20.0
#: As unlikely as one standard deviation of the shape: degrees from upright, and logarithm of the size.
UNLIKELY_DEG, UNLIKELY_LOG_SIZE = 15.0, 0.2

#: Half turns, as signs of the axes; the first is none.
HALF_TURNS = ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1))


def _cube() -> list[Floats]:
    """The rotations that carry a cube onto itself ``[24, 3, 3]``: for each order of the axes, the half turns."""
    turns = []
    for order in permutations(range(3)):
        axes = np.eye(3)[:, list(order)]
        axes[:, 0] *= np.linalg.det(axes)
        turns += [axes * signs for signs in HALF_TURNS]
    return turns


CUBE = _cube()


class PosingLocalizer(Localizer):
    """A localizer that also finds landmarks in scans that do not lie as its nets expect.

    Args:
        pose: one of :data:`POSES`.
        tta: also average over a mirrored and a jittered view (:mod:`~trt_landmarks.localization.views`).
        arguments, more: as of :class:`Localizer`.

    Raises:
        TrtlmError: if the pose is to be searched, or views averaged, and the model lacks what that needs.
    """

    def __init__(self, *arguments: Any, pose: str = "auto", tta: bool = False, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._check(pose, tta)
        #: ``auto`` without a fitted confidence is ``as-is``.
        self.pose, self.tta = pose if self.confidence else "as-is", tta

    def localize_batch(
        self, scans: Sequence[Scan], pose: str | None = None, tta: bool | None = None
    ) -> list[Localization]:
        """Landmarks of several scans; those as they lie run through each net together.

        Args:
            scans: what is localized in.
            pose: instead of the localizer's own.
            tta: the same.

        Raises:
            TrtlmError: as the class.
        """
        pose, tta = pose or self.pose, self.tta if tta is None else tta
        self._check(pose, tta)
        frames = [Frame.own(scan) for scan in scans]
        found = self.localize_in(scans, frames)
        if pose != "as-is" and self.confidence is not None:
            search = Search(self, self.confidence)
            seen = [search(scan, one, pose == "search") for scan, one in zip(scans, found, strict=True)]
            frames, found = [frame for frame, _ in seen], [one for _, one in seen]
        if tta:
            found = averaged(self, scans, frames, found)
        return [self.judged(one) for one in found]

    def _check(self, pose: str, tta: bool) -> None:
        if pose not in POSES:
            raise TrtlmError(f"pose {pose}: there is no such way.", f"Take {', '.join(POSES)}.", code="usage")
        if pose == "search" and self.confidence is None:
            raise TrtlmError(
                f"pose search: the model {self.task.name} has no fitted confidence, which tells right poses from wrong "
                "ones.",
                "Fit it (trtlm confidence), or take the scans as they lie.",
                code="pose_unknown",
            )
        if tta:
            check_symmetry(self.task)


class Search:
    """Searches the pose of a scan.

    Args:
        localizer: whose nets see the scan.
        confidence: says in which poses the anatomy is found.
    """

    def __init__(self, localizer: Localizer, confidence: ConfidenceModel) -> None:
        self._localizer, self._confidence = localizer, confidence

    def __call__(self, scan: Scan, as_is: Localization, always: bool = False) -> tuple[Frame, Localization]:
        """The frame in which the landmarks are credible, and what is found in it; both as they lie if there is none.

        Args:
            scan: what is localized in.
            as_is: what is found as the scan lies, before it is judged.
            always: search also if that is credible.
        """
        start = time.perf_counter()
        own = Frame.own(scan)
        posed = self._posed(as_is.points)
        near = self._passes(as_is) and not always  # the points as the scan lies tell the pose
        if near and turned_by(posed.axes) <= UPRIGHT_DEG:
            return own, as_is
        intensities = intensity_range(scan.voxels, self._localizer.task.intensity)
        turns, runs = 0 if near else len(CUBE), 0
        for frame in [posed] if near else self._likely(scan, intensities):
            runs += 1
            (found,) = self._localizer.localize_in([scan], [frame], [intensities])
            if self._passes(found, sure=not near):
                return frame, _told(found, as_is, start, PoseSearch(self._posed(found.points).axes, turns, runs))
        return own, as_is if near else _told(as_is, as_is, start, PoseSearch(None, turns, runs))

    def _passes(self, found: Localization, sure: bool = False) -> bool:
        """Whether this may be the anatomy; a search looks often, so that its finds have to be sure landmarks mostly."""
        said = self._confidence.judge(found).reliability
        return said is not None and not said.wrong_anatomy and not (sure and said.low.mean() > 0.5)

    def _likely(self, scan: Scan, intensities: Range) -> Iterator[Frame]:
        """Frames that are worth a run of the full model, no two alike; posed further while the last one did not do."""
        frames, points = self._turned(scan, intensities)
        tried: list[Frame] = []
        for again in range(ROUNDS):
            frames = self._posed_all(frames, points)
            points = self._coarse(self._volumes(scan, frames, intensities))
            unlikely = np.array([self._unlikely(shape) for shape in points])
            order = np.argsort(unlikely, kind="stable")[: KEPT if again else None]
            frames, points = [frames[index] for index in order], points[order]
            last = again == ROUNDS - 1
            for frame, odds in zip(self._posed_all(frames, points), unlikely[order], strict=True):
                if len(tried) == CANDIDATES or not (last or odds < LIKELY):
                    break
                if all(turned_by(frame.axes.T @ other.axes) > SAME_DEG for other in tried):
                    tried.append(frame)
                    yield frame

    def _turned(self, scan: Scan, intensities: Range) -> tuple[list[Frame], Floats]:
        """The 24 turns of the cube, and what the coarse net sees in each.

        A scan is sampled once for each order of the axes; half turns only flip what was sampled.
        """
        frames = [Frame(axes, scan.geometry.centre) for axes in CUBE]
        volumes = [
            np.flip(volume, tuple(3 - axis for axis in range(3) if signs[axis] < 0))  # [C, Z, Y, X]
            for volume in self._volumes(scan, frames[:: len(HALF_TURNS)], intensities)
            for signs in HALF_TURNS
        ]
        return frames, self._coarse(volumes)

    def _volumes(self, scan: Scan, frames: Sequence[Frame], intensities: Range) -> list[NDArray[np.float32]]:
        # One by one: a preprocessor on the GPU would take a copy of the scan there for each.
        sampled, grid = self._localizer.preprocessor.coarse_volumes, partial(coarse_grid, self._localizer.task)
        return [sampled([scan], [grid(scan, frame)], [intensities])[0] for frame in frames]

    def _coarse(self, volumes: Sequence[NDArray[np.float32]]) -> Floats:
        """Points ``[B, N, 3]``, mm along the axes of each volume ``[1, Z, Y, X]`` from its middle."""
        together = self._localizer.task.batches.coarse[2]
        parts = [np.stack(volumes[n : n + together]) for n in range(0, len(volumes), together)]
        return np.concatenate([self._localizer.coarse_offsets(part) for part in parts]).astype(np.float64)

    def _unlikely(self, points: Floats) -> float:
        """How little points ``[N, 3]`` in a frame look like the anatomy upright; 0 is not at all unlikely."""
        shape = self._confidence.shape.residuals(points, np.ones(len(points)))
        angle = turned_by(rigid_rotation(self._localizer.mean_shape, points))
        odd = float(np.median(shape.mahalanobis))
        return odd + angle / UNLIKELY_DEG + abs(float(np.log(shape.scale))) / UNLIKELY_LOG_SIZE

    def _posed_all(self, frames: Sequence[Frame], points: Floats) -> list[Frame]:
        return [self._posed(frame.to_world(shape)) for frame, shape in zip(frames, points, strict=True)]

    def _posed(self, points: Floats) -> Frame:
        """The frame in which points ``[N, 3]`` (LPS mm) lie as the mean shape does."""
        shape = self._localizer.mean_shape
        axes = rigid_rotation(shape, points)
        return Frame(axes, points.mean(axis=0) - axes @ shape.mean(axis=0))


def _told(found: Localization, as_is: Localization, start: float, pose: PoseSearch) -> Localization:
    """What was found, with what it took."""
    timing = {**as_is.timing_ms, "pose_search": 1000 * (time.perf_counter() - start)}
    return replace(found, pose=pose, timing_ms=timing)
