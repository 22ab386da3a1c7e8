"""Colours of independent and grouped landmarks, the same in Slicer's files, pictures and reports.

Distinguishable with the common kinds of colour blindness: Okabe, Ito (2008), "Color Universal Design".
"""

from __future__ import annotations

from collections.abc import Iterable

Colour = tuple[float, float, float]

#: Landmarks of no group.
INDEPENDENT: Colour = (0.902, 0.624, 0.0)
#: Groups, in the task's order; more groups than colours share them.
GROUPS: tuple[Colour, ...] = (
    (0.337, 0.706, 0.914),
    (0.0, 0.720, 0.520),
    (0.941, 0.894, 0.259),
    (0.800, 0.475, 0.655),
    (0.835, 0.369, 0.0),
    (0.250, 0.500, 0.900),
)


def group_colours(groups: Iterable[str]) -> dict[str, Colour]:
    """A colour for each group."""
    return {group: GROUPS[n % len(GROUPS)] for n, group in enumerate(groups)}
