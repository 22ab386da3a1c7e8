"""The fine nets as they are exported: millimetres, confidences, and the place along a group's axis."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.synthetic import scramble, scrambled, small_task
from trt_landmarks.nets.decoding import HeatmapDecoder, SliceDecoder
from trt_landmarks.nets.model import build_nets
from trt_landmarks.nets.refine import CorrelatedRefiner, IndependentRefiner
from trt_landmarks.task.task import Task

SPACING = (0.5, 1.0, 0.8)


def task_of(axis: str = "left-right", **parts: object) -> Task:
    group = {"name": "mid", "axis": axis, "landmarks": ["top", "nose", "neck"]}
    fine = {
        "shape": [16, 20, 16], "spacing_mm": SPACING, "width": 2, "levels": 2, "heatmap_sigma_mm": 1.2,
    }  # fmt: skip
    return small_task(groups=[group], fine=fine, correlated=parts)


class Fixed(nn.Module):
    """A net that gives the same heatmaps whatever it sees."""

    def __init__(self, *outputs: Tensor | None) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, _: Tensor) -> object:
        return self.outputs if len(self.outputs) > 1 else self.outputs[0]


def heatmaps(task: Task, offsets_mm: np.ndarray) -> Tensor:
    """Gaussians ``[1, L, Z, Y, X]`` of the task's sigma at offsets ``[L, 3]`` from the patch's centre."""
    sigma = task.fine.heatmap_sigma_mm
    profiles = [
        np.exp(-0.5 * (((np.arange(n) - (n - 1) / 2) * s - offsets_mm[:, axis, None]) / sigma) ** 2)
        for axis, (n, s) in enumerate(zip(task.fine.shape, task.fine.spacing_mm, strict=True))
    ]
    x, y, z = profiles
    return torch.from_numpy((z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :])[None].astype(np.float32))


OFFSETS = np.array([[0.3, -1.2, 2.1], [-0.6, 2.4, -1.7], [0.9, 0.2, 0.4]])


def test_offsets_are_millimetres_along_x_y_z() -> None:
    task = task_of()
    refiner = IndependentRefiner(task)
    offsets = np.vstack([OFFSETS, [[0, 0, 0]]])
    refiner.nets = Fixed(heatmaps(task, offsets))  # type: ignore[assignment]
    found, confidence = refiner(torch.zeros(1, 4, 16, 20, 16))
    np.testing.assert_allclose(found[0].numpy(), offsets, atol=0.02)
    assert (confidence > 0.8).all()


@pytest.mark.parametrize(("how", "share"), [("heatmap", 0.0), ("mean", 0.5), ("slice", 1.0)])
@pytest.mark.parametrize("axis", ["left-right", "anterior-posterior", "superior-inferior"])
def test_the_place_along_the_axis(axis: str, how: str, share: float) -> None:
    task = task_of(axis, axis_position=how)
    group = task.groups[0]
    n = group.axis_index
    refiner = CorrelatedRefiner(task, group)
    count, spacing, key = task.fine.shape[n], task.fine.spacing_mm[n], 0.37
    line = np.exp(-0.5 * (((np.arange(count) - (count - 1) / 2) * spacing - key) / task.fine.heatmap_sigma_mm) ** 2)
    refiner.net = Fixed(heatmaps(task, OFFSETS), torch.from_numpy(line[None].astype(np.float32)))  # type: ignore[assignment]
    found, confidence, slices = refiner(torch.zeros(1, 3, 16, 20, 16))
    assert slices.shape == (1,) and slices.item() == pytest.approx(key, abs=0.02)
    expected = OFFSETS.copy()
    expected[:, n] += share * (key - expected[:, n])
    np.testing.assert_allclose(found[0].numpy(), expected, atol=0.02)
    assert confidence.shape == (1, 3)


def test_each_scan_of_a_batch_has_its_own_key_slice() -> None:
    task = task_of(axis_position="slice")
    refiner = CorrelatedRefiner(task, task.groups[0])
    scramble(refiner)
    patches = torch.rand(4, 3, 16, 20, 16, generator=torch.Generator().manual_seed(0))
    refiner.eval()
    found, _, slices = refiner(patches)
    torch.testing.assert_close(found[:, :, 0], slices[:, None].expand(4, 3))
    for n in range(4):
        alone = refiner(patches[n : n + 1])
        torch.testing.assert_close(alone[2], slices[n : n + 1], rtol=1e-4, atol=1e-3)


def test_without_a_slice_branch_there_is_no_third_output() -> None:
    task = task_of(slice_branch=False)
    refiner = CorrelatedRefiner(task, task.groups[0]).eval()
    assert len(refiner(torch.rand(2, 3, 16, 20, 16))) == 2


def test_decoding_follows_the_heatmaps_width() -> None:
    """Half the heatmap's sigma, in voxels: along the finest spacing for patches, along its own for a key slice."""
    task = task_of("anterior-posterior")
    refiner = CorrelatedRefiner(task, task.groups[0])
    for kernel, sigma in (
        (refiner.to_millimetres.decode.kernel, 0.5 * 1.2 / 0.5),
        (refiner.decode_slice.kernel, 0.5 * 1.2 / 1.0),
    ):
        assert (kernel[len(kernel) // 2] / kernel[len(kernel) // 2 + 1]).item() == pytest.approx(
            np.exp(0.5 / sigma**2), rel=1e-5
        )
    assert isinstance(refiner.to_millimetres.decode, HeatmapDecoder) and isinstance(refiner.decode_slice, SliceDecoder)


def test_all_nets_of_a_task() -> None:
    nets = build_nets(task_of())
    assert list(nets) == ["coarse", "independent", "group-mid"]
    assert list(build_nets(small_task(groups=[]))) == ["coarse", "independent"]
    everything = {"name": "all", "axis": "left-right", "landmarks": list(small_task().landmarks)}
    assert list(build_nets(small_task(groups=[everything]))) == ["coarse", "group-all"]


def test_only_weights_are_stored() -> None:
    """Kernels, spacings and scales follow from the task; stored, they could contradict it."""
    for name, net in scrambled(build_nets(task_of())).items():
        stored = {key.rsplit(".", 1)[-1] for key in net.state_dict()}
        assert stored <= {
            "weight", "bias", "running_mean", "running_var", "num_batches_tracked", "mean_shape"
        }, name  # fmt: skip
