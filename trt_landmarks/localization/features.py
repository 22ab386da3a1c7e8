"""What a localization itself says about its error: signs that are there at inference, without truth and without nets.

For each landmark, the larger the worse:

* ``peak``: minus the logarithm of the heat map's height;
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

SIGNS = ("peak", "shape")

#: Heat maps count as this high at least: below, height is noise.
LOWEST_PEAK = 0.01
#: Standard deviations that are added before the logarithm: nearer than expected is no better than as near as expected.
USUAL_DISTANCE = 0.5


def signs(shape: ShapeModel, found: Localization) -> Floats:
    """``[N, F]``, in the order of :data:`SIGNS`.

    Args:
        shape: how the landmarks usually lie.
        found: what was found; its confidence is the height of the heat maps.
    """
    height = np.clip(found.confidence, LOWEST_PEAK, 1)
    unexpected = shape.residuals(found.points, height).mahalanobis
    return np.stack([-np.log(height), np.log(unexpected + USUAL_DISTANCE)], axis=1)
