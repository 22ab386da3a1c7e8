"""Folding of batch normalization into the convolution before it: same results, fewer operations."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval


def folded(net: nn.Module) -> nn.Module:
    """A copy of ``net`` for inference, its batch normalizations folded away."""
    result = copy.deepcopy(net).eval()
    for path, name, norm_name in normalized(result):
        module = result.get_submodule(path)
        conv, norm = module.get_submodule(name), module.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d)
        setattr(module, name, fuse_conv_bn_eval(conv, norm))
        setattr(module, norm_name, nn.Identity())
    return result


def normalized(net: nn.Module) -> list[tuple[str, str, str]]:
    """The convolutions with a batch normalization: path of the module they are in, their name, the norm's name.

    Every norm in our nets stands right behind its convolution.
    """
    found = []
    for path, module in net.named_modules():
        names = [name for name, _ in module.named_children()]
        found += [
            (path, before, name)
            for before, name in pairwise(names)
            if isinstance(module.get_submodule(name), nn.BatchNorm3d)
        ]
    return found


@torch.no_grad()
def rounded_to_half(net: nn.Module) -> nn.Module:
    """A copy of ``net`` whose large weights are numbers that FP16 can hold; it still computes in FP32.

    Small ones (biases, decoding kernels, scales) stay as they are: they cost nothing and carry positions.
    """
    result = copy.deepcopy(net)
    for parameter in result.parameters():
        if parameter.dim() > 1:
            parameter.copy_(parameter.half().float())
    return result
