"""Plots of errors say what their colours mean, and show every point where there are few."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the extra plot is not installed")

from matplotlib.figure import Figure

from trt_landmarks.outputs.error_plots import detection_plot, landmark_plot


def named(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_the_legend_names_what_is_shown() -> None:
    errors = {"a": [0.1, 0.4], "b": [0.2], "c": [3.0]}
    assert named(landmark_plot(errors, {"b": "midline", "c": "orbit"})) == ["independent", "midline", "orbit"]
    assert named(landmark_plot(errors, {"b": "midline", "elsewhere": "orbit"})) == ["independent", "midline"]
    assert named(landmark_plot({"b": [0.2]}, {"b": "midline"})) == ["midline"]
    assert named(landmark_plot({"a": [0.2]}, {})) == ["independent"]


def test_names_are_no_formulas() -> None:
    figure = landmark_plot({"$a$": [0.1]}, {"$a$": "$b$"})
    figure.canvas.draw()
    assert named(figure) == [r"\$b\$"]


def test_the_share_within_a_radius() -> None:
    axes = detection_plot(np.array([0.5, 1.5, 2.5, 9.0]), [1.0, 2.0]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["25.0 %", "50.0 %"]
