"""What commands have in common: advice for missing packages, progress, files named on the command line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from trt_landmarks.errors import TrtlmError
from trt_landmarks.system import install_command


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Turn a missing optional package into advice."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise TrtlmError(
            f"this command needs the package {error.name}, which is not installed.",
            f"Run: {install_command(name)}",
            code="package_missing",
        ) from None


@contextlib.contextmanager
def progress_bar(what: str, count: int, quiet: bool) -> Iterator[Any]:
    """A progress bar on a terminal; nothing in scripts."""
    if quiet or not sys.stderr.isatty():
        yield lambda name: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from trt_landmarks.runs.log import printable

    name = TextColumn("{task.description}", markup=False)  # a scan may be called [red]
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task(what, total=count)
        yield lambda name: bar.update(line, advance=1, description=printable(name))
