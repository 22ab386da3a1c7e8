"""A whole bundle in FP16: calibrated, compared with FP32, and refused if it is too far from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trt_landmarks.bundle import Bundle
from trt_landmarks.calibration.fp16 import to_fp16
from trt_landmarks.engines.base import COARSE
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.errors import BundleError, EngineError
from trt_landmarks.export.parity import Inputs, compare, random_inputs, real_inputs
from trt_landmarks.localizer import Localizer
from trt_landmarks.scan import Scan

#: Batches at which a converted graph is compared with its original.
BATCHES = (1, 2)
#: Largest mean difference of positions from FP32 on real scans (and of the coarse points always), voxels.
MEAN_VOXEL = 0.1
#: Largest difference of confidences from FP32 on random inputs, where the place of a maximum means nothing.
CONFIDENCE = 0.02
#: Random inputs, where no scans are given.
RANDOM_INPUTS = 4

Say = Callable[[str], None]


def halve(bundle: Bundle, scans: Sequence[Scan], folder: Path, say: Say) -> tuple[dict[str, Path], Any, Any]:
    """Write the FP16 form of all graphs of a bundle and compare it with FP32.

    Args:
        bundle: the model.
        scans: real scans to calibrate and compare on; without them smooth random inputs are used.
        folder: receives ``<graph>.onnx``.
        say: receives one line per step.

    Returns:
        Graph name to file, figures of the conversions, and the comparison.

    Raises:
        EngineError: if a graph cannot be converted or differs too much from FP32.
    """
    reference = OnnxRuntimeEngine(bundle.graphs)
    if scans:
        inputs: Inputs = real_inputs(Localizer(bundle.task, bundle.mean_shape, reference), scans)
    else:
        say("no scans given: calibrating and comparing on smooth random inputs, which say little about accuracy")
        inputs = random_inputs(bundle.task, RANDOM_INPUTS)
    files, figures = {}, {}
    for graph, source in bundle.graphs.items():
        say(f"converting {graph} to FP16")
        files[graph] = folder / f"{graph}.onnx"
        figures[graph] = to_fp16(source, inputs[graph], files[graph])
    say("comparing with FP32 in ONNX Runtime")
    try:
        comparison = compare(reference, OnnxRuntimeEngine(files, "fp16"), bundle.task, inputs, BATCHES)
    except BundleError as error:
        raise EngineError(f"An FP16 graph does not load: {error.message}", "FP32 still works.") from None
    _gate(comparison, bool(scans), say)
    on = [scan.id for scan in scans] if scans else "smooth random inputs"
    return files, figures, {"against": "FP32, in ONNX Runtime", "on": on, "graphs": comparison}


def _gate(comparison: dict[str, dict[str, float]], real: bool, say: Say) -> None:
    """Show how far FP16 is from FP32, and refuse what is too far."""
    say(f"{'graph':<24}{'mean voxel':>12}{'max voxel':>12}{'mean mm':>12}{'max mm':>12}{'confidence':>12}")
    bad = []
    for graph, found in comparison.items():
        columns = ("mean_voxel", "max_voxel", "mean_mm", "max_mm", "max_confidence")
        say(f"{graph:<24}" + "".join(f"{found[column]:>12.5f}" for column in columns))
        by_place = real or graph == COARSE
        column, limit, unit = ("mean_voxel", MEAN_VOXEL, " voxel") if by_place else ("max_confidence", CONFIDENCE, "")
        if not found[column] <= limit:  # NaN is too far as well
            bad.append(f"{graph} {column.replace('_', ' ')} {found[column]:.3g} (allowed {limit:g}{unit})")
    if bad:
        raise EngineError(
            f"FP16 differs too much from FP32: {'; '.join(bad)}.",
            "Nothing was built. Use FP32 for this model.",
            code="fp16_inaccurate",
        )
