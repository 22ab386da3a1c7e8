"""Builds: what ``trtlm build`` made of a bundle, for an engine at a precision.

::

    <builds folder>/<engine>-<precision>/
        build.json            engine, precision, model, key, SHA-256 of all files, versions, gate, command
        graphs/<graph>.onnx   onnxruntime: the graphs in that precision
        report.md             onnxruntime: calibration and gate, for people
        engines/scan.plan     TensorRT: the plan as it wrote it, with its record beside it: of the graph of the whole
                              method, which is put together of the graphs in that precision

A build for OpenVINO has no files: it records the accuracy measured in bfloat16, and on which kind of processor.
A model that ships with the package may have builds of its own; one that the user makes takes their place.

A build is made in a temporary folder beside its place and renamed when it is complete, so there are no half builds.
That folder is locked while it is in use and removed however making ends; one that a killed process left is removed by
the next build.
Its key is made of all that decides what it becomes, never of time.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.engines.tensorrt.flavours import FLAVOURS
from trt_landmarks.errors import EngineError
from trt_landmarks.files import file_sha256, read_json, write_text
from trt_landmarks.system import terminable
from trt_landmarks.task.graphs import SCAN, graph_names

FORMAT = 3
RECORD = "build.json"
REPORT = "report.md"
OPENVINO = "openvino"
ENGINES = ("onnxruntime", OPENVINO, *FLAVOURS)
#: Precisions of graphs.
PRECISIONS = ("fp32", "fp16", "int8")
#: Engine to the precisions that it computes in; OpenVINO computes FP32 graphs in bfloat16.
ENGINE_PRECISIONS = {name: ("fp32", "bf16") if name == OPENVINO else PRECISIONS for name in ENGINES}
Say = Callable[[str], None]
#: Names of temporary folders.
_TEMPORARY = re.compile(r"\..+-.+\.[0-9a-f]{8}(\.old)?")


@dataclass(frozen=True)
class Build:
    """A finished build.

    Attributes:
        folder: its folder.
        record: ``build.json``.
        status: ``built`` (just now), ``cached`` (was there already), ``found`` (by :func:`list_builds`) or
            ``nothing to build`` (the bundle's own graphs serve; the record then names these).
    """

    folder: Path
    record: dict[str, Any]
    status: str = "found"

    @property
    def engine(self) -> str:
        """One of :data:`ENGINES`."""
        return str(self.record["engine"])

    @property
    def precision(self) -> str:
        """``fp32``, ``fp16``, ``int8`` or ``bf16``."""
        return str(self.record["precision"])

    @property
    def files(self) -> dict[str, Path]:
        """Graph name to the file the engine runs."""
        return {graph: self.folder / file for graph, file in self.record["graphs"].items()}

    @property
    def digests(self) -> dict[str, str]:
        """Graph name to the SHA-256 of the file the engine runs."""
        return {graph: self.record["files"][file] for graph, file in self.record["graphs"].items()}

    def verify(self) -> None:
        """Check all files against their recorded SHA-256.

        Raises:
            EngineError: naming the first file that is missing or changed.
        """
        for file, digest in self.record["files"].items():
            path = self.folder / file
            if not path.is_file() or file_sha256(path) != digest:
                what = "is not the file build.json describes (SHA-256 differs)" if path.is_file() else "is missing"
                raise EngineError(
                    f"{path}: {what}.", f"Build it again: {self.record['command']}.", code="build_damaged"
                )

    def summary(self) -> str:
        """One line for people."""
        name = f"{self.engine} {self.precision}"
        if self.status == "nothing to build":
            return f"{name}: nothing to build, the bundle's own graphs are used"
        if self.engine == OPENVINO:
            return f"{name}: {self.status}, {deviation_summary(self.record['gate'])}"
        size = sum((self.folder / file).stat().st_size for file in self.record["files"]) / 1e6
        return f"{name}: {self.status}, {size:.1f} MB in {self.folder}"


def list_builds(bundle: Bundle, warn: Say = lambda text: None) -> list[Build]:
    """The builds of a bundle, by name; a damaged or foreign one is left out and ``warn`` is told of it."""
    builds = []
    parents = [parent for parent in (bundle.root / "builds", bundle.builds_folder) if parent.is_dir()]
    folders = {folder.name: folder for parent in parents for folder in parent.iterdir()}
    for _, folder in sorted(folders.items()):
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        try:
            builds.append(_read_build(bundle, folder))
        except EngineError as error:
            warn(f"{error.message} It is not used.")
    return builds


def find_build(bundle: Bundle, engine: str, precision: str) -> Build | None:
    """One build of a bundle; None if it is not there or is damaged."""
    return next((b for b in list_builds(bundle) if (b.engine, b.precision) == (engine, precision)), None)


def build_name(engine: str, precision: str) -> str:
    """Name of a build's folder."""
    return f"{engine}-{precision}"


def own_graphs(bundle: Bundle) -> Build:
    """The bundle's own FP32 graphs as a build for ONNX Runtime: there is nothing to make."""
    graphs = {graph: bundle.manifest["graphs"][graph] for graph in bundle.graphs}
    files = {file: bundle.digests[file] for file in graphs.values()}
    record = {"engine": "onnxruntime", "precision": "fp32", "graphs": graphs, "files": files, "gate": None}
    return Build(bundle.graphs_root, record, "nothing to build")


def make_build(
    bundle: Bundle,
    engine: str,
    precision: str,
    recipe: Mapping[str, Any],
    command: str,
    make: Callable[[Path], dict[str, Any]],
) -> Build:
    """Make a build, or take the one that is there and was made from the same.

    Args:
        bundle: the model.
        engine: what it is for.
        precision: what it computes in.
        recipe: plain data, all that decides what the build becomes; its SHA-256 is the key.
        command: how to make it again.
        make: writes the build's files into a folder; returns further entries of the record, ``graphs`` among them.

    Raises:
        EngineError: if the folder cannot be written; and whatever ``make`` raises.  Nothing is changed then.
    """
    key = recipe_key(engine, precision, recipe)
    folder = bundle.builds_folder / build_name(engine, precision)
    present = _same_build(folder, key)
    if present is not None:
        return present
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    stack = ExitStack()
    try:
        stack.enter_context(terminable())
        _claim(staging, stack)
        facts = make(staging)
        files = {
            path.relative_to(staging).as_posix(): file_sha256(path)
            for path in sorted(staging.rglob("*"))
            if path.is_file()
        }
        record = {
            "format": FORMAT,
            "engine": engine,
            "precision": precision,
            "model": {"name": bundle.name, "sha256": bundle.sha256},
            "key": key,
            "recipe": dict(recipe),
            **facts,
            "files": files,
            "command": command,
        }
        write_text(staging / RECORD, json.dumps(record, indent=1) + "\n", EngineError)
        _put(staging, folder)
    except OSError as error:
        raise EngineError(
            f"{folder}: cannot be written: {error.strerror or error}.",
            "Copy the bundle to a folder that you may write to and that has room.",
            code="build_unwritable",
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        stack.close()
    return Build(folder, record, "built")


def recipe_key(engine: str, precision: str, recipe: Mapping[str, Any]) -> str:
    """SHA-256 of what decides a build."""
    return hashlib.sha256(json.dumps([engine, precision, recipe], sort_keys=True).encode()).hexdigest()


def deviation_summary(figures: dict[str, Any]) -> str:
    """One line on a deviation from FP32, as the gate records it."""
    text = (
        f"from FP32: mean {figures['mean_voxel']:.4f}, p99 {figures['p99_voxel']:.4f}, max {figures['max_voxel']:.4f} "
        f"voxel of the patch grid (mean {figures['mean_mm']:.4f} mm)"
    )
    if "mre_mm" in figures:
        text += f"; MRE {figures['mre_fp32_mm']:.4f} mm -> {figures['mre_mm']:.4f} mm ({figures['mre_percent']:+.2f} %)"
    return text


def _read_build(bundle: Bundle, folder: Path) -> Build:
    path = folder / RECORD
    try:
        record = dict(read_json(path, EngineError, "build record", remedy="Build it again."))
        if record["format"] != FORMAT:
            raise EngineError(f"{path}: has format {record['format']!r}; this version reads {FORMAT}.")
        if record["model"]["sha256"] != bundle.sha256:
            raise EngineError(f"{folder}: was built from another model.", "Build it again.")
        found = Build(folder, record)
        names = [*record["files"], *record["graphs"].values()]
        graphs = {"onnxruntime": set(graph_names(bundle.task)), OPENVINO: set()}.get(found.engine, {SCAN})
        fits = (
            folder.name == build_name(found.engine, found.precision)
            and set(record["graphs"]) == graphs
            and set(record["graphs"].values()) <= set(record["files"])
            and not any(Path(name).is_absolute() or ".." in Path(name).parts for name in names)
            and isinstance(record["gate"], dict | None)
            and isinstance(record["command"], str)
            and isinstance(record["recipe"]["versions"], dict)
            and (found.engine != "onnxruntime" or isinstance(record["recipe"]["recipe"], dict))
            and (found.engine not in FLAVOURS or isinstance(record["source"], str))
            and (found.engine != OPENVINO or isinstance(record["gate"], dict))
            and (found.engine != OPENVINO or isinstance(record["recipe"]["target"]["processor"], str))
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EngineError(f"{path}: is damaged.", "Build it again.") from None
    missing = [name for name in record["files"] if not (folder / name).is_file()]
    if not fits or missing:
        raise EngineError(f"{folder}: is damaged{f', {missing[0]} is missing' if missing else ''}.", "Build it again.")
    return found


def _same_build(folder: Path, key: str) -> Build | None:
    """The undamaged build made from the same things, if it is there."""
    try:
        record = read_json(folder / RECORD, EngineError, "build record")
        found = Build(folder, record)
        if record["key"] != key or record["format"] != FORMAT:
            return None
        found.verify()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EngineError):
        return None
    return replace(found, status="cached")


def _claim(staging: Path, stack: ExitStack) -> None:
    """Make a temporary folder and lock it until the stack is closed; those that nobody has locked any more go."""
    staging.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as alone:
        ours = _lock(staging.parent, alone)  # else one that was made and not locked yet would go
        for left in staging.parent.glob(".*-*.????????*"):
            if ours and _TEMPORARY.fullmatch(left.name):
                with ExitStack() as unused:
                    if _lock(left, unused, wait=False):
                        shutil.rmtree(left, ignore_errors=True)
        staging.mkdir()
        _lock(staging, stack)


def _lock(folder: Path, stack: ExitStack, wait: bool = True) -> bool:
    """Lock a folder until the stack is closed, or the process ends; False if that cannot be, or somebody else has."""
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ModuleNotFoundError, OSError):  # not every system has it, nor every network file system
        return False
    return True


def _put(staging: Path, folder: Path) -> None:
    """Give a complete build its name, in place of an older one; one at a time."""
    old = staging.with_name(f"{staging.name}.old")
    with ExitStack() as alone:
        _lock(folder.parent, alone)
        if folder.exists():
            folder.rename(old)
        staging.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
