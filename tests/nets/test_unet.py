"""The batched U-Nets are their single nets, weight for weight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.synthetic import scramble
from trt_landmarks.nets.unet import Decoder, Encoder, UNets, concatenate, stack, unstack

L = 3


def singles(heads: int | None = None, levels: int = 3) -> list[UNets]:
    nets = [UNets(1, 2, levels, heads) for _ in range(L)]
    for seed, net in enumerate(nets):
        scramble(net, seed)
    return nets


def patches() -> Tensor:
    return torch.rand(2, L, 8, 12, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("training", [False, True])
def test_the_batched_net_is_its_single_nets(training: bool) -> None:
    nets = [net.train(training) for net in singles()]
    batched = UNets(L, 2, 3).train(training)
    batched.load_state_dict(stack([net.state_dict() for net in nets]))
    x = patches()
    together = batched(x)
    assert together.shape == x.shape
    for n, net in enumerate(nets):
        torch.testing.assert_close(together[:, n : n + 1], net(x[:, n : n + 1]), rtol=1e-4, atol=1e-5)
    assert (together[:, 0] - together[:, 1]).abs().max() > 0.05
    if training:  # the statistics that batch normalization gathers, too
        gathered = stack([net.state_dict() for net in nets])
        for name, value in batched.state_dict().items():
            torch.testing.assert_close(value, gathered[name], rtol=1e-4, atol=1e-5)


def test_a_landmark_sees_its_own_patch_only() -> None:
    batched = UNets(L, 2, 3).eval()
    batched.load_state_dict(stack([net.state_dict() for net in singles()]))
    x = patches()
    before = batched(x)
    x[:, 1] = 0
    after = batched(x)
    torch.testing.assert_close(after[:, [0, 2]], before[:, [0, 2]])
    assert (after[:, 1] - before[:, 1]).abs().max() > 0.05


def test_gradients_are_those_of_the_single_nets() -> None:
    nets, x = [net.eval() for net in singles()], patches()
    batched = UNets(L, 2, 3).eval()
    batched.load_state_dict(stack([net.state_dict() for net in nets]))
    batched(x).square().sum().backward()
    for n, net in enumerate(nets):
        net(x[:, n : n + 1]).square().sum().backward()
    expected = stack([{name: p.grad for name, p in net.named_parameters() if p.grad is not None} for net in nets])
    for name, parameter in batched.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-4)


def test_unstack_inverts_stack() -> None:
    weights = [net.state_dict() for net in singles()]
    stacked = stack(weights)
    for n, single in enumerate(weights):
        again = unstack(stacked, L, n)
        assert again.keys() == single.keys()
        for name, value in single.items():
            torch.testing.assert_close(again[name], value, rtol=0, atol=0)
    taken = unstack(stacked, L, 0)["decoder.head.bias"]
    taken.zero_()
    assert (stacked["decoder.head.bias"] != 0).all()  # a copy


def test_more_heads_than_landmarks() -> None:
    net = UNets(1, 2, 2, heads=5)
    assert net(torch.rand(2, 1, 4, 4, 4)).shape == (2, 5, 4, 4, 4)


def test_concatenation_keeps_each_landmarks_channels_together() -> None:
    a = torch.arange(6.0).reshape(1, 6, 1, 1, 1)  # 2 channels each
    b = 100 + torch.arange(3.0).reshape(1, 3, 1, 1, 1)  # 1 channel each
    expected = [0, 1, 100, 2, 3, 101, 4, 5, 102]
    assert concatenate([a, b], 3).flatten().tolist() == expected
    assert concatenate([a, b], 1).flatten().tolist() == [0, 1, 2, 3, 4, 5, 100, 101, 102]


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_levels(levels: int) -> None:
    features = Encoder(L, 2, levels)(torch.rand(1, L, 8, 16, 24))
    assert [tuple(f.shape) for f in features] == [(1, L * 2 * 2**n, 8 >> n, 16 >> n, 24 >> n) for n in range(levels)]
    assert Decoder(L, 2, levels)(features).shape == (1, L, 8, 16, 24)
