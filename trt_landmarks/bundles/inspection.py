"""``trtlm inspect``: what is in a bundle, how accurate it was measured to be, and where its builds run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trt_landmarks.bundles.builds import Build, list_builds
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.errors import TrtlmError


def inspect_bundle(bundle: Bundle) -> dict[str, Any]:
    """All about a bundle and its builds, as plain data.

    Returns:
        ``whole`` (all files are what the records say), ``problems``; ``name``, ``path``, ``sha256``, ``task``
        (landmarks, groups, grids), ``size_mb``, ``graphs`` (file, size, parity with PyTorch), ``training``,
        ``provenance``, ``versions``; ``confidence``, how good it was measured to be (None if it was not fitted); and
        ``builds``: each with engine, precision, size, gate, share of INT8,
        target, version, command, ``runs_here`` and, if not, ``why_not``.
    """
    problems: list[str] = []
    try:
        bundle.verify()
    except TrtlmError as error:
        problems.append(error.message)
    builds = []
    for found in list_builds(bundle, problems.append):
        try:
            found.verify()
        except TrtlmError as error:
            problems.append(error.message)
        try:
            row = _build(bundle, found)
            _build_lines(row)
            builds.append(row)
        except (KeyError, TypeError, ValueError, AttributeError):  # a record that lacks what can be shown of it
            problems.append(f"{found.folder}: its record is damaged. It is not shown; build it again.")
    confidence = _confidence(bundle, problems.append)
    manifest, task = bundle.manifest, bundle.task
    parity = manifest.get("parity", {})
    sizes = {file: (bundle.root / file).stat().st_size for file in manifest["files"] if (bundle.root / file).is_file()}
    packed = bundle.packed
    stored = {graph: packed[file]["file"] if file in packed else file for graph, file in manifest["graphs"].items()}
    return {
        "whole": not problems,
        "problems": problems,
        "name": bundle.name,
        "path": str(bundle.root),
        "sha256": bundle.sha256,
        "shipped": bundle.shipped,
        "size_mb": _mb(sum(sizes.values())),
        "task": {
            "name": task.name,
            "landmarks": len(task.landmarks),
            "groups": {group.name: len(group.landmarks) for group in task.groups},
            "coarse_grid": _grid(task.coarse.shape, task.coarse.spacing_mm),
            "patch_grid": _grid(task.fine.shape, task.fine.spacing_mm),
        },
        "graphs": {
            graph: {
                "file": stored[graph],
                "size_mb": _mb(sizes.get(stored[graph], 0)),
                "parity_max_voxel": parity.get(graph, {}).get("max_voxel"),
            }
            for graph in manifest["graphs"]
        },
        "parity_on": parity.get("on"),
        "confidence": confidence,
        "training": manifest.get("training", {}).get("metrics"),
        "provenance": manifest.get("provenance", {}),
        "versions": manifest.get("versions", {}),
        "builds": builds,
    }


def render(found: dict[str, Any]) -> str:
    """What :func:`inspect_bundle` found, as text."""
    task = found["task"]
    groups = ", ".join(f"{name} ({count})" for name, count in task["groups"].items())
    lines = [
        f"{found['name']}: {found['path']} ({found['size_mb']} MB)",
        f"task {task['name']}: {task['landmarks']} landmarks" + (f"; correlated: {groups}" if groups else ""),
        f"coarse grid {task['coarse_grid']}; patches {task['patch_grid']}",
        "",
        f"{'FP32 graph':<24}{'MB':>8}{'max voxel from PyTorch':>26}",
    ]
    for graph, row in found["graphs"].items():
        parity = "not recorded" if row["parity_max_voxel"] is None else f"{row['parity_max_voxel']:.1e}"
        lines.append(f"{graph:<24}{row['size_mb']:>8}{parity:>26}")
    lines += ["", _confidence_line(found["confidence"])]
    lines += ["", "builds:" if found["builds"] else "no builds; make one with trtlm build"]
    for build in found["builds"]:
        lines += _build_lines(build)
    lines += ["", *(f"problem: {text}" for text in found["problems"])] if found["problems"] else []
    return "\n".join(lines)


def _confidence(bundle: Bundle, problem: Callable[[str], None]) -> dict[str, Any] | None:
    try:
        return None if bundle.confidence is None else dict(bundle.confidence.measured)
    except TrtlmError as error:
        problem(error.message)
        return None


def _confidence_line(measured: dict[str, Any] | None) -> str:
    if measured is None:
        return "confidence: the height of the heat maps; trtlm confidence makes it mean something"
    try:
        figures = measured["parts"]["all"]
        return (
            f"confidence: flags {100 * figures['detected']:.1f} % of large errors and "
            f"{100 * figures['false_alarms']:.1f} % of others, in {figures['scans']} perturbed scans of "
            f"{len(measured['cases'])} cases left out"
        )
    except (KeyError, TypeError):
        return "confidence: fitted, but not measured"


def _build(bundle: Bundle, found: Build) -> dict[str, Any]:
    from trt_landmarks.bundles.select import open_engine

    record = found.record
    try:
        found.verify()
        open_engine(bundle, found.engine, found.precision)
        why_not = None
    except TrtlmError as error:
        why_not = error.message
    gate = record["gate"]
    lowering = record.get("lowering", {})
    recipe = record["recipe"]
    return {
        "engine": found.engine,
        "precision": found.precision,
        "folder": str(found.folder),
        "size_mb": _mb(sum((found.folder / file).stat().st_size for file in record["files"])),
        "int8_share": {graph: row["conv_flops_int8"] for graph, row in lowering.items() if "conv_flops_int8" in row},
        "gate": None if gate is None else {k: v for k, v in gate.items() if k != "landmarks"},
        "layers": record.get("plan", {}),
        "flavour": recipe.get("flavour"),
        "target": recipe.get("target"),
        "versions": recipe.get("versions", {}),
        "runs_here": why_not is None,
        "why_not": why_not,
        "command": record["command"],
    }


def _build_lines(build: dict[str, Any]) -> list[str]:
    from trt_landmarks.bundles.builds import deviation_summary

    lines = [f"  {build['engine']} {build['precision']}: {build['size_mb']} MB, {build['folder']}"]
    for graph, share in build["int8_share"].items():
        lines.append(f"    {graph}: {100 * share:.1f} % of the convolutions' operations in INT8")
    gate = build["gate"]
    if gate is None:
        own = build["precision"] == "fp32"
        lines.append("    accuracy: " + ("the FP32 graphs themselves" if own else "not measured on scans"))
    else:
        verdict = "gate passed" if gate["passed"] else "gate NOT passed, accepted"
        lines.append(f"    accuracy: {verdict}; {deviation_summary(gate)}")
        lines.append(f"    measured on {len(gate['on'])} scans, {gate['engine']}")
    if build["target"]:
        on = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in build["target"].items())
        lines.append(f"    made by {build['flavour']['name']} {build['flavour']['version']} for {on}")
    lines.append("    runs here: " + ("yes" if build["runs_here"] else f"no: {build['why_not']}"))
    return [*lines, f"    made with: {build['command']}"]


def _grid(shape: Sequence[int], spacing_mm: Sequence[float]) -> str:
    """Voxels along x, y, z and their edges."""
    return f"{' x '.join(map(str, shape))} of {' x '.join(f'{edge:g}' for edge in spacing_mm)} mm"


def _mb(size: int) -> float:
    return round(size / 1e6, 1)
