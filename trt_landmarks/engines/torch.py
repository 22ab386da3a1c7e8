"""PyTorch as an engine: the reference that exported graphs are compared with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trt_landmarks.engines.base import Arrays


class TorchEngine:
    """Runs the nets themselves, eagerly, in FP32."""

    name = "torch"
    precision = "fp32"

    def __init__(self, nets: Mapping[str, nn.Module], device: str = "cpu") -> None:
        """``nets``: graph name to net, in eval mode or not (it is set)."""
        self.device = torch.device(device)
        self.provider = str(self.device)
        self.nets = {name: net.to(self.device).eval() for name, net in nets.items()}

    def run(self, graph: str, *arrays: NDArray[np.float32]) -> Arrays:
        with torch.inference_mode():
            outputs = self.nets[graph](*(torch.from_numpy(array).to(self.device) for array in arrays))
        if isinstance(outputs, torch.Tensor):
            outputs = (outputs,)
        return tuple(output.float().cpu().numpy() for output in outputs)
