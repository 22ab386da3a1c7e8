"""Rounding of a net's large weights to integers, so that its points move little for the bytes that it takes.

Every weight has a step per output channel.  How many steps is decided per weight: first each alone is rounded to 8 bits
and the movement of the points is measured on the inputs; then steps are chosen so that the points move by about what
is allowed in all and no byte could be spent better elsewhere (all weights of a net then cost the same movement per
number: reverse water filling).

Nets of a graph that began as copies of one net (:mod:`trt_landmarks.training.fine`) are stored as their differences
from a shared part, which are smaller than the weights: what is rounded is the difference.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trt_landmarks.bundles.packing import Integers
from trt_landmarks.geometry import Floats

#: Weights of fewer numbers are not rounded.
SMALLEST = 512
#: Largest integer when weights are rounded one by one to measure what that does.
PROBE = 127
#: Least and greatest largest integer of a weight.
RANGE = (31, 2**14 - 1)

#: Place of the confidence among a net's outputs; the others are positions.
CONFIDENCE = 1


@dataclass(frozen=True)
class RoundedNet:
    """A net with rounded weights.

    Attributes:
        net: computes with the rounded weights.
        weights: their integers, by parameter name.
        steps: largest integer of each weight.
    """

    net: nn.Module
    weights: dict[str, Integers]
    steps: dict[str, int]


@torch.inference_mode()
def round_net(net: nn.Module, inputs: NDArray[np.float32], spacing: Floats, members: int, allowed: float) -> RoundedNet:
    """Round the large weights of a net.

    Args:
        net: in eval mode, on the CPU, batch normalization folded.
        inputs: ``[count, ...]`` on which movement is measured.
        spacing: ``[3]`` mm, x, y, z: of the grid in whose voxels movement is measured.
        members: landmarks of the graph, whose nets may have something in common; 1 for the coarse net.
        allowed: mean movement of the points to aim at, voxels.
    """
    result = copy.deepcopy(net)
    large = {name: p for name, p in result.named_parameters() if p.dim() > 1 and p.numel() >= SMALLEST}
    original = {name: p.flatten(1).double().numpy().copy() for name, p in large.items()}
    shared = {name: _shared_part(weight, members) for name, weight in original.items()}
    batches = torch.from_numpy(inputs).split(1)
    expected = [_positions(result, batch) for batch in batches]

    def put(name: str, weight: NDArray[np.float32] | Floats) -> None:
        large[name].copy_(torch.from_numpy(np.asarray(weight, np.float32)).reshape(large[name].shape))

    share = {}
    for name, weight in original.items():
        put(name, _integers(weight, shared[name], PROBE).array())
        share[name] = _movement([_positions(result, batch) for batch in batches], expected, spacing)
        put(name, weight)
    total = sum(weight.size for weight in original.values())
    steps = {
        name: int(np.clip(round(PROBE * share[name] / allowed * math.sqrt(total / weight.size)), *RANGE))
        for name, weight in original.items()
    }
    weights = {name: _integers(weight, shared[name], steps[name]) for name, weight in original.items()}
    for name, integers in weights.items():
        put(name, integers.array())
    return RoundedNet(result, weights, steps)


def _positions(net: nn.Module, batch: torch.Tensor) -> list[NDArray[np.float32]]:
    """Points ``[1, N, 3]`` mm and, of a net with the slice branch, key slices ``[1]`` mm."""
    outputs = net(batch)
    outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    return [output.numpy() for number, output in enumerate(outputs) if number != CONFIDENCE]


def _movement(
    positions: Sequence[list[NDArray[np.float32]]], expected: Sequence[list[NDArray[np.float32]]], spacing: Floats
) -> float:
    """Mean movement, voxels, of the points or of the key slices, whichever is larger."""
    moved = []
    for got, before in zip(positions, expected, strict=True):
        points = np.linalg.norm((got[0] - before[0]) / spacing, axis=-1).mean()
        slices = [np.abs(a - b).mean() / spacing.min() for a, b in zip(got[1:], before[1:], strict=True)]
        moved.append([points, *slices])
    return float(np.mean(moved, axis=0).max())


def _integers(weight: Floats, shared: tuple[NDArray[np.int8], NDArray[np.float32]] | None, largest: int) -> Integers:
    """A weight ``[rows, columns]`` on a grid of ``largest`` steps to each side, per row, about the shared part."""
    base = np.zeros_like(weight)
    if shared is not None:
        base = np.tile(shared[0].astype(np.float64), (len(weight) // len(shared[0]), 1)) * shared[1][:, None]
    scale = (np.abs(weight - base).max(axis=1) / largest).astype(np.float32)
    scale[scale == 0] = 1
    values = np.rint((weight - base) / scale[:, None]).clip(-largest, largest).astype(np.int32)
    return Integers(values, scale, *(shared or ()))


def _shared_part(weight: Floats, members: int) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """What the nets of all landmarks have in common; None if that explains too little of the weight to pay.

    Per output channel one row, which each landmark takes times a factor of its own: least squares, in turns.

    Returns:
        The rows, INT8, and the factor of every row of the weight.
    """
    rows = len(weight) // members
    if members < 2 or rows * members != len(weight) or rows < 2:
        return None
    nets = weight.reshape(members, rows, -1)
    common = nets.mean(axis=0)
    for _ in range(4):
        factors = _ratio((nets * common).sum(axis=2), (common**2).sum(axis=1))
        common = _ratio((nets * factors[..., None]).sum(axis=0), (factors**2).sum(axis=0)[:, None])
    common = np.rint(_ratio(common, np.abs(common).max(axis=1, keepdims=True) / 127))
    factors = _ratio((nets * common).sum(axis=2), (common**2).sum(axis=1))
    rest = nets - common * factors[..., None]
    if (rest**2).sum() > (nets**2).sum() / 4:
        return None
    return common.astype(np.int8), factors.reshape(-1).astype(np.float32)


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.asarray(above / np.maximum(below, 1e-30))
