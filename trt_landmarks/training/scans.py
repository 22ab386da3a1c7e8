"""Training scans in memory, and patches of them sampled with PyTorch through any affine map."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from trt_landmarks.data.dataset import Case
from trt_landmarks.data.shapes import average_shape
from trt_landmarks.errors import DatasetError
from trt_landmarks.files import write_bytes
from trt_landmarks.geometry import Floats, Geometry
from trt_landmarks.preprocessing.sampling import intensity_range
from trt_landmarks.scan import read_scan
from trt_landmarks.task.task import Task

#: Memory for the scans of a training, bytes; as much again for those it is validated with.
ROOM = 4 << 30


@dataclass(frozen=True)
class TrainingScan:
    """A scan with its annotation, ready to be sampled.

    Attributes:
        id: case id.
        volume: ``[1, 1, K, J, I]``, normalized to 0..1: float32 on the device of the training; or float16, mapped from
            a file, of which :meth:`sample` takes the part that it needs.
        geometry: where the voxels lie.
        points: ``[N, 3]`` LPS mm, NaN where not annotated.
        digest: SHA-256 of the voxels: equal digests are the same scan.
    """

    id: str
    volume: Tensor
    geometry: Geometry
    points: Floats
    digest: str = ""
    device: torch.device = torch.device("cpu")

    def sample(self, centre: Floats, axes: Floats, shape: tuple[int, int, int], spacing: tuple[float, ...]) -> Tensor:
        """Trilinear samples ``[1, 1, Z, Y, X]`` at ``centre + axes @ offset``, offset over a regular box (mm).

        ``axes`` is any invertible 3x3 (rotation, scaling, mirroring, shear); outside the scan is 0.
        """
        device = self.device
        inverse = np.linalg.inv(self.geometry.voxel_to_world_matrix)
        size = np.asarray(self.geometry.size, dtype=np.float64)
        # Normalized coordinates of grid_sample (align_corners): -1 and 1 are the first and last voxel centres.
        half = np.maximum(size - 1, 1) / 2  # a scan may be a single slice
        linear = inverse[:3, :3] @ axes @ np.diag(spacing) / half[:, None]
        start = (inverse[:3, :3] @ np.asarray(centre) + inverse[:3, 3] - (size - 1) / 2) / half
        x, y, z = (torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2 for n in shape)
        column = torch.as_tensor(linear, dtype=torch.float32, device=device)
        grid = (
            column[:, 0] * x[None, None, :, None]
            + column[:, 1] * y[None, :, None, None]
            + column[:, 2] * z[:, None, None, None]
            + torch.as_tensor(start, dtype=torch.float32, device=device)
        )
        faces = torch.as_tensor(size / 2 / half, dtype=torch.float32, device=device)
        inside = (grid.abs() <= faces).all(dim=-1)
        volume = self.volume
        if volume.dtype == torch.float16:
            volume, grid = _part(volume, grid)
        values = functional.grid_sample(volume, grid[None], padding_mode="border", align_corners=True)
        return values * inside


def _part(volume: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """The part of a mapped volume that a grid ``[Z, Y, X, 3]`` (normalized coordinates) sees, and the grid in it."""
    size = torch.tensor(volume.shape[:1:-1], dtype=torch.float32, device=grid.device)
    voxel = (grid + 1) / 2 * (size - 1)
    flat = voxel.reshape(-1, 3)
    low = torch.minimum((flat.amin(dim=0).floor() - 1).clamp(min=0), size - 1)
    high = torch.maximum(torch.minimum(flat.amax(dim=0).ceil() + 1, size - 1), low)
    (i, j, k), (i_end, j_end, k_end) = low.int().tolist(), (high.int() + 1).tolist()
    part = volume[:, :, k:k_end, j:j_end, i:i_end].to(grid.device, torch.float32)
    return part, (voxel - low) / (high - low).clamp(min=1) * 2 - 1


def load_training_scans(
    cases: Sequence[Case], task: Task, device: torch.device, folder: Path, room: int = ROOM
) -> list[TrainingScan]:
    """Read annotated scans: in memory as float32 while there is room, the others as float16 in files that are mapped.

    Args:
        folder: receives the files.
        room: bytes of memory to take.

    Raises:
        DatasetError: as :func:`load_training_scan`, or if a file cannot be written.
        ScanError: if a scan cannot be read.
    """
    scans = []
    for number, case in enumerate(cases):
        scan = load_training_scan(case, task, torch.device("cpu"))
        room -= scan.volume.nbytes
        if room >= 0:
            volume = scan.volume.to(device)
        else:
            path = folder / f"{len(list(folder.iterdir()))}-{number}.half"
            write_bytes(path, scan.volume.half().numpy().data, DatasetError)
            mapped = np.memmap(path, dtype=np.float16, mode="c", shape=tuple(scan.volume.shape))
            volume = torch.from_numpy(mapped)
        scans.append(replace(scan, volume=volume, device=device))
    return scans


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
    return TrainingScan(case.id, volume[None, None].to(device), scan.geometry, case.points, digest, device)


def mean_shape(scans: list[TrainingScan], mirror: tuple[int, ...] | None, axis: int | None) -> Floats:
    """The training set's :func:`~trt_landmarks.data.shapes.average_shape` ``[N, 3]``, mm from the scan's middle."""
    return average_shape(np.stack([scan.points - scan.geometry.centre for scan in scans]), mirror, axis)
