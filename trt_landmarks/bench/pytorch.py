"""The model's own nets in PyTorch, for the processes of the baselines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.scan import Scan
from trt_landmarks.task.task import Task

if TYPE_CHECKING:
    from torch import nn

#: The file of weights in the folder that the processes share.
NETS_FILE = "nets.safetensors"


def write_nets(bundle: Bundle, scan: Scan, folder: Path) -> None:
    """Write the weights of a bundle's graphs to :data:`NETS_FILE`, for :func:`read_nets`.

    Args:
        bundle: the model.
        scan: a real scan, on which the nets are compared with the graphs.
        folder: where the file goes.

    Raises:
        BundleError: if the graphs do not give the nets.
        ModuleNotFoundError: if a package is missing.
    """
    import torch  # noqa: F401 - the package that is named if it is missing
    from safetensors.torch import save_file

    from trt_landmarks.export.weights import nets_from_bundle

    nets = nets_from_bundle(bundle, [scan]).items()
    weights = {f"{graph}/{name}": value for graph, net in nets for name, value in net.state_dict().items()}
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / NETS_FILE)


def read_nets(folder: Path, task: Task) -> dict[str, nn.Module]:
    """The nets that :func:`write_nets` wrote, in eval mode, batch normalization folded: graph name to net."""
    from safetensors.torch import load_file

    from trt_landmarks.nets.folding import folded
    from trt_landmarks.nets.model import build_nets

    weights, nets = load_file(folder / NETS_FILE), build_nets(task)
    for graph, net in nets.items():
        start = f"{graph}/"
        own = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
        net.load_state_dict(own)
    return {graph: folded(net.eval()) for graph, net in nets.items()}
