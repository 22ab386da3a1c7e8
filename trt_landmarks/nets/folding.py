"""Folding of batch normalization into the convolution before it: same results, fewer operations."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval


def folded(net: nn.Module) -> nn.Module:
    """A copy of ``net`` for inference, its batch normalizations folded away."""
    result = copy.deepcopy(net).eval()
    for module in list(result.modules()):
        children = dict(module.named_children())
        previous: str | None = None
        for name, child in children.items():
            if isinstance(child, nn.BatchNorm3d) and previous is not None:
                conv = children[previous]
                assert isinstance(conv, nn.Conv3d)  # every norm in our nets stands right behind its convolution
                setattr(module, previous, fuse_conv_bn_eval(conv, child))
                setattr(module, name, nn.Identity())
            previous = name
    return result


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
