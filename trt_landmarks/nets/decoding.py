"""From heatmaps to points inside the graph: DARK (Zhang et al., CVPR 2020).

The heatmap is smoothed with a Gaussian, its maximum found, and a second-order Taylor step taken on its
logarithm: exact for a Gaussian.  Only arithmetic, ArgMax and Gather: it exports, and it stays in FP32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

#: Heatmap values below this are raised to it before the logarithm.
FLOOR = 1e-4


def _kernel(sigma: float) -> Tensor:
    radius = max(1, math.ceil(2 * sigma))
    x = torch.arange(-radius, radius + 1, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    return kernel / kernel.sum()


class HeatmapDecoder(nn.Module):
    """Points and confidences of 3D heatmaps.

    Input ``[B, L, Z, Y, X]``.  Output: ``[B, L, 3]`` offsets (x, y, z) in voxels from the patch's centre, and
    ``[B, L]`` confidences in 0..1, the height of the maximum.
    """

    kernel: Tensor

    def __init__(self, shape: tuple[int, int, int], sigma: float) -> None:
        """``shape`` x, y, z of the patch; ``sigma`` in voxels of the smoothing."""
        super().__init__()
        self.shape = shape
        self.register_buffer("kernel", _kernel(sigma), persistent=False)

    def smooth(self, heatmaps: Tensor) -> Tensor:
        """Separable Gaussian smoothing, zero outside."""
        x, y, z = self.shape
        taps = self.kernel.shape[0]
        h = heatmaps.reshape(-1, 1, z, y, x)
        for dim in range(3):
            size, padding = [1, 1, 1], [0, 0, 0]
            size[dim], padding[dim] = taps, taps // 2
            h = functional.conv3d(h, self.kernel.reshape(1, 1, *size), padding=padding)
        return h.reshape(heatmaps.shape)

    def forward(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        nx, ny, nz = self.shape
        raw = heatmaps.flatten(2)
        flat = self.smooth(heatmaps).flatten(2)
        peak = flat.argmax(dim=2, keepdim=True)
        confidence = raw.gather(2, peak).squeeze(2).clamp(0, 1)
        # The Taylor step needs neighbours on both sides: keep one voxel from the border.
        ix = (peak % nx).clamp(1, nx - 2)
        iy = (peak // nx % ny).clamp(1, ny - 2)
        iz = (peak // (nx * ny)).clamp(1, nz - 2)
        centre = iz * (nx * ny) + iy * nx + ix

        def value(dx: int, dy: int, dz: int) -> Tensor:
            near = flat.gather(2, centre + (dz * nx * ny + dy * nx + dx)).squeeze(2)
            return torch.log(near.clamp(min=FLOOR))

        unit = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
        middle = value(0, 0, 0)
        ahead = [value(*u) for u in unit]
        behind = [value(-u[0], -u[1], -u[2]) for u in unit]
        gx, gy, gz = (0.5 * (a - b) for a, b in zip(ahead, behind, strict=True))
        hxx, hyy, hzz = (a - 2 * middle + b for a, b in zip(ahead, behind, strict=True))

        def mixed(u: tuple[int, int, int], v: tuple[int, int, int]) -> Tensor:
            plus = [p + q for p, q in zip(u, v, strict=True)]
            minus = [p - q for p, q in zip(u, v, strict=True)]
            same = value(*plus) + value(*(-p for p in plus))
            return 0.25 * (same - value(*minus) - value(*(-p for p in minus)))

        hxy, hxz, hyz = mixed(unit[0], unit[1]), mixed(unit[0], unit[2]), mixed(unit[1], unit[2])
        # Newton step -H^-1 g with the adjugate of the symmetric H.
        axx, ayy, azz = hyy * hzz - hyz * hyz, hxx * hzz - hxz * hxz, hxx * hyy - hxy * hxy
        axy, axz, ayz = hxz * hyz - hxy * hzz, hxy * hyz - hxz * hyy, hxy * hxz - hxx * hyz
        det = hxx * axx + hxy * axy + hxz * axz
        concave = (hxx < 0) & (azz > 0) & (det < 0)
        safe = torch.where(concave, det, torch.full_like(det, -1.0))
        step = -torch.stack(
            [axx * gx + axy * gy + axz * gz, axy * gx + ayy * gy + ayz * gz, axz * gx + ayz * gy + azz * gz], dim=2
        ) / safe.unsqueeze(2)
        step = torch.where(concave.unsqueeze(2), step, torch.zeros_like(step)).clamp(-1, 1)
        index = torch.cat([ix, iy, iz], dim=2).to(step.dtype)
        middle_index = torch.tensor([(n - 1) / 2 for n in self.shape], dtype=step.dtype, device=step.device)
        return index + step - middle_index, confidence


class SliceDecoder(nn.Module):
    """Key slice of a 1D heatmap ``[B, n]``: offset in voxels from the middle ``[B]``, by DARK in one dimension."""

    kernel: Tensor

    def __init__(self, length: int, sigma: float) -> None:
        super().__init__()
        self.length = length
        self.register_buffer("kernel", _kernel(sigma), persistent=False)

    def forward(self, heatmap: Tensor) -> Tensor:
        taps = self.kernel.shape[0]
        smooth = functional.conv1d(heatmap.unsqueeze(1), self.kernel.reshape(1, 1, -1), padding=taps // 2).squeeze(1)
        centre = smooth.argmax(dim=1, keepdim=True).clamp(1, self.length - 2)
        behind, middle, ahead = (torch.log(smooth.gather(1, centre + step).clamp(min=FLOOR)) for step in (-1, 0, 1))
        curvature = ahead - 2 * middle + behind
        concave = curvature < 0
        safe = torch.where(concave, curvature, torch.full_like(curvature, -1.0))
        step = torch.where(concave, -0.5 * (ahead - behind) / safe, torch.zeros_like(safe)).clamp(-1, 1)
        return (centre.to(step.dtype) + step).squeeze(1) - (self.length - 1) / 2
