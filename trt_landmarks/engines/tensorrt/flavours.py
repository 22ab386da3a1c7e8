"""TensorRT and TensorRT for RTX: one API, two Python modules."""

from __future__ import annotations

import importlib
from collections import deque
from functools import cache
from types import ModuleType
from typing import Any

from trt_landmarks.errors import EngineError
from trt_landmarks.system import install_command

TENSORRT, RTX = "tensorrt", "tensorrt-rtx"
#: Flavour to its Python module and to the extra that installs it.
FLAVOURS = {TENSORRT: ("tensorrt", "gpu"), RTX: ("tensorrt_rtx", "rtx")}
#: Messages of TensorRT that are kept.
_KEPT = 1000


def load_flavour(name: str) -> ModuleType:
    """The Python module of ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        EngineError: if it is not installed or cannot be loaded.
    """
    module, extra = FLAVOURS[name]
    try:
        loaded = importlib.import_module(module)
        loaded.Builder, loaded.OnnxParser, loaded.__version__  # noqa: B018 - a stub package has none of these
    except Exception as error:  # the packages raise OSError and RuntimeError for missing libraries
        raise EngineError(
            f"{name} cannot be used: the Python module {module} is not installed or does not load ({error}).",
            f"Install it with: {install_command(extra)}",
        ) from None
    return loaded


class Log:
    """What TensorRT says from now on, kept instead of printed.

    TensorRT has one logger in a process: while any of its objects lives, it ignores another.  So all logs share one,
    and each looks at what has come since it was made.

    Attributes:
        logger: the logger to give to TensorRT.
    """

    def __init__(self, trt: ModuleType) -> None:
        self.logger = _logger(trt)
        self._start = self.logger.count

    @property
    def warnings(self) -> list[str]:
        """Warnings, and errors among them."""
        return [text for number, _, text in self.logger.messages if number >= self._start]

    @property
    def errors(self) -> list[str]:
        """Errors alone."""
        return [text for number, is_error, text in self.logger.messages if number >= self._start and is_error]

    def last(self) -> str:
        """The last errors, for a message."""
        return "; ".join(self.errors[-3:]).rstrip(".") or "it gives no reason"


@cache
def _logger(trt: ModuleType) -> Any:
    """The process's logger of a flavour, which keeps the last messages."""

    class Logger(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.count = 0
            self.messages: deque[tuple[int, bool, str]] = deque(maxlen=_KEPT)  # number, whether an error, text

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.WARNING):
                is_error = int(severity) <= int(trt.ILogger.Severity.ERROR)
                self.messages.append((self.count, is_error, " ".join(message.split())))
                self.count += 1

    return Logger()
