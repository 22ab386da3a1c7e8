"""3D medical landmark localization, from a PyTorch checkpoint to a deployed, measured engine.

The names of this module are the public API.  Importing it loads no heavy package: each name is imported when it is
first used.

Positions are ``(x, y, z)`` in LPS mm (x to the patient's left, y to the back, z up); arrays of voxels are ``[k, j, i]``
unless a function says otherwise.

Example:
    >>> from trt_landmarks import Model
    >>> Model.names()
    ('mouse-skull', 'brain-afids')
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from trt_landmarks.data.annotations import read_landmarks
    from trt_landmarks.errors import TrtlmError
    from trt_landmarks.geometry import Geometry
    from trt_landmarks.model import Model, Result
    from trt_landmarks.results.evaluation import Evaluation, evaluate
    from trt_landmarks.results.predictions import Predictions, read_predictions
    from trt_landmarks.scan import Scan, ScanFile, find_scans, read_scan, scan_from_array, write_scan
    from trt_landmarks.task.task import Task, load_task

#: Public name to the module that defines it.
_MODULES = {
    "Model": "trt_landmarks.model",
    "Result": "trt_landmarks.model",
    "Scan": "trt_landmarks.scan",
    "ScanFile": "trt_landmarks.scan",
    "Geometry": "trt_landmarks.geometry",
    "find_scans": "trt_landmarks.scan",
    "read_scan": "trt_landmarks.scan",
    "scan_from_array": "trt_landmarks.scan",
    "write_scan": "trt_landmarks.scan",
    "Task": "trt_landmarks.task.task",
    "load_task": "trt_landmarks.task.task",
    "read_landmarks": "trt_landmarks.data.annotations",
    "Predictions": "trt_landmarks.results.predictions",
    "read_predictions": "trt_landmarks.results.predictions",
    "Evaluation": "trt_landmarks.results.evaluation",
    "evaluate": "trt_landmarks.results.evaluation",
    "TrtlmError": "trt_landmarks.errors",
}

__all__ = [
    "Evaluation",
    "Geometry",
    "Model",
    "Predictions",
    "Result",
    "Scan",
    "ScanFile",
    "Task",
    "TrtlmError",
    "evaluate",
    "find_scans",
    "load_task",
    "read_landmarks",
    "read_predictions",
    "read_scan",
    "scan_from_array",
    "write_scan",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
