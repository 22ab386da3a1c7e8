"""The nets in the form that ONNX Runtime runs fastest on a CPU: the same weights and, to rounding, the same results.

ONNX Runtime has fast kernels for two-dimensional convolutions (blocked channels, no unfolded copy of the input), but
none for three-dimensional ones.  Two rewritings, both exact:

* **Planar**: a volume is laid out as one tall image, slice below slice with a row of zeros in between.  The taps of a
  3x3x3 kernel along z are then taps that lie a slice's height of rows apart: a dilated 2D convolution.  For each of
  the three places along y there is one, and their sum is the 3D convolution.
* **Phases**: a convolution of a volume that was enlarged by repeating its voxels sees most voxels several times.  Each
  of the four (z, y) phases of its result is a convolution of the small volume, with two taps along z and y in place
  of three; the enlarged volume is never made.

``benchmarks/nets.py`` measures both against the plain form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from trt_landmarks.nets.folding import folded
from trt_landmarks.nets.unet import ConvUnit, Decoder

#: Channels of a group must be a multiple of this for the fast kernels (16 floats are one AVX-512 register).
BLOCK = 16
#: Row ``[phase, tap]``: which of three taps (upper index 3) become tap 0 or 1 of a phase.  An even voxel of the
#: enlarged volume sees the small volume's voxels i - 1, i, i; an odd one i, i, i + 1.
PHASE_TAPS = ((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def for_cpu(net: nn.Module) -> nn.Module | None:
    """A copy of a net for inference on the CPU, batch normalization folded; its parameters keep their names.

    None if there is nothing in it that the fast kernels take.
    """
    result = folded(net)
    _convert(result)
    return result if any(isinstance(part, (PlanarConv, PlanarUnit, MergeUnit)) for part in result.modules()) else None


def _convert(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, Decoder) and all(fits(unit.conv, inputs=2) for unit in child.merge):  # type: ignore[arg-type,union-attr]
            _convert(child.reduce)
            setattr(module, name, CpuDecoder(child))
        elif isinstance(child, ConvUnit) and fits(child.conv):
            setattr(module, name, PlanarUnit(child.conv))
        elif isinstance(child, nn.Conv3d) and fits(child):
            setattr(module, name, PlanarConv(child))
        else:
            _convert(child)


def fits(conv: nn.Conv3d, inputs: int = 1) -> bool:
    """Whether the fast kernels take a convolution whose input consists of so many equal parts."""
    return (
        conv.in_channels // conv.groups % (inputs * BLOCK) == 0
        and conv.out_channels // conv.groups % BLOCK == 0
        and conv.kernel_size == (3, 3, 3)
        and conv.stride == (1, 1, 1)
        and conv.padding == (1, 1, 1)
    )


class PlanarConv(nn.Module):
    """A 3x3x3 convolution, planar: ``[B, Ci, Z, Y, X]`` to ``[B, Co, Z, Y, X]``."""

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.weight, self.bias, self.groups = conv.weight, conv.bias, conv.groups

    def forward(self, x: Tensor) -> Tensor:
        return planar(x, self.weight, self.bias, self.groups)[:, :, :, : x.shape[3]]


class PlanarUnit(nn.Module):
    """A planar convolution and ReLU, which the fast kernels do in one."""

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        return planar(x, conv.weight, conv.bias, conv.groups, relu=True)[:, :, :, : x.shape[3]]


class CpuDecoder(nn.Module):
    """A decoder whose merging units see the deeper features in their own resolution."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.reduce = decoder.reduce
        self.merge = nn.ModuleList(
            MergeUnit(unit.conv, decoder.landmarks)  # type: ignore[arg-type,union-attr]
            for unit in decoder.merge
        )
        self.head = decoder.head

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x = features[-1]
        for reduce, merge, skip in zip(self.reduce, self.merge, reversed(features[:-1]), strict=True):
            x = merge(skip, reduce(x))
        heatmaps: Tensor = self.head(x)
        return heatmaps


class MergeUnit(nn.Module):
    """Convolution and ReLU of features and deeper features enlarged to their size, concatenated landmark by landmark.

    Input ``[B, L * C, Z, Y, X]`` and ``[B, L * C, Z / 2, Y / 2, X / 2]``; output as the first.
    """

    taps: Tensor

    def __init__(self, conv: nn.Conv3d, landmarks: int) -> None:
        super().__init__()
        self.conv = conv
        self.landmarks = landmarks
        self.register_buffer("taps", torch.tensor(PHASE_TAPS), persistent=False)

    def forward(self, skip: Tensor, deeper: Tensor) -> Tensor:
        weight, channels = self.conv.weight, skip.shape[1] // self.landmarks
        own = weight[:, :channels]
        y = planar(skip, own, self.conv.bias, self.landmarks)[:, :, :, : skip.shape[3]]
        return torch.relu(y + self._enlarged(deeper, weight[:, channels:]))

    def _enlarged(self, deeper: Tensor, weight: Tensor) -> Tensor:
        """The convolution of the enlarged deeper features."""
        landmarks = self.landmarks
        out, channels = weight.shape[0] // landmarks, weight.shape[1]
        z, y, x = deeper.shape[2:]
        # Along x, voxels are repeated: rows stay whole, so that phases interleave row by row.
        repeat = [[float(column // 2 == row) for column in range(2 * x)] for row in range(x)]
        wide = deeper @ torch.tensor(repeat)
        # [L, out, C, z, y, x] -> [L, phase z, phase y, out, C, tap z, tap y, x]
        phases = torch.matmul(self.taps.reshape(4, 3), weight.reshape(-1, 3, 9)).reshape(-1, 4, 3, 3)
        phases = torch.matmul(self.taps.reshape(4, 3), phases).reshape(landmarks, out, channels, 2, 2, 2, 2, 3)
        phases = phases.permute(0, 3, 5, 1, 2, 4, 6, 7).reshape(landmarks * 4 * out, channels, 2, 2, 3)
        found = planar(wide, phases, None, landmarks).reshape(-1, landmarks, 2, 2, out, z + 1, y + 1, 2 * x)
        rows = [
            torch.cat([found[:, :, a : a + 1, b : b + 1, :, a : a + z, b : b + y, None] for b in (0, 1)], dim=7)
            for a in (0, 1)
        ]  # [B, L, 1, 1, out, z, y, phase y, 2x]
        return torch.stack(rows, dim=6).reshape(-1, landmarks * out, 2 * z, 2 * y, 2 * x)


def planar(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int, relu: bool = False) -> Tensor:
    """3D convolution, zero outside, as a sum of dilated 2D convolutions.

    Args:
        x: ``[B, Ci, Z, Y, X]``.
        weight: ``[Co, Ci / groups, Tz, Ty, 3]``; 3 taps along z and y, or 2: those before a voxel and at it.
        bias: ``[Co]``.
        groups: of channels.
        relu: whether negative results become 0.

    Returns:
        ``[B, Co, Z', Y + 1, X]``: with 3 taps Z' is Z, and the last row of each slice has no meaning; with 2 taps Z'
        is Z + 1, and all Y + 1 rows have.
    """
    z, y, width = x.shape[2:]
    taps_z, taps_y = weight.shape[2:4]
    height = y + 1
    image = functional.pad(x, (0, 0, 0, 1)).reshape(-1, x.shape[1], z * height, width)
    total: Tensor | None = None
    for tap in range(taps_y):
        # Row r of the result sees rows r - height - 1 + tap + n * height, n = 0, 1, ...
        above = height + 1 - tap
        below = 2 * height - above
        part = functional.conv2d(
            functional.pad(image, (0, 0, above, below)), weight[:, :, :, tap], bias if tap == 0 else None,
            padding=(0, 1), dilation=(height, 1), groups=groups,
        )  # fmt: skip
        total = part if total is None else total + part
    assert total is not None
    total = torch.relu(total) if relu else total
    return total.reshape(-1, weight.shape[0], z + 3 - taps_z, height, width)
