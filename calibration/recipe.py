"""What decides how a model's graphs are brought to lower precision.  Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

#: How INT8's ranges are found: from the histogram with the least loss of information, or from the largest value.
METHODS = ("entropy", "max")
LOW_PRECISIONS = ("fp16", "int8")


@dataclass(frozen=True)
class Recipe:
    """How graphs are brought to lower precision.

    Attributes:
        precision: one of :data:`LOW_PRECISIONS`.
        method: one of :data:`METHODS` (INT8).
        exclude: layers that stay out of INT8, as ``<graph>:<node>``.
        sensitivity: measure what every layer costs in INT8, and leave out those that cost too much.
    """

    precision: str
    method: str = METHODS[0]
    exclude: tuple[str, ...] = ()
    sensitivity: bool = False


@dataclass(frozen=True)
class Limits:
    """What a build may deviate from FP32; None is not limited.

    Attributes:
        mean_voxel: mean distance of its landmarks from FP32's, in voxels of the patch grid.
        p99_voxel: 99th percentile of that distance.
        max_voxel: largest distance.
        mre_percent: growth of the mean radial error against annotations, percent of FP32's.
    """

    mean_voxel: float | None = None
    p99_voxel: float | None = None
    max_voxel: float | None = None
    mre_percent: float | None = None


#: What each precision may deviate.
LIMITS = {
    "fp32": Limits(p99_voxel=0.01, max_voxel=0.05),
    "fp16": Limits(p99_voxel=0.05, max_voxel=0.25),
    "bf16": Limits(p99_voxel=0.05, max_voxel=0.25),
    "int8": Limits(mean_voxel=0.1, mre_percent=2.0),
}

#: FP16: largest magnitude a tensor may have on the calibration inputs to be kept in FP16 ...
DATA_MAX = 512.0
#: ... on so many of them: a tensor 128 times larger than these show would still fit.
RANGE_INPUTS = 4
#: Sensitivity: layers are excluded until a graph's mean deviation is at most this, in voxels of its grid ...
AIM_VOXEL = 0.1
#: ... if that makes it smaller by this share at least, ...
LEAST_GAIN = 0.01
#: ... and unless less than this share of the convolutions' operations would stay in INT8 ...
LEAST_INT8 = 0.8
#: ... measured on so many of the calibration scans.
SENSITIVITY_SCANS = 4


def constants() -> dict[str, float]:
    """The constants above that shape a build: part of its key."""
    return {
        "data_max": DATA_MAX,
        "range_inputs": RANGE_INPUTS,
        "aim_voxel": AIM_VOXEL,
        "least_gain": LEAST_GAIN,
        "least_int8": LEAST_INT8,
        "sensitivity_scans": SENSITIVITY_SCANS,
    }
