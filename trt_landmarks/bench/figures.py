"""Figures of a report: the stages of every way, and how its runs are distributed; PNG and SVG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from trt_landmarks.bench.report import stage_rows

#: Inches: width, and height of a way's row and of the rest.
WIDTH, ROW, REST = 9.0, 0.45, 1.6
#: Colours of the marks among the runs.
PERCENTILES = {"p50": "black", "p90": "tab:orange", "p99": "tab:red"}


def write_figures(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``stages`` and ``latency`` as .png and .svg into a folder that is there."""
    written = []
    for name, figure in (("stages", stages(report)), ("latency", latency(report))):
        for kind in ("png", "svg"):
            written.append(folder / f"{name}.{kind}")
            # The same report gives the same file, in which text is text.
            with matplotlib.rc_context({"svg.hashsalt": "trtlm", "svg.fonttype": "none"}):
                figure.savefig(written[-1], dpi=150, metadata={"Date": None} if kind == "svg" else None)
    return written


def stages(report: Mapping[str, Any]) -> Figure:
    """A bar for every way, made of its stages' medians."""
    header, rows = stage_rows(report)
    figure, axes = _empty(len(rows))
    left = np.zeros(len(rows))
    colours = matplotlib.colormaps["tab20"]
    for column, stage in enumerate(header[1:], start=1):
        widths = np.array([0.0 if row[column] == "-" else float(row[column]) for row in rows])
        axes.barh([row[0] for row in rows], widths, left=left, label=stage, color=colours((column - 1) % 20))
        left += widths
    axes.set_xlabel("ms a scan (medians of the stages)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize="small")
    return figure


def latency(report: Mapping[str, Any]) -> Figure:
    """All runs of every way, with median, p90 and p99."""
    ways = report["ways"]
    figure, axes = _empty(len(ways))
    for row, way in enumerate(ways):
        times = np.concatenate([np.asarray(values) for values in way["samples_ms"].values()])
        # Side by side, so that none hides another: the same offsets in every figure.
        offsets = (np.arange(len(times)) % 5 - 2) * 0.08
        axes.plot(times, row + offsets, "o", color="tab:blue", alpha=0.5, markersize=4, label="" if row else "run")
        for key, colour in PERCENTILES.items():
            label = "" if row else key
            axes.plot(way["warm_ms"][key], row, "|", color=colour, markersize=22, markeredgewidth=2, label=label)
    axes.set_yticks(range(len(ways)), [way["way"] for way in ways])
    axes.set_xlabel("ms a scan, end to end, warm")
    axes.set_xlim(left=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize="small", markerscale=0.5)
    return figure


def _empty(rows: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, REST + ROW * rows), layout="constrained")
    axes = figure.add_subplot()
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
