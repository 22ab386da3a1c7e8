"""A scan of few slices, for series of files."""

from __future__ import annotations

import pytest

from trt_landmarks.geometry import Geometry
from trt_landmarks.scan import Scan, scan_from_array


@pytest.fixture(scope="module")
def thin(small: Scan) -> Scan:
    """Eight slices of a real scan, lying obliquely."""
    geometry = Geometry((50, 60, 8), small.geometry.spacing, small.geometry.origin, small.geometry.direction)
    return scan_from_array(small.voxels[:8], geometry)
