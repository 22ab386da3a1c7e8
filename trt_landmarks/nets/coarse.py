"""The coarse net: 3D ResNet-34 regressing all landmark positions at once (Pang et al. 2023, section 2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trt_landmarks.task.task import Task

#: Residual blocks per stage of a ResNet-34 (He et al., CVPR 2016, table 1).
BLOCKS = (3, 4, 6, 3)
#: One unit of the regression head's output in mm per mm of field of view.
HEAD_SCALE = 0.1


class BasicBlock(nn.Module):
    """Two 3x3x3 convolutions with a shortcut (He et al., CVPR 2016)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(channels_in, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm3d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv3d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm3d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class CoarseNet(nn.Module):
    """All N landmarks from the normalized coarse volume.

    The last feature map is flattened, not pooled, before the fully connected layer: where a feature lies is
    what the layer has to tell.  It predicts the difference to ``mean_shape``.

    Input ``[B, 1, Z, Y, X]`` float32, 0..1.  Output ``[B, N, 3]``: mm from the grid's centre, LPS axes.
    """

    mean_shape: Tensor
    scale: Tensor

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.landmarks = len(task.landmarks)
        width = task.coarse.width
        self.stem = nn.Sequential(nn.Conv3d(1, width, 5, 2, 2, bias=False), nn.BatchNorm3d(width), nn.ReLU())
        stages: list[nn.Module] = []
        channels = width
        for stage, blocks in enumerate(BLOCKS):
            for block in range(blocks):
                channels_out = width * 2**stage
                stages.append(BasicBlock(channels, channels_out, 2 if stage and not block else 1))
                channels = channels_out
        self.stages = nn.Sequential(*stages)
        x, y, z = (_halved(n, 4) for n in task.coarse.shape)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(channels * x * y * z, 3 * self.landmarks)
        nn.init.normal_(self.head.weight, std=1e-3)
        nn.init.zeros_(self.head.bias)
        scale = HEAD_SCALE * torch.tensor(task.coarse.field_of_view_mm)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("mean_shape", torch.zeros(self.landmarks, 3))

    def forward(self, volume: Tensor) -> Tensor:
        features = self.stages(self.stem(volume)).flatten(1)
        offsets: Tensor = self.head(self.dropout(features)).reshape(-1, self.landmarks, 3)
        return self.mean_shape + self.scale * offsets


def _halved(n: int, times: int) -> int:
    """Length after ``times`` stride-2 convolutions with "same" padding."""
    for _ in range(times):
        n = (n + 1) // 2
    return n
