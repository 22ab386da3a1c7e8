"""Folding and rounding change what a net is made of, not what it says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.synthetic import scrambled, small_task
from trt_landmarks.nets.folding import folded, rounded_to_half
from trt_landmarks.nets.model import build_nets

INPUTS = {"coarse": (2, 1, 9, 14, 10), "independent": (2, 4, 8, 8, 8), "group-mid": (2, 3, 8, 8, 8)}


@pytest.fixture
def nets() -> dict[str, nn.Module]:
    return scrambled(build_nets(small_task()))


def inputs(graph: str) -> torch.Tensor:
    return torch.rand(*INPUTS[graph], generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("graph", INPUTS)
def test_folding_changes_no_output(nets: dict[str, nn.Module], graph: str) -> None:
    net = nets[graph].eval()
    core = {"coarse": "", "independent": "nets", "group-mid": "net"}[graph]
    before = net.get_submodule(core)(inputs(graph))
    small = folded(net)
    after = small.get_submodule(core)(inputs(graph))
    for old, new in zip(*((x,) if isinstance(x, torch.Tensor) else x for x in (before, after)), strict=True):
        assert old.std() > 1e-3
        torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-4 * old.detach().abs().max().item())
    assert not any(isinstance(module, nn.BatchNorm3d) for module in small.modules())
    assert any(isinstance(module, nn.BatchNorm3d) for module in net.modules())  # a copy
    parameters = [sum(p.numel() for p in one.parameters()) for one in (net, small)]
    assert parameters[1] < parameters[0]


def test_folding_takes_the_net_out_of_training(nets: dict[str, nn.Module]) -> None:
    net = nets["coarse"].train()
    assert not folded(net).training and net.training


@pytest.mark.parametrize("graph", INPUTS)
def test_rounding_to_half(nets: dict[str, nn.Module], graph: str) -> None:
    net = folded(nets[graph])
    half = rounded_to_half(net)
    moved = 0
    for (name, old), new in zip(net.named_parameters(), half.parameters(), strict=True):
        assert new.dtype == torch.float32
        if old.dim() > 1:
            assert torch.equal(new, new.half().float()), name
            torch.testing.assert_close(new, old, rtol=1e-3, atol=1e-6)
            moved += int((new != old).sum())
        else:
            assert torch.equal(new, old), name
    assert moved > 0
