"""The features from which a landmark's error is predicted: available at inference, without truth or further nets.

For each landmark, the larger the worse:

* ``peak``: minus the logarithm of the heatmap's height;
* ``shape``: how far it is from where the other landmarks expect it, the logarithm of standard deviations.

Others were measured and left out, because they add nothing to these two (``benchmarks/confidence.py``): how far the
fine stage moved the landmark from the coarse one, how near it is to its patch's border, how far it is from its key
slice, the size of the constellation, and the means over the scan.
"""

from __future__ import annotations

import numpy as np

from trt_landmarks.geometry import Floats
from trt_landmarks.localization.result import Localization
from trt_landmarks.localization.shape_model import ShapeModel

#: Names of the features, in the order of their columns.
FEATURES = ("peak", "shape")

#: Heatmaps count as this high at least: below, height is noise.
LOWEST_PEAK = 0.01
#: Standard deviations that are added before the logarithm: nearer than expected is no better than as near as expected.
USUAL_DISTANCE = 0.5


def extract_features(shape: ShapeModel, located: Localization) -> Floats:
    """Features ``[N, F]`` of one scan's landmarks, columns in the order of :data:`FEATURES`.

    Args:
        shape: how the landmarks usually lie.
        located: points ``[N, 3]`` in LPS mm; its confidence is the height of the heatmaps.
    """
    height = np.clip(located.confidence, LOWEST_PEAK, 1)
    unexpected = shape.residuals(located.points, height).mahalanobis
    return np.stack([-np.log(height), np.log(unexpected + USUAL_DISTANCE)], axis=1)
