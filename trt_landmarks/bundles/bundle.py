"""A bundle: the plain folder that holds an exported model.

::

    manifest.json               format, name, mean shape, graphs, parity, provenance, versions, SHA-256 of all files
    task.yaml                   the task (trt_landmarks.task.task)
    confidence.json             how far to trust its landmarks, once fitted (trt_landmarks.confidence)
    graphs/<graph>.onnx         FP32 graphs: coarse, independent, group-<name>; dynamic batch
    graphs/<graph>.cpu.onnx     the same in the form that a CPU runs fastest; the weights are in <graph>.onnx
    graphs/<graph>.onnx.packed  in a compact bundle, instead of both (trt_landmarks.bundles.packing)
    builds/<engine>-<precision>/  what ``trtlm build`` adds, each with its own build.json (trt_landmarks.bundles.builds)

    graph         input                        outputs
    coarse        volume [B, 1, Z, Y, X]       points [B, N, 3]   mm from the grid's centre, LPS
    independent   patches [B, L, Z, Y, X]      offsets [B, L, 3]  mm from the patch's centre; confidence [B, L]
    group-<name>  patches [B, L, Z, Y, X]      offsets, confidence, key_slice [B] (with the slice branch)

Everything a manifest describes is written once and never changed, but for the confidence, which is fitted later;
builds are added beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks.bundles.packing import REMEDY, unpacked
from trt_landmarks.errors import BundleError
from trt_landmarks.files import CACHE_VARIABLE, cache_folder, file_sha256, read_json, write_text
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.confidence import ConfidenceModel, read_confidence
from trt_landmarks.task.graphs import graph_names
from trt_landmarks.task.task import Task, load_task

#: 1: all graphs are plain files; 2: all are packed.
FORMATS = (1, 2)
MANIFEST = "manifest.json"
CONFIDENCE = "confidence.json"
#: Models that ship with the package, by name; the first is the default.
SHIPPED = ("mouse-skull", "brain-afids")
#: Environment variable naming the default model (a shipped name or a bundle folder).
MODEL_VARIABLE = "TRTLM_MODEL"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        root: its folder.
        manifest: ``manifest.json``.
        task: what it localizes.
        shipped: whether it came with the package (its builds then go to the user's cache folder).
    """

    root: Path
    manifest: dict[str, Any]
    task: Task
    shipped: bool = False

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.manifest["name"])

    @cached_property
    def mean_shape(self) -> Floats:
        """``[N, 3]`` mm, the training set's mean shape."""
        return np.asarray(self.manifest["mean_shape_mm"], dtype=np.float64)

    @property
    def packed(self) -> dict[str, dict[str, str]]:
        """Plain ONNX file to ``file``, the packed one, and ``sha256``, the plain one's; empty if none is packed."""
        return dict(self.manifest.get("packed", {}))

    @cached_property
    def graphs_root(self) -> Path:
        """The folder that the plain ONNX files' names are relative to; a compact bundle is unpacked there.

        Raises:
            BundleError: if a packed file is missing or damaged, or there is no folder to unpack to.
        """
        return unpacked(self.root, self.packed) if self.packed else self.root

    @property
    def digests(self) -> dict[str, str]:
        """Every file that the manifest describes, plain ONNX files included, to its SHA-256."""
        return self.manifest["files"] | {file: row["sha256"] for file, row in self.packed.items()}

    @property
    def graphs(self) -> dict[str, Path]:
        """Graph name to FP32 ONNX file."""
        return {graph: self.graphs_root / file for graph, file in self.manifest["graphs"].items()}

    @property
    def cpu_graphs(self) -> dict[str, Path]:
        """Graph name to the FP32 ONNX file that a CPU runs fastest; the plain one where there is no other."""
        return self.graphs | {
            graph: self.graphs_root / file for graph, file in self.manifest.get("cpu_graphs", {}).items()
        }

    @property
    def added_folder(self) -> Path:
        """Where what is made for it goes: the bundle itself, or the user's cache folder if it came with the package."""
        return cache_folder() / f"{self.name}-{self.sha256[:12]}" if self.shipped else self.root

    @property
    def builds_folder(self) -> Path:
        """Where ``trtlm build`` puts its results."""
        return self.added_folder / "builds"

    @property
    def confidence_file(self) -> Path | None:
        """The file of its confidence; a shipped model's own is replaced by what the user fitted."""
        fitted = self.added_folder / CONFIDENCE
        if self.shipped and fitted.is_file():
            return fitted
        return self.root / CONFIDENCE if CONFIDENCE in self.manifest["files"] else None

    @cached_property
    def confidence(self) -> ConfidenceModel | None:
        """How far to trust its landmarks; None if that was not fitted.

        Raises:
            BundleError: if the file is damaged or of another task.
        """
        path = self.confidence_file
        return None if path is None else read_confidence(path, self.task)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the manifest, which names the SHA-256 of every file: it identifies the model."""
        return file_sha256(self.root / MANIFEST)

    @cached_property
    def _verified(self) -> set[str]:
        """Files that are as the manifest says."""
        return set()

    def verify(self, names: list[str] | None = None) -> None:
        """Check files (all, or those named relative to the root) against the manifest, each once.

        Raises:
            BundleError: naming the first file that is missing or changed.
        """
        for file, digest in self.manifest["files"].items():
            if file in self._verified or (names is not None and file not in names):
                continue
            path = self.root / file
            if not path.is_file():
                raise BundleError(f"{path}: is missing from the bundle.", REMEDY)
            if file_sha256(path) != digest:
                raise BundleError(
                    f"{path}: is not the file the manifest describes (SHA-256 differs).",
                    REMEDY,
                    code="bundle_tampered",
                )
            self._verified.add(file)


def open_bundle(model: str | Path | None = None, *, verify: bool = True) -> Bundle:
    """Open a model: a bundle folder, a shipped model's name, or None for the default.

    The default is the setting ``TRTLM_MODEL`` if it is there, else the first shipped model.

    Raises:
        BundleError: if there is no such model or its files are not what the manifest says.
    """
    if model is None:
        model = os.environ.get(MODEL_VARIABLE) or SHIPPED[0]
    folder = Path(model)
    shipped = isinstance(model, str) and model in SHIPPED  # a folder of that name is named with ./
    if shipped:
        folder = Path(__file__).parents[1] / "models" / model
    elif not folder.is_dir():
        raise BundleError(
            f"{model}: no such bundle folder, and no shipped model of that name.",
            f"Shipped models: {', '.join(SHIPPED)}.",
            code="model_missing",
        )
    bundle = Bundle(folder, _read_manifest(folder), load_task(folder / "task.yaml"), shipped)
    missing = [graph for graph in graph_names(bundle.task) if graph not in bundle.manifest["graphs"]]
    if missing or bundle.mean_shape.shape != (len(bundle.task.landmarks), 3):
        raise BundleError(
            f"{folder}: the task and the graphs do not belong together"
            + (f" (no graph {', '.join(missing)})." if missing else " (mean shape of another task)."),
            "Export the bundle again.",
        )
    if verify:
        bundle.verify()
    return bundle


def write_bundle(
    root: Path,
    name: str,
    task_text: str,
    mean_shape: Floats,
    graphs: Mapping[str, str],
    cpu_graphs: Mapping[str, str],
    facts: Mapping[str, Any],
    packed: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Write task file and manifest of a bundle whose graph files are already there.

    Args:
        graphs: graph name to file, relative to ``root``.
        cpu_graphs: the same for those that have a form for the CPU.
        packed: of a compact bundle: see :attr:`Bundle.packed`.
        facts: further entries of the manifest (parity, provenance, versions).
    """
    write_text(root / "task.yaml", task_text, BundleError)
    packed = packed or {}
    plain = [*graphs.values(), *cpu_graphs.values()]
    files = ["task.yaml", *(packed[file]["file"] if file in packed else file for file in plain)]
    if (root / CONFIDENCE).is_file():  # of the bundle that is written again
        files.append(CONFIDENCE)
    manifest = {
        "format": FORMATS[1] if packed else FORMATS[0],
        "name": name,
        **facts,
        "graphs": dict(graphs),
        "cpu_graphs": dict(cpu_graphs),
        "mean_shape_mm": np.round(mean_shape, 6).tolist(),
        **({"packed": dict(packed)} if packed else {}),
        "files": {file: file_sha256(root / file) for file in files},
    }
    _write_manifest(root, manifest)


def attach_confidence(bundle: Bundle, confidence: ConfidenceModel) -> Path:
    """Put a fitted confidence into a bundle, in place of an older one; that of a shipped model into the user's cache.

    The bundle's manifest then names the file, so that builds made before are of another model: build again.

    Returns:
        The file.

    Raises:
        BundleError: if it cannot be written.
    """
    path = bundle.added_folder / CONFIDENCE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError(f"{path.parent}: cannot be made: {error.strerror}.", f"Set {CACHE_VARIABLE}.") from None
    confidence.write(path)
    if not bundle.shipped:
        files = {**bundle.manifest["files"], CONFIDENCE: file_sha256(path)}
        _write_manifest(bundle.root, {**bundle.manifest, "files": files})
    return path


def _write_manifest(root: Path, manifest: Mapping[str, Any]) -> None:
    """One line per entry: long tables stay readable, and small."""
    rows = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in manifest.items()]
    write_text(root / MANIFEST, "{\n" + ",\n".join(rows) + "\n}\n", BundleError)


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(f"{folder}: is not a bundle: it has no {MANIFEST}.", "Make one with trtlm export.")
    try:
        manifest = read_json(path, BundleError, "manifest", remedy=REMEDY)
        graphs = [*dict(manifest["graphs"]).values(), *dict(manifest.get("cpu_graphs", {})).values()]
        packed = {file: (str(row["file"]), str(row["sha256"])) for file, row in manifest.get("packed", {}).items()}
        kinds = (manifest["format"], str(manifest["name"]), graphs, dict(manifest["files"]))
        np.asarray(manifest["mean_shape_mm"], dtype=np.float64)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BundleError(f"{path}: is damaged.", REMEDY) from None
    if kinds[0] not in FORMATS:
        known = " and ".join(map(str, FORMATS))
        raise BundleError(f"{path}: has format {kinds[0]!r}; this version reads {known}.", "Export the bundle again.")
    inside = [Path(file) for file in (*kinds[2], *kinds[3], *packed)]
    if any(file.is_absolute() or ".." in file.parts for file in inside):
        raise BundleError(f"{path}: names files outside the bundle.", "Do not use this bundle.")
    if len(set(kinds[2])) < len(kinds[2]):
        raise BundleError(f"{path}: two graphs have the same file.", "Export the bundle again.", code="graphs_collide")
    stored = [packed[file][0] if file in packed else file for file in kinds[2]]
    if any(file not in kinds[3] for file in (*stored, *(file for file, _ in packed.values()))):
        raise BundleError(f"{path}: gives no SHA-256 for one of its graphs.", "Export the bundle again.")
    return dict(manifest)
