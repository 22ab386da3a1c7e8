"""The net of a correlated group: every combination of its parts, its formulas, and its axis."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.synthetic import scramble
from trt_landmarks.geometry import Floats
from trt_landmarks.nets.correlated import AxisAttention, CorrelatedNet, SliceBranch, pool_to_axis
from trt_landmarks.nets.unet import UNets
from trt_landmarks.task.task import Correlated

L = 3
COMBINATIONS = [
    Correlated(fusion=True, channel_attention=c, spatial_attention=s, slice_branch=b)
    for c, s, b in itertools.product((False, True), repeat=3)
] + [Correlated(fusion=False, channel_attention=False, spatial_attention=False, slice_branch=False)]


def net_of(parts: Correlated, axis: int = 0, levels: int = 2) -> CorrelatedNet:
    net = scramble(CorrelatedNet(L, 2, levels, axis, parts)).eval()
    assert isinstance(net, CorrelatedNet)
    return net


def patches(seed: int = 0) -> Tensor:
    return torch.rand(2, L, 12, 16, 8, generator=torch.Generator().manual_seed(seed))  # z, y, x


@pytest.mark.parametrize("parts", COMBINATIONS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_combination_of_parts(parts: Correlated, axis: int) -> None:
    net = net_of(parts, axis)
    x = patches()
    heatmaps, key = net(x)
    assert heatmaps.shape == x.shape
    if parts.slice_branch:
        assert key.shape == (2, (8, 16, 12)[axis])
    else:
        assert key is None
    names = {name for name, _ in net.named_parameters()}
    for prefix, present in (
        ("fuse.", parts.fusion),
        ("attention.channel.", parts.channel_attention),
        ("attention.spatial.", parts.spatial_attention),
        ("slice_branch.", parts.slice_branch),
    ):
        assert any(name.startswith(prefix) for name in names) == present, prefix
    # Every parameter takes part: none is there for nothing.
    loss = heatmaps.square().sum() + (0 if key is None else key.square().sum())
    loss.backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_without_fusion_it_is_the_independent_nets() -> None:
    net = net_of(COMBINATIONS[-1])
    plain = UNets(L, 2, 2).eval()
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(net(patches())[0], plain(patches()))


def test_with_fusion_every_landmark_sees_every_patch() -> None:
    x = patches()
    other = x.clone()
    other[:, 1] = patches(5)[:, 1]
    for parts, sees in ((COMBINATIONS[0], True), (COMBINATIONS[-1], False)):
        net = net_of(parts)
        difference = (net(x)[0] - net(other)[0]).abs().amax(dim=(0, 2, 3, 4))
        assert difference[1] > 0.01
        assert bool((difference[[0, 2]] > 1e-4).all()) == sees
        assert bool((difference[[0, 2]] > 0).any()) == sees


def test_attention_changes_only_what_is_fused() -> None:
    """Without the fused channels in the decoder, attention could not be seen."""
    net = net_of(Correlated())
    before = net(patches())[0]
    reduce = net.decoder.reduce[0].conv
    assert isinstance(reduce, nn.Conv3d)
    with torch.no_grad():
        reduce.weight[:, 4:] = 0  # a landmark's own 4 channels come first
    without = net(patches())[0]
    assert (without - before).abs().max() > 1e-3
    scramble(net.attention or nn.Identity(), 77)
    torch.testing.assert_close(net(patches())[0], without)
    other = patches()
    other[:, 1] = 0  # and each landmark is left with its own features
    torch.testing.assert_close(net(other)[0][:, [0, 2]], without[:, [0, 2]])


# --- the formulas -------------------------------------------------------------------------------------------


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-x))


def convolve(x: Floats, weight: Floats, bias: Floats) -> Floats:
    """``[C, D]`` with ``[O, C, 3]``, zeros outside."""
    padded = np.pad(x, ((0, 0), (1, 1)))
    return np.array([
        [(padded[:, d : d + 3] * kernel).sum() + b for d in range(x.shape[1])]
        for kernel, b in zip(weight, bias, strict=True)
    ])  # fmt: skip


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("channel", "spatial"), [(True, True), (True, False), (False, True)])
def test_attention_by_the_papers_formulas(axis: int, channel: bool, spatial: bool) -> None:
    module = scramble(AxisAttention(4, axis, channel, spatial), 3)
    features = torch.randn(2, 4, 5, 6, 7, generator=torch.Generator().manual_seed(2))
    weighted = module(features).detach().numpy()
    p = {name: value.double().numpy() for name, value in module.state_dict().items()}
    for f, result in zip(features.double().numpy(), weighted, strict=True):
        along = np.moveaxis(f, 3 - axis, 1)  # C x D x H x W, D along the axis: x is the last dimension
        average, maximum = along.mean(axis=(2, 3)), along.max(axis=(2, 3))
        expected = along
        if channel:
            w, b = p["channel.weight"][:, :, 0], p["channel.bias"][:, None]
            expected = expected * sigmoid(w @ average + b + w @ maximum + b)[:, :, None, None]
        if spatial:
            both = np.concatenate([average, maximum])
            profile = np.stack([both.mean(axis=0), both.max(axis=0)])
            m_s = sigmoid(convolve(profile, p["spatial.weight"], p["spatial.bias"]))[0]
            expected = expected * m_s[None, :, None, None]
        np.testing.assert_allclose(result, np.moveaxis(expected, 1, 3 - axis), rtol=1e-4, atol=1e-5)


def test_the_slice_branch_by_hand() -> None:
    branch = scramble(SliceBranch(2, 1, 2), 4)
    features = torch.randn(1, 2, 3, 5, 4, generator=torch.Generator().manual_seed(2))
    p = {name: value.double().numpy() for name, value in branch.state_dict().items()}
    f = features[0].double().numpy()
    pooled = np.concatenate([f.mean(axis=(1, 3)), f.max(axis=(1, 3))])
    x = np.maximum(convolve(pooled, p["entry.weight"], p["entry.bias"]), 0)
    x = np.maximum(convolve(np.repeat(x, 2, axis=1), p["finer.0.weight"], p["finer.0.bias"]), 0)
    expected = convolve(x, p["head.weight"], p["head.bias"])
    np.testing.assert_allclose(branch(features).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def test_pooling_keeps_the_axis() -> None:
    x = torch.zeros(1, 1, 2, 3, 4)
    x[0, 0, 1, 2, 3] = 6.0
    for axis, (size, place) in enumerate(((4, 3), (3, 2), (2, 1))):
        average, maximum = pool_to_axis(x, axis)
        assert average.shape == maximum.shape == (1, 1, size)
        assert maximum[0, 0].tolist() == [6.0 * (n == place) for n in range(size)]
        assert average[0, 0, place] == pytest.approx(6 / (24 / size))


# --- the axis -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_turning_patches_and_net_turns_the_result(order: tuple[int, int, int]) -> None:
    """A net for one axis, its kernels turned, does with turned patches what it did before."""
    dims = (0, 1, *(2 + n for n in order))
    for axis in range(3):
        net = net_of(Correlated(), axis)
        # The spatial dimension 2 - axis (of z, y, x) is afterwards at order.index(2 - axis).
        turned = net_of(Correlated(), 2 - order.index(2 - axis))
        weights = {
            name: value.permute(*dims).contiguous() if value.dim() == 5 else value
            for name, value in net.state_dict().items()
        }
        turned.load_state_dict(weights)
        heatmaps, key = net(patches())
        again, same_key = turned(patches().permute(*dims).contiguous())
        torch.testing.assert_close(again, heatmaps.permute(*dims), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(same_key, key, rtol=1e-4, atol=1e-5)
