"""The form for the CPU computes what the nets compute."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from tests.synthetic import scramble
from trt_landmarks.nets.correlated import CorrelatedNet
from trt_landmarks.nets.cpu_form import MergeUnit, PlanarConv, PlanarUnit, fits, for_cpu, planar
from trt_landmarks.nets.folding import folded
from trt_landmarks.nets.unet import ConvUnit, UNets, concatenate
from trt_landmarks.task.task import Correlated

SIZES = st.integers(1, 6)


@given(z=SIZES, y=SIZES, x=SIZES, groups=st.integers(1, 3), inputs=st.integers(1, 3), batch=st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_a_planar_convolution_is_the_convolution(z: int, y: int, x: int, groups: int, inputs: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(z + 10 * y + 100 * x)
    volume = torch.randn(batch, groups * inputs, z, y, x, generator=generator)
    weight = torch.randn(groups * 2, inputs, 3, 3, 3, generator=generator)
    bias = torch.randn(groups * 2, generator=generator)
    expected = functional.conv3d(volume, weight, bias, padding=1, groups=groups)
    found = planar(volume, weight, bias, groups)
    assert found.shape == (batch, groups * 2, z, y + 1, x)
    torch.testing.assert_close(found[:, :, :, :y], expected, rtol=1e-4, atol=1e-4)
    positive = planar(volume, weight, bias, groups, relu=True)
    torch.testing.assert_close(positive, found.clamp(min=0))


@given(z=SIZES, y=SIZES, x=SIZES, landmarks=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_merging_sees_what_enlarging_and_concatenating_gives(z: int, y: int, x: int, landmarks: int) -> None:
    unit = folded(scramble(ConvUnit(landmarks, 4, 3), z + 10 * y + 100 * x))
    generator = torch.Generator().manual_seed(x)
    skip = torch.randn(2, landmarks * 2, 2 * z, 2 * y, 2 * x, generator=generator)
    deeper = torch.randn(2, landmarks * 2, z, y, x, generator=generator)
    enlarged = functional.interpolate(deeper, scale_factor=2.0, mode="nearest")
    expected = unit(concatenate([skip, enlarged], landmarks))
    found = MergeUnit(unit.conv, landmarks)(skip, deeper)  # type: ignore[arg-type]
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "net", [UNets(3, 16, 3), CorrelatedNet(3, 16, 3, 0, Correlated())], ids=["independent", "correlated"]
)
def test_nets_give_the_same_and_keep_their_parameters(net: nn.Module) -> None:
    scramble(net, 0)
    plain, form = folded(net), for_cpu(net)
    assert form is not None
    assert {name: p.shape for name, p in form.named_parameters()} == {
        name: p.shape for name, p in plain.named_parameters()
    }
    parts = [type(part) for part in form.modules()]
    assert parts.count(MergeUnit) == 2
    assert parts.count(PlanarUnit) + parts.count(PlanarConv) >= 6
    patches = torch.rand(2, 3, 8, 12, 16)
    with torch.inference_mode():
        expected, found = plain(patches), form(patches)
    if isinstance(expected, tuple):
        torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=1e-4)
        expected, found = expected[0], found[0]
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_what_the_fast_kernels_do_not_take_stays() -> None:
    assert fits(nn.Conv3d(32, 16, 3, padding=1))
    assert not fits(nn.Conv3d(32, 16, 3, padding=1, stride=2))
    assert not fits(nn.Conv3d(32, 16, 3))
    assert not fits(nn.Conv3d(32, 16, 1))
    assert not fits(nn.Conv3d(24, 16, 3, padding=1))
    assert not fits(nn.Conv3d(32, 16, 3, padding=1, groups=4))
    assert not fits(nn.Conv3d(16, 16, 3, padding=1), inputs=2)
    assert for_cpu(UNets(2, 4, 2)) is None
