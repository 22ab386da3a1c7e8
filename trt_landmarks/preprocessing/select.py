"""Which preprocessor runs here, and why: an explicit choice holds or fails, only ``auto`` falls back."""

from __future__ import annotations

from trt_landmarks.errors import EngineError
from trt_landmarks.preprocessing.reference import Preprocessor, ReferencePreprocessor

PREPROCESSORS = ("reference", "dali")


def open_preprocessor(
    name: str = "auto", device: int | None = None, threads: int | None = None
) -> tuple[Preprocessor, str]:
    """Open a preprocessor.

    Args:
        name: ``reference``, ``dali``, or ``auto``: DALI beside an engine on the GPU if it can be had, else the
            reference, which is 1.5 to 7 times as fast on 2 cores (``benchmarks/results/preprocessing.md``).
        device: number of the GPU that the engine runs on, and DALI then too; None for the CPU.
        threads: DALI's threads on the CPU; None takes all cores.

    Returns:
        The preprocessor, and a line for people: which it is and why.

    Raises:
        EngineError: if an explicit choice cannot be had, with the reason and what to do.
    """
    if name not in ("auto", *PREPROCESSORS):
        raise EngineError(f"{name}: no such preprocessing.", f"Preprocessing: auto, {', '.join(PREPROCESSORS)}.")
    because = ""
    if name == "dali" or (name == "auto" and device is not None):
        from trt_landmarks.preprocessing.dali import DaliPreprocessor

        try:
            dali = DaliPreprocessor(device, threads)
            return dali, f"dali {dali.version} on the {'CPU' if device is None else 'GPU'}"
        except EngineError as error:
            if name == "dali":
                raise
            because = f" ({error.message})"
    return ReferencePreprocessor(), f"reference on the CPU{because}"
