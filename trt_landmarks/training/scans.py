"""Training scans in memory, and patches of them sampled with PyTorch through any affine map."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trt_landmarks.data.dataset import Case
from trt_landmarks.data.shapes import average_shape
from trt_landmarks.errors import DatasetError
from trt_landmarks.geometry import Floats, Geometry
from trt_landmarks.preprocessing.sampling import intensity_range
from trt_landmarks.scan import read_scan
from trt_landmarks.task.task import Task


@dataclass(frozen=True)
class TrainingScan:
    """A scan with its annotation, ready to be sampled.

    Attributes:
        id: case id.
        volume: ``[1, 1, K, J, I]`` float32, normalized to 0..1.
        geometry: where the voxels lie.
        points: ``[N, 3]`` LPS mm, NaN where not annotated.
        digest: SHA-256 of the voxels: equal digests are the same scan.
    """

    id: str
    volume: Tensor
    geometry: Geometry
    points: Floats
    digest: str = ""

    def sample(self, centre: Floats, axes: Floats, shape: tuple[int, int, int], spacing: tuple[float, ...]) -> Tensor:
        """Trilinear samples ``[1, 1, Z, Y, X]`` at ``centre + axes @ offset``, offset over a regular box (mm).

        ``axes`` is any invertible 3x3 (rotation, scaling, mirroring, shear); outside the scan is 0.
        """
        device = self.volume.device
        inverse = np.linalg.inv(self.geometry.voxel_to_world_matrix)
        size = np.asarray(self.geometry.size, dtype=np.float64)
        # Normalized coordinates of grid_sample (align_corners): -1 and 1 are the first and last voxel centres.
        linear = inverse[:3, :3] @ axes @ np.diag(spacing) * (2 / (size - 1))[:, None]
        start = (inverse[:3, :3] @ np.asarray(centre) + inverse[:3, 3]) * (2 / (size - 1)) - 1
        x, y, z = (torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2 for n in shape)
        column = torch.as_tensor(linear, dtype=torch.float32, device=device)
        grid = (
            column[:, 0] * x[None, None, :, None]
            + column[:, 1] * y[None, :, None, None]
            + column[:, 2] * z[:, None, None, None]
            + torch.as_tensor(start, dtype=torch.float32, device=device)
        )
        half = torch.as_tensor(1 + 1 / (size - 1), dtype=torch.float32, device=device)
        inside = (grid.abs() <= half).all(dim=-1)
        values = functional.grid_sample(self.volume, grid[None], padding_mode="border", align_corners=True)
        return values * inside


def load_training_scan(case: Case, task: Task, device: torch.device) -> TrainingScan:
    """Read and normalize one annotated scan."""
    scan = read_scan(case.image)
    low, high = intensity_range(scan.voxels, task.intensity)
    if not bool(((scan.voxels > low) & (scan.voxels < high)).any()):
        raise DatasetError(
            f"{case.image}: no voxel lies between the intensities {low:g} and {high:g} that become 0 and 1.",
            "Check the task's intensity section, and the units of the scan.",
            code="intensity_window_empty",
        )
    volume = torch.from_numpy(scan.voxels.astype(np.float32)).sub_(low).div_(high - low).clamp_(0, 1)
    digest = hashlib.sha256(np.ascontiguousarray(scan.voxels).data).hexdigest()
    return TrainingScan(case.id, volume[None, None].to(device), scan.geometry, case.points, digest)


def mean_shape(scans: list[TrainingScan], mirror: tuple[int, ...] | None, axis: int | None) -> Floats:
    """The training set's :func:`~trt_landmarks.data.shapes.average_shape` ``[N, 3]``, mm from the scan's middle."""
    return average_shape(np.stack([scan.points - scan.geometry.centre for scan in scans]), mirror, axis)
