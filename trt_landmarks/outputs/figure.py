"""A picture of a case: planes through a landmark, projections of the scan, and the points in them.

Pictures are drawn without pyplot, which keeps global state: any thread may draw.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_landmarks.errors import PredictionsError
from trt_landmarks.files import write_bytes
from trt_landmarks.geometry import AXES
from trt_landmarks.outputs.marks import INDEPENDENT, Colour, Marks, group_colours
from trt_landmarks.outputs.names import literal
from trt_landmarks.outputs.sections import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    Box,
    Image,
    View,
    box_about,
    plane,
    projections,
)
from trt_landmarks.results.case import KeySlice, Landmark, Measurement
from trt_landmarks.scan import Scan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Endings of picture files.
SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")
#: Points are drawn in a plane up to this share of the picture's longest side away from it.
NEAR = 0.04
#: A key slice is drawn where it cuts the picture's plane at more than about this sine.
_CUTS = 0.5
#: Landmarks with bars in the picture, and with names in a plane, at most.
_BARS, _NAMES = 10, 25
#: Measurements in the picture, at most.
_MEASUREMENTS = 8

_WIDTH_INCHES = 13.0
_GAP, _TITLE_INCHES = 0.02, 0.55
_TEXT, _FAINT, _TRUTH, _FLAGGED = "#f2f2f2", "#9a9a9a", "#ffffff", "#ff4d4d"


def case_figure(scan: Scan, marks: Marks, landmark: str | None = None) -> Figure:
    """A picture for a person: three planes through a landmark, three projections, legend, and the worst landmarks.

    Args:
        scan: the case's scan.
        marks: what to draw on it.
        landmark: the planes go through this one; None for :meth:`Marks.landmark`'s choice.

    Raises:
        PredictionsError: if the case has no landmarks, or none of that name.
    """
    from matplotlib.figure import Figure

    focus = marks.landmark(landmark)
    box = _box(scan, marks)
    x, y, z = box.size
    gap = _GAP * (x + y)
    inch = _WIDTH_INCHES / (2 * (x + y) + 4 * gap)
    height = (z + y + 2 * gap) * inch + _TITLE_INCHES
    figure = Figure(figsize=(_WIDTH_INCHES, height), facecolor="black")

    def cell(column: float, bottom: float, width: float, tall: float) -> Any:
        across, along = inch / _WIDTH_INCHES, inch / height
        return figure.add_axes((column * across, bottom * along, width * across, tall * along), facecolor="black")

    projected = projections(scan, box)
    for block, title in enumerate(("plane", "projection")):
        left = block * (x + y + 2 * gap) + gap / 2
        places = {
            CORONAL: cell(left, y + 1.5 * gap, x, z),
            SAGITTAL: cell(left + x + gap, y + 1.5 * gap, y, z),
            AXIAL: cell(left, gap / 2, x, y),
        }
        for view, axes in places.items():
            at = focus.position_lps_mm[view.depth] if title == "plane" else None
            image = plane(scan, box, view, at) if at is not None else projected[view]
            _draw(axes, image, box, view, marks, at, focus)
        _scale_bar(places[SAGITTAL], box, SAGITTAL)
        corner = cell(left + x + gap, gap / 2, y, y)
        if title == "plane":
            _legend(corner, marks, focus, box)
        else:
            _bars(corner, marks)
    _title(figure, marks, height)
    return figure


def thumbnail(scan: Scan, marks: Marks) -> bytes:
    """A small JPEG of a case: three planes through the landmark that tells most.

    Raises:
        PredictionsError: if the case has no landmarks.
    """
    from matplotlib.figure import Figure

    focus = marks.landmark(None)
    box = _box(scan, marks)
    x, y, z = box.size
    width, tall = x + x + y, max(y, z)
    figure = Figure(figsize=(5.2, 5.2 * tall / width), facecolor="black")
    left = 0.0
    for view in (AXIAL, CORONAL, SAGITTAL):
        w, h = box.size[view.across], box.size[view.along]
        axes = figure.add_axes((left / width, (1 - h / tall) / 2, 0.99 * w / width, h / tall), facecolor="black")
        at = focus.position_lps_mm[view.depth]
        _draw(axes, plane(scan, box, view, at), box, view, marks, at, focus, small=True)
        left += w
    return encode(figure, "jpeg", 90)


def encode(figure: Figure, format: str, dpi: float) -> bytes:
    """The figure as a file's content; equal figures give equal content."""
    stream = io.BytesIO()
    quality: dict[str, Any] = {"pil_kwargs": {"quality": 82}} if format in ("jpg", "jpeg") else {}
    dated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(format)
    figure.savefig(stream, format=format, dpi=dpi, facecolor=figure.get_facecolor(), metadata=dated, **quality)
    return stream.getvalue()


def save(figure: Figure, path: str | Path, dpi: float = 110) -> None:
    """Write a figure; the ending, one of :data:`SUFFIXES`, says in which format.

    Raises:
        PredictionsError: if the ending is another one or the file cannot be written.
    """
    write_bytes(path, encode(figure, format_of(path), dpi), PredictionsError)


def format_of(path: str | Path) -> str:
    """The format that a picture file's ending names.

    Raises:
        PredictionsError: if it is not one of :data:`SUFFIXES`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise PredictionsError(f"{path}: unknown kind of picture.", f"Known endings: {', '.join(SUFFIXES)}.")
    return suffix.removeprefix(".")


def _box(scan: Scan, marks: Marks) -> Box:
    found = [np.array(mark.position_lps_mm) for mark in marks.case.landmarks]
    return box_about(scan, np.array([*found, *marks.truth.values()]))


def _draw(
    axes: Any, image: Image, box: Box, view: View, marks: Marks, at: float | None, focus: Landmark, small: bool = False
) -> None:
    """One panel: a plane at depth ``at``, or a projection if that is None."""
    a, b = view.across, view.along
    _show(axes, image, box, view, dark=at is None)
    if at is not None and not small:
        axes.axvline(focus.position_lps_mm[a], color=_FAINT, lw=0.5, alpha=0.5)
        axes.axhline(focus.position_lps_mm[b], color=_FAINT, lw=0.5, alpha=0.5)
    colours = group_colours(dict.fromkeys(marks.groups.values()))
    for one in marks.case.key_slices:
        _key_line(axes, one, view, at, colours.get(one.group, INDEPENDENT))
    near = np.inf if at is None else NEAR * float(box.size.max())
    shown = [m for m in marks.case.landmarks if at is None or abs(m.position_lps_mm[view.depth] - at) <= near]
    rings = [p for p in marks.truth.values() if at is None or abs(p[view.depth] - at) <= near]
    for mark in shown:
        if mark.name in marks.truth:
            ends = np.array([mark.position_lps_mm, marks.truth[mark.name]])
            axes.plot(ends[:, a], ends[:, b], color=_TRUTH, lw=0.8, zorder=2)
    size = 0.45 if small else 1.0
    if rings:
        ring = np.array(rings)
        axes.scatter(ring[:, a], ring[:, b], s=62 * size, fc="none", ec=_TRUTH, linewidths=0.9, zorder=3)
    for flagged, marker in ((False, "o"), (True, "X")):
        some = [mark for mark in shown if (mark.status != "located") == flagged]
        if some:
            place = np.array([mark.position_lps_mm for mark in some])
            axes.scatter(
                place[:, a], place[:, b], s=(44 if flagged else 22) * size, marker=marker, zorder=4,
                c=[marks.colours[mark.name] for mark in some],
                edgecolors=_FLAGGED if flagged else "black", linewidths=0.8 if flagged else 0.5,
            )  # fmt: skip
    if at is not None and not small and len(shown) <= _NAMES:
        for mark in shown:
            _name(axes, mark, view, marks.colours[mark.name])
    if not small:
        where = "projection" if at is None else f"{'xyz'[view.depth]} = {at:.1f} mm"
        _caption(axes, f"{view.name}\n{where}", view)


def _show(axes: Any, image: Image, box: Box, view: View, dark: bool) -> None:
    """The grey values, with the axes' limits; a projection's dim half is left dark."""
    a, b = view.across, view.along
    inside = image[np.isfinite(image)]
    low, high = np.percentile(inside, [20 if dark else 1, 99.7]) if inside.size else (0.0, 1.0)
    extent = (box.low[a], box.high[a], box.low[b], box.high[b])
    axes.imshow(
        image, cmap="gray", origin="lower", extent=extent, vmin=low, vmax=max(high, low + 1e-6), aspect="auto",
        interpolation="bilinear",
    )  # fmt: skip
    axes.set_xlim(box.low[a], box.high[a])
    axes.set_ylim(*((box.low[b], box.high[b]) if view.upwards else (box.high[b], box.low[b])))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#333333")


def _key_line(axes: Any, one: KeySlice, view: View, at: float | None, colour: Colour) -> None:
    """The key slice's plane where it cuts the panel's plane (in projections, the one through the slice's point)."""
    normal = np.eye(3)[AXES[one.axis]] if one.normal_lps is None else np.array(one.normal_lps)
    point = normal * one.position_mm if one.point_lps_mm is None else np.array(one.point_lps_mm)
    flat = normal[[view.across, view.along]]
    length = float(np.linalg.norm(flat))
    if length < _CUTS:
        return
    depth = 0.0 if at is None else at - point[view.depth]
    start = point[[view.across, view.along]] - flat * (normal[view.depth] * depth / length**2)
    axes.axline(start, start + np.array([-flat[1], flat[0]]), color=colour, lw=1.0, ls=(0, (6, 4)), alpha=0.85)


def _name(axes: Any, mark: Landmark, view: View, colour: Colour) -> None:
    from matplotlib.patheffects import withStroke

    place = mark.position_lps_mm[view.across], mark.position_lps_mm[view.along]
    outline = [withStroke(linewidth=2, foreground="black")]
    axes.annotate(
        literal(mark.name), place, xytext=(5, 4), textcoords="offset points", color=colour, fontsize=8,
        path_effects=outline,
    )  # fmt: skip


def _caption(axes: Any, text: str, view: View) -> None:
    from matplotlib.patheffects import withStroke

    style = {
        "color": _TEXT, "transform": axes.transAxes, "path_effects": [withStroke(linewidth=2.5, foreground="black")],
    }  # fmt: skip
    axes.text(0.015, 0.98, text, ha="left", va="top", fontsize=8.5, **style)
    edges = ((0.025, 0.5), (0.975, 0.5), (0.5, 0.965), (0.5, 0.035))
    for letter, (x, y) in zip(view.letters, edges, strict=True):
        axes.text(x, y, letter, ha="center", va="center", fontsize=11, fontweight="bold", **style)


def _scale_bar(axes: Any, box: Box, view: View) -> None:
    """A bar of a round length, about a fifth of the panel."""
    a, b = view.across, view.along
    fifth = float(box.size[a]) / 5
    unit = 10.0 ** np.floor(np.log10(fifth))
    length = unit * max(n for n in (1, 2, 5) if n * unit <= fifth)
    end, level = box.high[a] - 0.03 * box.size[a], box.low[b] + 0.06 * box.size[b]
    axes.plot([end - length, end], [level, level], color=_TEXT, lw=2, solid_capstyle="butt")
    axes.text(end - length / 2, level + 0.02 * box.size[b], f"{length:g} mm", color=_TEXT, fontsize=8.5, ha="center")


def _legend(axes: Any, marks: Marks, focus: Landmark, box: Box) -> None:
    from matplotlib.lines import Line2D

    axes.axis("off")

    def dot(colour: object, label: str, **style: object) -> Line2D:
        settings: dict[str, Any] = {"marker": "o", "ms": 6, "mec": "black", "mew": 0.5, "ls": "none", "color": colour}
        return Line2D([], [], label=literal(label), **{**settings, **style})

    members = {mark.name: marks.groups.get(mark.name) for mark in marks.case.landmarks}
    entries = []
    alone = sum(group is None for group in members.values())
    colours = group_colours(dict.fromkeys(marks.groups.values()))
    if alone:
        entries.append(dot(INDEPENDENT, f"independent ({alone})" if colours else f"predicted ({alone})"))
    for group, colour in colours.items():
        entries.append(dot(colour, f"{group} ({sum(one == group for one in members.values())})"))
    for one in marks.case.key_slices:
        colour = colours.get(one.group, INDEPENDENT)
        entries.append(Line2D([], [], color=colour, lw=1.2, ls=(0, (4, 2.5)), label=literal(f"key slice, {one.group}")))
    if marks.truth:
        entries.append(dot(_TRUTH, f"annotated ({len(marks.truth)})", mfc="none", mec=_TRUTH, ms=8, mew=1.0))
    flagged = sum(mark.status != "located" for mark in marks.case.landmarks)
    if flagged:
        entries.append(dot(_FAINT, f"low confidence or outside ({flagged})", marker="X", mec=_FLAGGED, ms=8))
    axes.legend(
        handles=entries, loc="upper left", frameon=False, labelcolor=_TEXT, fontsize=10, borderaxespad=0.2,
        handletextpad=0.6, labelspacing=0.7,
    )  # fmt: skip
    rows = [_measured(one) for one in marks.case.measurements[:_MEASUREMENTS]]
    more = len(marks.case.measurements) - len(rows)
    if rows:
        rows += [f"and {more} more"] if more else []
        axes.text(0.02, 0.42, literal("\n".join(rows)), color=_TEXT, fontsize=9, va="center", transform=axes.transAxes)
    near = NEAR * float(box.size.max())
    said = f"Planes through landmark {focus.name}, points within {near:.2g} mm.\n"
    said += "Projections: maximum intensity, all points."
    axes.text(0.02, 0.02, literal(said), color=_FAINT, fontsize=8.5, ha="left", va="bottom", transform=axes.transAxes)


def _measured(one: Measurement) -> str:
    """A measurement on one line."""
    if one.value is None:
        return f"{one.name}: undefined"
    unit = "°" if one.unit == "degree" else f" {one.unit}"
    spread = "" if one.uncertainty is None else f" ± {one.uncertainty:.2f}{unit}"
    flag = "" if one.status == "measured" else f" ({one.status.replace('_', ' ')})"
    return f"{_shorten(one.name, 30)}: {one.value:.2f}{unit}{spread}{flag}"


def _bars(axes: Any, marks: Marks) -> None:
    """The landmarks with the largest errors or, without annotations, the least confidence."""
    errors = marks.errors
    if errors:
        worst = sorted(errors.items(), key=lambda item: -item[1])[:_BARS]
        title = "largest errors, mm"
    else:
        confidences = {mark.name: mark.confidence for mark in marks.case.landmarks}
        worst = sorted(confidences.items(), key=lambda item: item[1])[:_BARS]
        title = "least confident landmarks"
    names, values = [name for name, _ in worst], [value for _, value in worst]
    axes.spines["left"].set_position(("data", 0))  # which takes the labels away
    axes.barh(range(len(worst)), values, height=0.62, color=[marks.colours[name] for name in names])
    axes.set_yticks(range(len(worst)), [literal(name) for name in names], color=_TEXT, fontsize=9)
    axes.set_ylim(_BARS - 0.3, -1.9)
    end = 1.18 * max(*values, 1e-3) if errors else 1.18
    axes.set_xlim(-0.16 * end, end)
    for row, value in enumerate(values):
        axes.text(value + 0.015 * end, row, f"{value:.2f}", color=_TEXT, fontsize=8.5, va="center")
    axes.text(0, -1.15, title, color=_TEXT, fontsize=9.5, ha="left")
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines["left"].set_bounds(-0.6, len(worst) - 0.4)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "left")
        spine.set_color(_FAINT)


def _title(figure: Figure, marks: Marks, height: float) -> None:
    case = marks.case
    y = 1 - 0.5 * _TITLE_INCHES / height
    figure.text(0.008, y, literal(_shorten(case.id)), color=_TEXT, fontsize=14, fontweight="bold", va="center")
    flagged = sum(mark.status != "located" for mark in case.landmarks)
    said = f"{len(case.landmarks)} landmarks" + (f", {flagged} flagged" if flagged else "")
    errors = marks.errors
    if errors:
        worst = max(errors, key=lambda name: errors[name])
        mean = float(np.mean(list(errors.values())))
        said += f"; mean error {mean:.2f} mm, largest {errors[worst]:.2f} mm ({worst})"
    figure.text(0.992, y, literal(said), color=_TEXT, fontsize=11, ha="right", va="center")


def _shorten(text: str, most: int = 70) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
