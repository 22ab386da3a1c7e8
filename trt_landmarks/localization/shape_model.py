"""What constellations of landmarks occur: a Gaussian model of the training shapes, and how far points are from it.

A shape is aligned to the mean by rotation, translation and scaling.  What is left varies about the mean along a few
modes (principal components), and about these by each landmark's own noise::

    aligned shape = mean + sum of b_k * mode_k + noise,      b_k ~ N(0, 1)

(probabilistic PCA: Tipping and Bishop, J. R. Stat. Soc. B 61, 1999, with a variance for each landmark).  A landmark is
judged by where the *others* expect it.  Outliers among these count less, by the weights of a t distribution, so that
one wrong landmark does not make the right ones look wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trt_landmarks.errors import DatasetError
from trt_landmarks.geometry import Floats, rigid_rotation

#: Shapes that a model is made from, at least.
FEWEST_SHAPES = 8
#: Landmarks that a shape has, at least: three always fit some pose and size rather well.
FEWEST_LANDMARKS = 4
#: Modes, at most: what few shapes tell of more is noise.
MOST_MODES = 12
#: Degrees of freedom of the t distribution whose weights outliers get.
FREEDOM = 3.0
#: Mean length of a vector of three standard normal numbers.
MEAN_DISTANCE = float(np.sqrt(8 / np.pi))
#: The noise of a landmark, at least, as a share of the shape's size: cases that are all alike have none.
LEAST_NOISE = 1e-4
#: Rounds of alignment and weighting.
ROUNDS = 8


@dataclass(frozen=True)
class ShapeResiduals:
    """A constellation against the model.

    Attributes:
        distance_mm: ``[N]`` from where the other landmarks expect each.
        mahalanobis: ``[N]`` the same, in standard deviations of that expectation.
        scale: size of the constellation; 1 is the mean shape's.
    """

    distance_mm: Floats
    mahalanobis: Floats
    scale: float


@dataclass(frozen=True)
class ShapeModel:
    """A Gaussian model of shapes; shapes and lengths in mm.

    Attributes:
        mean: ``[N, 3]``, about the origin.
        modes: ``[K, N, 3]``, each of the length of its standard deviation.
        noise: ``[N]`` standard deviation of a landmark about the modes, along one axis.
    """

    mean: Floats
    modes: Floats
    noise: Floats

    def residuals(self, points: Floats, weights: Floats) -> ShapeResiduals:
        """How far each landmark is from where the others expect it.

        Args:
            points: ``[N, 3]`` LPS mm.
            weights: ``[N]`` above 0, how much to believe each landmark at first, such as the height of its heat map.
        """
        weight = np.array(weights, dtype=np.float64)
        for _ in range(ROUNDS):
            rotation, scale, centre = _similarity(self.mean, points, weight)
            aligned = (points - centre) @ rotation / scale
            difference, covariance = self._expected(aligned, weight)
            mahalanobis = np.sqrt(np.einsum("ni,nij,nj->n", difference, np.linalg.inv(covariance), difference))
            weight = (FREEDOM + 3) / (FREEDOM + mahalanobis**2)
        return ShapeResiduals(np.linalg.norm(difference, axis=1) * scale, mahalanobis, scale)

    def _expected(self, aligned: Floats, weight: Floats) -> tuple[Floats, Floats]:
        """Each landmark's difference ``[N, 3]`` from the others' expectation, and its covariance ``[N, 3, 3]``."""
        modes = self.modes.transpose(1, 0, 2)  # [N, K, 3]
        offset = aligned - self.mean
        precision = weight / self.noise**2
        information = precision[:, None, None] * (modes @ modes.transpose(0, 2, 1))
        evidence = precision[:, None] * (modes @ offset[:, :, None])[:, :, 0]
        others = np.eye(len(self.modes)) + information.sum(axis=0) - information
        inverse = np.linalg.inv(others)
        modes_of = (inverse @ (evidence.sum(axis=0) - evidence)[:, :, None])[:, :, 0]
        difference = offset - np.einsum("nki,nk->ni", modes, modes_of)
        spread = modes.transpose(0, 2, 1) @ inverse @ modes
        return difference, spread + self.noise[:, None, None] ** 2 * np.eye(3)


def fit_shape_model(shapes: Floats) -> ShapeModel:
    """The model of some shapes ``[C, N, 3]`` (mm); shapes with a NaN are left out.

    How many modes there are, and how large the noise is, is found by leaving out each shape in turn.

    Raises:
        DatasetError: if fewer than :data:`FEWEST_SHAPES` are complete, or there are too few landmarks.
    """
    shapes = np.asarray(shapes, dtype=np.float64)
    if shapes.shape[1] < FEWEST_LANDMARKS:
        raise DatasetError(
            f"{shapes.shape[1]} landmarks are too few for a model of their shape.",
            f"A confidence can be fitted for {FEWEST_LANDMARKS} landmarks and more.",
        )
    shapes = shapes[np.isfinite(shapes).all(axis=(1, 2))]
    if len(shapes) < FEWEST_SHAPES:
        raise DatasetError(
            f"{len(shapes)} completely annotated training cases are too few for a model of their shape.",
            f"At least {FEWEST_SHAPES} are needed.",
        )
    aligned = _aligned(shapes)
    most = min(MOST_MODES, len(shapes) - 3)
    distances = np.stack([_left_out(aligned, count) for count in range(most + 1)])  # [K + 1, C, N]
    count = int(np.argmin(distances.mean(axis=(1, 2))))
    variance = (distances[count].mean(axis=0) / MEAN_DISTANCE) ** 2
    noise = np.sqrt(0.5 * variance + 0.5 * variance.mean())  # few shapes: half of it is everybody's
    mean, modes = _principal(aligned, count)
    noise = np.maximum(noise, LEAST_NOISE * float(np.linalg.norm(mean)) / np.sqrt(len(mean)))
    return ShapeModel(mean, modes, noise)


def _aligned(shapes: Floats) -> Floats:
    """The shapes on their common mean, whose size is the shapes' mean size."""
    mean = shapes[0] - shapes[0].mean(axis=0)
    size = np.mean([np.linalg.norm(shape - shape.mean(axis=0)) for shape in shapes])
    everywhere = np.ones(shapes.shape[1])
    for _ in range(10):
        fits = [_similarity(mean, shape, everywhere) for shape in shapes]
        aligned = np.stack([(s - centre) @ r / scale for s, (r, scale, centre) in zip(shapes, fits, strict=True)])
        mean = aligned.mean(axis=0)
        mean *= size / max(float(np.linalg.norm(mean)), 1e-12)
    return aligned


def _principal(aligned: Floats, count: int) -> tuple[Floats, Floats]:
    """Mean ``[N, 3]`` and the ``count`` largest modes ``[K, N, 3]``, each as long as its standard deviation."""
    mean = aligned.mean(axis=0)
    _, values, rows = np.linalg.svd((aligned - mean).reshape(len(aligned), -1), full_matrices=False)
    modes = rows[:count] * (values[:count] / np.sqrt(len(aligned) - 1))[:, None]
    return mean, modes.reshape(count, *mean.shape)


def _left_out(aligned: Floats, count: int) -> Floats:
    """``[C, N]`` distances of a shape's landmarks from where the others expect them, by a model without the shape."""
    distances = []
    for case, shape in enumerate(aligned):
        others = np.delete(aligned, case, axis=0)
        mean, modes = _principal(others, count)
        total = ((others - mean) ** 2).sum() / (len(others) - 1)
        rest = max((total - (modes**2).sum()) / shape.size, 1e-12)  # the variance that the modes leave, along one axis
        model = ShapeModel(mean, modes, np.full(len(shape), np.sqrt(rest)))
        distances.append(model.residuals(shape, np.ones(len(shape))).distance_mm)
    return np.stack(distances)


def _similarity(mean: Floats, points: Floats, weights: Floats) -> tuple[Floats, float, Floats]:
    """Rotation, scale and centre (of the origin) that best carry the mean shape to the points, weighted."""
    share = weights / weights.sum()
    middle, centre = share @ mean, share @ points
    rotation = rigid_rotation(mean, points, weights)
    source, target = (mean - middle) @ rotation.T, points - centre
    spread = max(float((share[:, None] * source**2).sum()), 1e-12)  # coincident landmarks
    scale = float((share[:, None] * source * target).sum()) / spread
    scale = max(scale, 0.05)  # collapsed points
    return rotation, scale, centre - scale * (rotation @ middle)
