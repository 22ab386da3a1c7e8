"""PyTorch as an engine: the reference that exported graphs are compared with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trt_landmarks.engines.base import Arrays


class TorchEngine:
    """Runs the nets themselves, eagerly.

    Args:
        nets: graph name to net, in eval mode or not (it is set).
        device: of PyTorch.
        bf16: autocast to bfloat16, with channels-last memory, instead of FP32.
    """

    name = "torch"

    def __init__(self, nets: Mapping[str, nn.Module], device: str = "cpu", *, bf16: bool = False) -> None:
        self.device = torch.device(device)
        self.provider = str(self.device)
        self.precision = "bf16" if bf16 else "fp32"
        self._layout = torch.channels_last_3d if bf16 else torch.contiguous_format
        self.nets = {name: net.to(self.device).eval() for name, net in nets.items()}
        if bf16:
            for net in self.nets.values():
                net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def run(self, graph: str, *arrays: NDArray[np.float32]) -> Arrays:
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with torch.inference_mode(), autocast:
            inputs = (torch.from_numpy(array).to(self.device, memory_format=self._layout) for array in arrays)
            outputs = self.nets[graph](*inputs)
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        return tuple(output.float().cpu().numpy() for output in outputs)
