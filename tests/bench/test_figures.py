"""The figures show every way and every run."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
from matplotlib.patches import Rectangle

from tests.bench.reports import MEDIANS, ROUNDS, SCANS, make_report
from trt_landmarks.bench.figures import latency, stages, write_figures
from trt_landmarks.bundles.bundle import Bundle


def test_figures_show_what_the_report_says(tiny_bundle: Bundle) -> None:
    report = make_report(tiny_bundle)
    bars = stages(report).axes[0]
    last = [bar for bar in bars.patches if isinstance(bar, Rectangle)][-len(MEDIANS) :]
    ends = {round(bar.get_x() + bar.get_width()) for bar in last}
    assert ends == {round(sum(s["p50"] for s in way["stages_ms"].values())) for way in report["ways"]}
    assert [label.get_text() for label in bars.get_yticklabels()] == list(MEDIANS)
    runs = [line for line in latency(report).axes[0].lines if line.get_marker() == "o"]
    assert [len(line.get_xdata()) for line in runs] == [ROUNDS * len(SCANS)] * len(MEDIANS)  # type: ignore[arg-type]


def test_files_are_written_and_no_blank_ones(tiny_bundle: Bundle, tmp_path: Path) -> None:
    written = write_figures(make_report(tiny_bundle), tmp_path)
    assert sorted(path.name for path in written) == ["latency.png", "latency.svg", "stages.png", "stages.svg"]
    for name in ("stages", "latency"):
        picture = matplotlib.image.imread(tmp_path / f"{name}.png")
        assert picture.std() > 0.02
        text = (tmp_path / f"{name}.svg").read_text()
        assert all(f">{way}<" in text for way in MEDIANS)
