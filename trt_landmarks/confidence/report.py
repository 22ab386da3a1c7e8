"""The report of a fitted confidence, for people: Markdown; the same figures are in the JSON beside it."""

from __future__ import annotations

from typing import Any

_NAMES = {"clean": "as they are", "mild": "mildly perturbed", "hard": "hard perturbed", "all": "all"}


def report(figures: dict[str, Any]) -> str:
    """Markdown of what :func:`~trt_landmarks.confidence.command.fit` measured."""
    cases, wrong = figures["cases"], figures["wrong"]
    lines = [
        f"# Confidence of {figures['model']}",
        "",
        f"Fitted on {len(cases)} annotated validation scans ({', '.join(cases)}) and their perturbations.",
        "Every figure is of scans that the fit did not see: each case, and all that was made of it, is left out in",
        f"turn. {len(cases)} cases are few: points of one case, also perturbed in several ways, are not independent.",
        "",
        f"An error is large above {figures['large_error_mm']:.3f} mm, three times the median in scans as they are.",
        f"A landmark is flagged (`low_confidence`) below a confidence of {figures['low_below']:.2f}. By height: what",
        "was flagged without a fitted confidence. AUC: area under the curve of detections against false alarms.",
        "",
        "| scans | points | large errors | flagged of these | false alarms | AUC | by height: flagged | false | AUC |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for part, row in figures["parts"].items():
        cells = (
            f"{row['scans']} {_NAMES[part]}",
            row["points"],
            row["large_errors"],
            _percent(row["detected"]),
            _percent(row["false_alarms"]),
            _number(row["area_under_curve"], 3),
            _percent(row["detected_by_height"]),
            _percent(row["false_alarms_by_height"]),
            _number(row["area_under_curve_by_height"], 3),
        )
        lines.append(_row(*cells))
    lines += [
        "",
        "| scans | mean error, mm | mean `expected_error_mm` | errors below `error_90_mm` | median `error_90_mm` "
        "| flagged `not_this_anatomy` |",
        "|---|---|---|---|---|---|",
    ]
    for part, row in figures["parts"].items():
        shown = (
            _NAMES[part],
            _number(row["mean_error_mm"], 3),
            _number(row["mean_expected_mm"], 3),
            _percent(row["coverage_90"]),
            _number(row["median_bound_90_mm"], 3),
            f"{row['flagged_scans']} of {row['scans']}",
        )
        lines.append(_row(*shown))
    lines += [
        "",
        "Wrong scans made of the validation scans (turned by 75 to 180 degrees, or their blocks shuffled):",
        f"{wrong['flagged']} of {wrong['scans']} are flagged `not_this_anatomy`.",
        "",
        "## Does the confidence keep its promise?",
        "",
        "| confidence | landmarks | mean confidence | errors that are not large |",
        "|---|---|---|---|",
    ]
    for row in figures["confidence"]:
        between = f"{row['from']:g} to {row['to']:g}"
        lines.append(_row(between, row["points"], f"{row['confidence']:.3f}", _percent(row["not_large"])))
    lines += [
        "",
        "## By kind of perturbation",
        "",
        "| kind | range | scans | median error, mm | large errors | flagged of these | false alarms | below "
        "`error_90_mm` | flagged scans |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in figures["kinds"]:
        cells = (
            row["kind"],
            row["part"],
            row["scans"],
            _number(row["median_error_mm"], 2),
            row["large_errors"],
            _percent(row["detected"]),
            _percent(row["false_alarms"]),
            _percent(row["coverage_90"]),
            row["flagged_scans"],
        )
        lines.append(_row(*cells))
    return "\n".join(lines) + "\n"


def summary(figures: dict[str, Any]) -> str:
    """A few lines for the terminal."""
    lines = [
        f"{row['scans']} scans {_NAMES[part]}: {_percent(row['detected'])} of {row['large_errors']} large errors "
        f"flagged, {_percent(row['false_alarms'])} false alarms; {_percent(row['coverage_90'])} of the errors below "
        f"error_90_mm; "
        f"{row['flagged_scans']} flagged as not this anatomy"
        for part, row in figures["parts"].items()
    ]
    wrong = figures["wrong"]
    return "\n".join([*lines, f"wrong scans: {wrong['flagged']} of {wrong['scans']} flagged as not this anatomy"])


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
