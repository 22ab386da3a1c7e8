"""Forms of the fine nets that compute the same, for GPUs: their kernels for grouped 3D convolutions are poor.

``grouped``: as trained, one group of channels a landmark.  ``separate``: each landmark's convolutions by themselves,
side by side in one graph.  ``dense2``, ``dense4``: blocks of so many landmarks as one ordinary convolution, whose
weights between landmarks are zero: more arithmetic, in kernels that are fast.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

#: Form to the landmarks that are convolved together; 0 leaves all grouped.
FORMS = {"grouped": 0, "separate": 1, "dense2": 2, "dense4": 4}


def in_form(net: nn.Module, form: str) -> nn.Module:
    """A copy of a net, batch normalization folded, in a form of :data:`FORMS`."""
    block, result = FORMS[form], copy.deepcopy(net).eval()
    if not block:
        return result
    for path, module in list(result.named_modules()):
        if isinstance(module, nn.Conv3d) and module.groups > 1:
            parent, _, name = path.rpartition(".")
            setattr(result.get_submodule(parent), name, Blocks(module, block))
    return result


class Blocks(nn.Module):
    """A grouped convolution as ordinary ones, each of a block of its groups.

    Input and output as of the grouped one, ``[B, C, Z, Y, X]``.
    """

    def __init__(self, grouped: nn.Conv3d, block: int) -> None:
        super().__init__()
        groups, inner = grouped.groups, grouped.weight.shape[1]
        outer = grouped.out_channels // groups
        self.convolutions = nn.ModuleList()
        self.sizes: list[int] = []  # channels in, of each
        for first in range(0, groups, block):
            count = min(block, groups - first)
            rows = slice(first * outer, (first + count) * outer)
            own = nn.Conv3d(
                count * inner, count * outer, grouped.kernel_size, padding=grouped.padding,  # type: ignore[arg-type]
                bias=grouped.bias is not None,
            )  # fmt: skip
            with torch.no_grad():
                own.weight.zero_()
                for n in range(count):
                    weights = grouped.weight[(first + n) * outer : (first + n + 1) * outer]
                    own.weight[n * outer : (n + 1) * outer, n * inner : (n + 1) * inner] = weights
                if own.bias is not None and grouped.bias is not None:
                    own.bias.copy_(grouped.bias[rows])
            self.convolutions.append(own)
            self.sizes.append(count * inner)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.sizes, dim=1)
        return torch.cat([conv(part) for conv, part in zip(self.convolutions, parts, strict=True)], dim=1)
