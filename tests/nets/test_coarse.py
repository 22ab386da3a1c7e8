"""The coarse net: its shapes, its units, and what it predicts before it has learned anything."""

from __future__ import annotations

import pytest
import torch

from tests.synthetic import scramble, small_task
from trt_landmarks.nets.coarse import CoarseNet


def task_of(shape: tuple[int, int, int], fov: tuple[float, float, float] = (20, 30, 40)):
    return small_task(coarse={"shape": shape, "field_of_view_mm": fov, "width": 2})


@pytest.mark.parametrize("shape", [(16, 16, 16), (17, 31, 9), (1, 2, 3), (33, 8, 15)])
def test_any_shape(shape: tuple[int, int, int]) -> None:
    net = CoarseNet(task_of(shape)).eval()
    volume = torch.rand(2, 1, shape[2], shape[1], shape[0])
    assert net(volume).shape == (2, 7, 3)


def test_it_is_a_resnet_34() -> None:
    net = CoarseNet(task_of((16, 16, 16)))
    convolutions = [m for m in net.modules() if isinstance(m, torch.nn.Conv3d) and m.kernel_size != (1, 1, 1)]
    assert len(convolutions) + 1 == 34
    assert [conv.out_channels for conv in convolutions] == [2] * 7 + [4] * 8 + [8] * 12 + [16] * 6


def test_it_begins_at_the_mean_shape() -> None:
    net = CoarseNet(task_of((12, 12, 12))).eval()
    mean = torch.arange(21.0).reshape(7, 3)
    net.mean_shape.copy_(mean)
    difference = net(torch.rand(3, 1, 12, 12, 12)) - mean
    assert 0 < difference.abs().max() < 0.5
    net.head.weight.data.zero_()
    torch.testing.assert_close(net(torch.rand(1, 1, 12, 12, 12))[0], mean)


def test_the_head_speaks_in_fractions_of_the_field_of_view() -> None:
    """One unit is a tenth of the field of view along its own axis."""
    net = CoarseNet(task_of((8, 8, 8), (20, 30, 40))).eval()
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.arange(21.0))
    out = net(torch.rand(1, 1, 8, 8, 8))[0]
    torch.testing.assert_close(out, torch.arange(21.0).reshape(7, 3) * torch.tensor([2.0, 3.0, 4.0]))


def test_where_a_feature_lies_is_told_apart() -> None:
    net = scramble(CoarseNet(task_of((32, 32, 32)))).eval()
    here, there = torch.zeros(2, 1, 1, 32, 32, 32)
    here[..., 4:8, 4:8, 4:8] = 1
    there[..., 24:28, 24:28, 24:28] = 1
    assert (net(here) - net(there)).abs().max() > 1e-3


def test_scans_do_not_influence_each_other() -> None:
    net = scramble(CoarseNet(task_of((16, 12, 8)))).eval()
    volumes = torch.rand(3, 1, 8, 12, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(volumes)[1:2], net(volumes[1:2]), rtol=1e-4, atol=1e-4)


def test_the_mean_shape_is_kept_with_the_weights() -> None:
    state = CoarseNet(task_of((8, 8, 8))).state_dict()
    assert "mean_shape" in state and "scale" not in state
