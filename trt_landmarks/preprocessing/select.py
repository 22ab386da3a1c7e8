"""Which preprocessor runs here, and why: an explicit choice holds or fails, only ``auto`` falls back."""

from __future__ import annotations

from trt_landmarks.errors import EngineError
from trt_landmarks.preprocessing.reference import Preprocessor, ReferencePreprocessor

PREPROCESSORS = ("reference", "dali")


def open_preprocessor(name: str = "auto", gpu: bool = False, threads: int | None = None) -> tuple[Preprocessor, str]:
    """Open a preprocessor.

    Args:
        name: ``reference``, ``dali``, or ``auto``: DALI beside an engine on the GPU if it can be had, else the
            reference, which is the faster one on the CPU (1.5 to 7 times on 2 cores: ``benchmarks/preprocessing.py``).
        gpu: whether the engine runs on the first GPU; then DALI does too.
        threads: DALI's threads on the CPU; None takes all cores.

    Returns:
        The preprocessor, and a line for people: which it is and why.

    Raises:
        EngineError: if an explicit choice cannot be had, with the reason and what to do.
    """
    if name not in ("auto", *PREPROCESSORS):
        raise EngineError(f"{name}: no such preprocessing.", f"Preprocessing: auto, {', '.join(PREPROCESSORS)}.")
    because = ""
    if name == "dali" or (name == "auto" and gpu):
        from trt_landmarks.preprocessing.dali import DaliPreprocessor

        try:
            dali = DaliPreprocessor(0 if gpu else None, threads)
            return dali, f"dali {dali.version} on the {'GPU' if gpu else 'CPU'}"
        except EngineError as error:
            if name == "dali":
                raise
            because = f" ({error.message})"
    return ReferencePreprocessor(), f"reference on the CPU{because}"
