"""All nets of a task, under the names of their graphs."""

from __future__ import annotations

from torch import nn

from trt_landmarks.nets.coarse import CoarseNet
from trt_landmarks.nets.defaults import usual_defaults
from trt_landmarks.nets.refine import CorrelatedRefiner, IndependentRefiner
from trt_landmarks.task.graphs import COARSE, INDEPENDENT, group_graph
from trt_landmarks.task.task import Task


@usual_defaults()
def build_nets(task: Task) -> dict[str, nn.Module]:
    """Graph name to net, with initial weights: the coarse net, the independent landmarks, each correlated group."""
    nets: dict[str, nn.Module] = {COARSE: CoarseNet(task)}
    if task.independent:
        nets[INDEPENDENT] = IndependentRefiner(task)
    for group in task.groups:
        nets[group_graph(group.name)] = CorrelatedRefiner(task, group)
    return nets
