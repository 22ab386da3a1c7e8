"""Checks of the results file's fields: plain data in, typed values or an error that names the field out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from trt_landmarks.errors import PredictionsError

Triple = tuple[float, float, float]
T = TypeVar("T")


@contextmanager
def inside(where: str) -> Iterator[None]:
    """Errors raised within start with ``where``."""
    try:
        yield
    except PredictionsError as error:
        raise PredictionsError(f"{where}: {error.message}", error.remedy) from None


def each(content: Any, key: str, read: Callable[[Any], T]) -> list[T]:
    """Read every item of a list; errors name its place."""
    if not isinstance(content, list):
        raise PredictionsError(f"{key} is not a list.")
    items = []
    for number, one in enumerate(content):
        with inside(f"{key}[{number}]"):
            items.append(read(one))
    return items


def mapping(content: Any) -> dict[str, Any]:
    """An object with named fields, as it is."""
    if not isinstance(content, dict):
        raise PredictionsError(f"is not an object with named fields but {type(content).__name__}.")
    return content


def fields(content: Any, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """A copy of the object ``content``, which must have the required fields and no unknown ones."""
    content = mapping(content)
    missing = [key for key in required if key not in content]
    unknown = [key for key in content if key not in (*required, *optional)]
    if missing:
        raise PredictionsError(f"lacks {', '.join(missing)}.")
    if unknown:
        raise PredictionsError(f"unknown field {', '.join(unknown)}.")
    return dict(content)


def text(value: Any, where: str) -> str:
    """A text that is not empty, as it is."""
    if not isinstance(value, str) or not value:
        raise PredictionsError(f"{where} is {value!r}, not a text.")
    return value


def number(value: Any, where: str, digits: int) -> float:
    """A finite number, rounded; NumPy's numbers become Python's, and -0 becomes 0."""
    try:
        number = math.nan if isinstance(value, (str, bool)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise PredictionsError(f"{where} is {value!r}, not a finite number.")
    return round(number, digits) + 0.0


def triple(value: Any, where: str) -> Triple:
    """Three finite numbers, rounded to 1e-5."""
    values = [] if isinstance(value, (str, dict)) or not hasattr(value, "__len__") else list(value)
    if len(values) != 3:
        raise PredictionsError(f"{where} is {value!r}, not three numbers.")
    x, y, z = (number(one, where, 5) for one in values)
    return (x, y, z)


def no_duplicates(names: Iterable[str], what: str) -> None:
    """Raise if a name occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PredictionsError(f"{what} '{name}' occurs twice.")
        seen.add(name)
