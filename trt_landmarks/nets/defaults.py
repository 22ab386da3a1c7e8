"""PyTorch's own defaults, whatever the process that this runs in has set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

_CPU = torch.device("cpu")


@contextmanager
def usual_defaults() -> Iterator[None]:
    """Within, new tensors are float32 on the CPU unless they say otherwise; also a decorator."""
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    if device != _CPU:
        torch.set_default_device(None)
    try:
        # A context of the host's, such as torch.device("meta"), is still there.
        with nullcontext() if torch.get_default_device() == _CPU else _CPU:
            yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
