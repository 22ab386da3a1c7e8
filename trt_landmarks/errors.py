"""Errors written for people: what is wrong, with which file, and what to do about it.

Every error the toolkit raises on purpose is a :class:`TrtlmError`.  The command line prints its text on one
line and never a traceback; ``code`` is the stable, machine-readable name written to JSON reports.
"""

from __future__ import annotations


class TrtlmError(Exception):
    """Base of all deliberate errors.

    Args:
        message: what is wrong, naming the file or key.
        remedy: what the person can do, one sentence; empty if there is nothing to advise.
        code: stable identifier for reports, e.g. ``"scan_truncated"``; defaults to the class's own.
    """

    code = "error"

    def __init__(self, message: str, remedy: str = "", *, code: str | None = None) -> None:
        self.message = " ".join(message.split())
        self.remedy = " ".join(remedy.split())
        if code is not None:
            self.code = code
        super().__init__(self.message if not self.remedy else f"{self.message} {self.remedy}")


class TaskError(TrtlmError):
    """A task file is missing, unreadable or contradictory."""

    code = "task_invalid"


class ScanError(TrtlmError):
    """A scan cannot be read or cannot be used."""

    code = "scan_unreadable"


class LandmarkFileError(TrtlmError):
    """A landmark annotation file cannot be read or does not fit the task."""

    code = "landmarks_unreadable"


class DatasetError(TrtlmError):
    """A training folder is incomplete."""

    code = "dataset_invalid"


class CheckpointError(TrtlmError):
    """A training run folder cannot be used."""

    code = "checkpoint_invalid"


class BundleError(TrtlmError):
    """A bundle is missing, damaged or of another task."""

    code = "bundle_invalid"


class EngineError(TrtlmError):
    """An inference engine cannot be built, loaded or run here."""

    code = "engine_unavailable"


class PredictionsError(TrtlmError):
    """A predictions file cannot be read or does not fit."""

    code = "predictions_invalid"


class PipelineError(TrtlmError):
    """A part of the pipeline over many scans died."""

    code = "worker_died"
