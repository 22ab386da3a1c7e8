"""A whole bundle in lower precision: calibrated on real scans, measured on others, and refused if it is too far off."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.calibration.fp16 import to_fp16
from trt_landmarks.calibration.gate import deviation, judged, localize_all, table
from trt_landmarks.calibration.int8 import to_int8
from trt_landmarks.calibration.recipe import SENSITIVITY_SCANS, Recipe
from trt_landmarks.calibration.scans import CalibrationScans, read_scans
from trt_landmarks.calibration.sensitivity import Findings, sensitivity
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.errors import EngineError
from trt_landmarks.export.parity import Inputs, compare, random_inputs, real_inputs
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.task.graphs import COARSE, graph_file

if TYPE_CHECKING:
    from onnx import ModelProto

#: Batches at which a converted graph is compared with its original, and the inputs for that.
BATCHES, COMPARED_INPUTS = (1, 2), 2
#: Random inputs, where no scans are given, ...
RANDOM_INPUTS = 4
#: ... the largest mean difference of the coarse points on them, voxels, ...
RANDOM_COARSE_VOXEL = 0.1
#: ... and of the fine nets' confidences: the place of a maximum means nothing there.
RANDOM_CONFIDENCE = 0.02
#: Layers that a refusal names, if they were ranked.
WORST_LAYERS = 3
#: What the gate is measured with where there is no GPU.
CPU_ENGINE = "ONNX Runtime on the CPU, FP16 storage emulated"

Say = Callable[[str], None]


def lower(
    bundle: Bundle,
    recipe: Recipe,
    scans: CalibrationScans | None,
    folder: Path,
    say: Say,
    *,
    findings: Path,
    accept_deviation: bool = False,
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Write a bundle's graphs in lower precision and measure them against FP32.

    Args:
        bundle: the model.
        recipe: precision and how it is reached.
        scans: real scans; None, for FP16 only, calibrates on smooth random inputs and measures no millimetres.
        folder: receives ``<graph>.onnx``.
        say: receives one line per step.
        findings: file that keeps measurements of sensitivity until the build is complete.
        accept_deviation: build even if the gate is not passed.

    Returns:
        Graph name to file; and plain data: ``lowering`` (figures per graph), ``comparison`` (per graph, on the same
        inputs), ``gate`` (None without scans) and, if asked for, ``sensitivity``.

    Raises:
        EngineError: if a graph cannot be converted, or the gate is not passed (code ``gate_failed``).
        ScanError: if a scan cannot be read.
        LandmarkFileError: if an annotation cannot be read.
    """
    if scans is None and recipe.precision == "int8":
        raise EngineError(
            "INT8 is calibrated on real scans, and none were given.",
            "Name a folder of scans: trtlm build --precision int8 --calib SCANS.",
            code="calibration_missing",
        )
    if recipe.precision == "fp16" and (recipe.exclude or recipe.sensitivity):
        raise EngineError(
            "Layers are left out of INT8, not of FP16, which keeps what is too large for it in FP32 by itself.",
            "Take --exclude and --sensitivity away, or build with --precision int8.",
        )
    excluded = _by_graph(recipe.exclude, bundle)
    reference = OnnxRuntimeEngine(bundle.cpu_graphs)  # what `infer` runs in FP32
    held_out = read_scans(scans.held_out) if scans else []
    truth = scans.truth(bundle.task.landmarks) if scans else None
    if scans is None:
        say("no scans given: calibrating on smooth random inputs; accuracy in mm is not measured")
        inputs: Inputs = random_inputs(bundle.task, RANDOM_INPUTS)
        fresh = inputs
    else:
        say(f"reading {len(scans.calibration)} scans to calibrate on and {len(held_out)} others to measure on")
        localizer = Localizer(bundle.task, bundle.mean_shape, reference)
        inputs = real_inputs(localizer, read_scans(scans.calibration))
        fresh = real_inputs(localizer, held_out[:COMPARED_INPUTS])
    kept = Findings(findings, _findings_key(bundle, recipe, scans)) if scans and recipe.sensitivity else None
    files: dict[str, Path] = {}
    facts: dict[str, Any] = {"lowering": {}} | ({"sensitivity": {}} if kept else {})
    for graph, source in bundle.graphs.items():
        say(f"converting {graph} to {recipe.precision.upper()}")
        files[graph] = folder / graph_file(graph)
        if recipe.precision == "fp16":
            facts["lowering"][graph] = to_fp16(source, inputs[graph], files[graph])
            continue

        def choose(net: ModelProto, quantized: ModelProto, graph: str = graph) -> list[str]:
            if kept is None:
                return []
            few = inputs[graph][:SENSITIVITY_SCANS]
            ranking = sensitivity(net, quantized, few, _spacing(bundle, graph), kept, graph, say)
            facts["sensitivity"][graph] = ranking
            return list(ranking["excluded"])

        facts["lowering"][graph] = to_int8(source, inputs[graph], files[graph], recipe.method, excluded[graph], choose)
    say("comparing with FP32 in ONNX Runtime")
    engine = OnnxRuntimeEngine(files, recipe.precision)
    facts["comparison"] = compare(reference, engine, bundle.task, fresh, BATCHES)
    if scans is None:
        facts["gate"] = None
        _check_random(facts["comparison"])
        return files, facts
    expected, found = (localize_all(bundle, one, held_out) for one in (reference, engine))
    gate = judged(deviation(bundle, expected, found, truth), recipe.precision)
    facts["gate"] = {**gate, "on": [scan.id for scan in held_out], "engine": CPU_ENGINE}
    for line in table(gate):
        say(line)
    if not gate["passed"]:
        facts["gate"]["accepted"] = accept_deviation
        _refuse(facts, recipe.precision, say)
    return files, facts


def _spacing(bundle: Bundle, graph: str) -> float:
    """Edge of a voxel of a graph's grid, mm."""
    return max(bundle.task.coarse.spacing_mm if graph == COARSE else bundle.task.fine.spacing_mm)


def _findings_key(bundle: Bundle, recipe: Recipe, scans: CalibrationScans) -> str:
    """What measurements of sensitivity depend on."""
    content = json.dumps([bundle.sha256, recipe.method, scans.digests()["calibration"]])
    return hashlib.sha256(content.encode()).hexdigest()


def _by_graph(exclude: Collection[str], bundle: Bundle) -> dict[str, list[str]]:
    """``<graph>:<node>`` sorted by graph."""
    found: dict[str, list[str]] = {graph: [] for graph in bundle.graphs}
    for name in exclude:
        graph, _, node = name.partition(":")
        if graph not in found or not node:
            raise EngineError(
                f"{name}: no such layer to exclude.", f"Write <graph>:<node>; graphs: {', '.join(found)}."
            )
        found[graph].append(node)
    return found


def _refuse(facts: dict[str, Any], precision: str, say: Say) -> None:
    """Refuse a build over the limits, naming the most sensitive layers if they were ranked, or say it is accepted."""
    what = f"{precision.upper()} deviates too much from FP32: {'; '.join(facts['gate']['failures'])}"
    ranked = [(layer["alone_mm"], f"{graph}:{layer['node']}")
              for graph, ranking in facts.get("sensitivity", {}).items() for layer in ranking["layers"]]  # fmt: skip
    if ranked:
        worst = sorted(ranked, reverse=True)[:WORST_LAYERS]
        what += f". Most sensitive layers: {', '.join(f'{name} ({mm:.2g} mm alone)' for mm, name in worst)}"
    if facts["gate"]["accepted"]:
        say(f"{what}; accepted with --accept-deviation")
        return
    layers = "rank the layers with --sensitivity, leave some out with --exclude, " if precision == "int8" else ""
    raise EngineError(
        f"{what}.",
        f"Nothing was built. Calibrate on more scans with --n, {layers}or build anyway with --accept-deviation.",
        code="gate_failed",
    )


def _check_random(comparison: dict[str, dict[str, float]]) -> None:
    """Refuse what is too far from FP32 on random inputs."""
    bad = []
    for graph, found in comparison.items():
        coarse = graph == COARSE
        column, limit = ("mean_voxel", RANDOM_COARSE_VOXEL) if coarse else ("max_confidence", RANDOM_CONFIDENCE)
        if not found[column] <= limit:  # NaN is too far as well
            bad.append(f"{graph} {column.replace('_', ' ')} {found[column]:.3g} (allowed {limit:g})")
    if bad:
        raise EngineError(
            f"FP16 differs too much from FP32 on random inputs: {'; '.join(bad)}.",
            "Nothing was built. Use FP32 for this model, or look on real scans with --calib.",
            code="gate_failed",
        )
