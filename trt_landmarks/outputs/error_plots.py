"""Plots of distances from annotations, for pages on white: per landmark, and how many points are within a radius."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_landmarks.geometry import Floats
from trt_landmarks.outputs.marks import INDEPENDENT, group_colours
from trt_landmarks.outputs.names import literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Single points are drawn beside the boxes for up to so many cases.
_POINTS_SHOWN = 200
_INK, _RULE = "#333333", "#dddddd"


def landmark_plot(errors: Mapping[str, Sequence[float]], groups: Mapping[str, str]) -> Figure:
    """A box for each landmark (quartiles; whiskers at the 5th and 95th percentile), and the points where they are few.

    Args:
        errors: landmark -> its errors over the cases, mm; every landmark has one at least.
        groups: landmark -> the correlated group it belongs to, for the colours.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    colours = group_colours(dict.fromkeys(groups.values()))
    figure = Figure(figsize=(max(6.0, 0.24 * len(errors) + 1.2), 3.6), layout="constrained")
    axes = figure.add_subplot()
    drawn = axes.boxplot(
        list(errors.values()), whis=(5, 95), showfliers=False, patch_artist=True, widths=0.6,
        medianprops={"color": _INK}, whiskerprops={"color": _INK}, capprops={"color": _INK}, boxprops={"ec": _INK},
    )  # fmt: skip
    random = np.random.default_rng(0)
    for n, (name, values) in enumerate(errors.items(), start=1):
        colour = colours.get(groups.get(name, ""), INDEPENDENT)
        drawn["boxes"][n - 1].set_facecolor((*colour, 0.55))
        if len(values) <= _POINTS_SHOWN:
            axes.plot(n + random.uniform(-0.18, 0.18, len(values)), values, ".", ms=3.5, color=_INK, alpha=0.7)
    names = [literal(name) for name in errors]
    axes.set_xticks(range(1, len(errors) + 1), names, rotation=90 if len(errors) > 12 else 0, fontsize=8)
    axes.set_ylabel("distance from the annotation, mm")
    axes.set_ylim(bottom=0)
    _plain(axes)
    drawn_groups = {groups.get(name) for name in errors}
    shown = {"independent": INDEPENDENT} if None in drawn_groups else {}
    shown |= {name: colour for name, colour in colours.items() if name in drawn_groups}
    boxes = [Patch(facecolor=(*colour, 0.55), edgecolor=_INK, label=literal(name)) for name, colour in shown.items()]
    figure.legend(handles=boxes, loc="outside upper right", ncols=len(boxes), frameon=False, fontsize=8)
    return figure


def detection_plot(errors: Floats, radii_mm: Sequence[float]) -> Figure:
    """The share of points within a radius of their annotations, over the radius.

    Args:
        errors: ``[P]`` mm, of all points that were annotated and predicted.
        radii_mm: radii to mark.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    ordered = np.sort(errors)
    end = max([1.15 * float(ordered[-1]), *(1.1 * radius for radius in radii_mm)])
    share = 100 * np.arange(len(ordered) + 1) / len(ordered)
    steps = np.concatenate([[0.0], ordered, [end]]), np.concatenate([share, share[-1:]])
    axes.step(*steps, where="post", color="#0072b2", lw=1.8)
    for radius in radii_mm:
        within = 100 * float(np.searchsorted(ordered, radius + 1e-9)) / len(ordered)
        axes.axvline(radius, color=_RULE, lw=1, zorder=0)
        axes.plot(radius, within, "o", color="#0072b2", ms=4)
        axes.annotate(
            f"{within:.1f} %", (radius, within), xytext=(4, -11), textcoords="offset points", fontsize=8, color=_INK
        )
    axes.set_xlim(0, end)
    axes.set_ylim(0, 102)
    axes.set_xlabel("radius, mm")
    axes.set_ylabel("points within the radius, %")
    _plain(axes)
    return figure


def _plain(axes: Any) -> None:
    axes.grid(axis="y", color=_RULE, lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
