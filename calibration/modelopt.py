"""NVIDIA ModelOpt, imported when it is needed and kept quiet."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from trt_landmarks.errors import EngineError
from trt_landmarks.system import install_command


def autocast() -> Any:
    """ModelOpt's conversion to mixed precision.

    Raises:
        EngineError: if ModelOpt cannot be imported.
    """
    with _advice("FP16"):
        from modelopt.onnx.autocast import convert_to_mixed_precision
    return convert_to_mixed_precision


def quantizer() -> Any:
    """ModelOpt's insertion of Q/DQ nodes.

    Raises:
        EngineError: if ModelOpt cannot be imported.
    """
    with _advice("INT8"):
        from modelopt.onnx.quantization import quantize
    return quantize


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """ModelOpt logs every node it looks at."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


@contextlib.contextmanager
def _advice(precision: str) -> Iterator[None]:
    try:
        with quiet():
            yield
    except ImportError as error:
        raise EngineError(
            f"{precision} graphs are made with NVIDIA ModelOpt, which cannot be imported: {error}.",
            f"Install it with: {install_command('calibrate')}",
        ) from None
