"""``trtlm build``: a bundle's graphs, made ready for an engine at a precision.

::

    <builds folder>/<engine>-<precision>/
        build.json       engine, precision, model, SHA-256 of all files, versions, target, settings, comparison, command
        graphs/*.onnx    FP16 graphs
        engines/*.plan   TensorRT's plans, as it wrote them

A build is made in a temporary folder beside its place and renamed when it is complete, so there are no half builds.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks import __version__
from trt_landmarks.bundle import Bundle, file_sha256
from trt_landmarks.engines.base import COARSE
from trt_landmarks.engines.flavours import FLAVOURS, load_flavour
from trt_landmarks.engines.plan_settings import PlanSettings
from trt_landmarks.engines.tensorrt_plan import build_plan, build_target
from trt_landmarks.errors import EngineError
from trt_landmarks.export.parity import input_shapes
from trt_landmarks.files import read_text, write_text
from trt_landmarks.scan import Scan

FORMAT = 1
RECORD = "build.json"
ENGINES = ("onnxruntime", *FLAVOURS)
PRECISIONS = ("fp32", "fp16")
#: Batches a plan is built for: smallest, usual, largest. Larger ones are run in parts.
PROFILE = (1, 1, 8)
#: Most scratch memory of the GPU a plan may use, bytes.
WORKSPACE = 2 << 30
Say = Callable[[str], None]


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
        """``onnxruntime``, ``tensorrt`` or ``tensorrt-rtx``."""
        return str(self.record["engine"])

    @property
    def precision(self) -> str:
        """``fp32`` or ``fp16``."""
        return str(self.record["precision"])

    @property
    def files(self) -> dict[str, Path]:
        """Graph name to the file the engine runs."""
        return {graph: self.folder / file for graph, file in self.record["graphs"].items()}

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
        size = sum((self.folder / file).stat().st_size for file in self.record["files"]) / 1e6
        return f"{name}: {self.status}, {size:.1f} MB in {self.folder}"


def build(
    bundle: Bundle,
    engine: str,
    precision: str,
    scans: Sequence[Scan] = (),
    say: Say = lambda text: None,
    *,
    targets: Sequence[str] = (),
) -> Build:
    """Make a build, unless the same is there already.

    Args:
        bundle: the model.
        engine: ``onnxruntime``, ``tensorrt``, ``tensorrt-rtx`` or ``auto`` (the first TensorRT that is installed).
        precision: ``fp32`` or ``fp16``.
        scans: real scans to calibrate and compare on (for FP16); without them smooth random inputs are used.
        say: receives one line per step.
        targets: compute capabilities to build for, with TensorRT for RTX; none gives a portable plan.

    Raises:
        EngineError: if it cannot be built here or differs too much from FP32. Nothing is changed then.
    """
    engine = resolve(engine, say)
    if precision not in PRECISIONS:
        later = " INT8 is not part of this version." if precision == "int8" else ""
        raise EngineError(f"{precision}: no such precision to build.{later}", f"Take {' or '.join(PRECISIONS)}.")
    if engine == "onnxruntime" and precision == "fp32":
        say("ONNX Runtime runs the bundle's FP32 graphs as they are: nothing to build")
        own = {graph: bundle.manifest["graphs"][graph] for graph in bundle.graphs}
        files = {file: bundle.manifest["files"][file] for file in own.values()}
        return Build(
            bundle.root, {"engine": engine, "precision": precision, "graphs": own, "files": files}, "nothing to build"
        )
    bundle.verify()
    recipe = _recipe(bundle, engine, precision, scans, targets)
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    folder = bundle.builds_folder / f"{engine}-{precision}"
    present = _same_build(folder, key)
    if present is not None:
        say(f"{folder.name}: the same build is there already (cached)")
        return present
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        staging.mkdir(parents=True)
        facts = _make(bundle, engine, precision, scans, staging, targets, say)
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
            **recipe,
            **facts,
            "files": files,
            "command": _command(bundle, engine, precision, scans),
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
    return Build(folder, record, "built")


def resolve(engine: str, say: Say = lambda text: None) -> str:
    """The engine meant by a name; ``auto`` is the first TensorRT that is installed, else ONNX Runtime.

    Raises:
        EngineError: if there is no engine of that name.
    """
    if engine in ENGINES:
        return engine
    if engine != "auto":
        raise EngineError(f"{engine}: no such engine.", f"Engines: auto, {', '.join(ENGINES)}.")
    for name in FLAVOURS:
        try:
            module = load_flavour(name)
        except EngineError:
            continue
        say(f"engine: {name} {module.__version__}, which is installed")
        return name
    say("engine: onnxruntime, as no TensorRT is installed")
    return "onnxruntime"


def list_builds(bundle: Bundle, warn: Say = lambda text: None) -> list[Build]:
    """The builds of a bundle, by name; a damaged or foreign one is left out and ``warn`` is told of it."""
    builds = []
    folders = sorted(bundle.builds_folder.iterdir()) if bundle.builds_folder.is_dir() else []
    for folder in folders:
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        try:
            builds.append(_read_build(bundle, folder))
        except EngineError as error:
            warn(f"{error.message} It is not used.")
    return builds


def _read_build(bundle: Bundle, folder: Path) -> Build:
    path = folder / RECORD
    try:
        record = dict(json.loads(read_text(path, EngineError, "build record")))
        if record["format"] != FORMAT:
            raise EngineError(f"{path}: has format {record['format']!r}; this version reads {FORMAT}.")
        if record["model"]["sha256"] != bundle.sha256:
            raise EngineError(f"{folder}: was built from another model.", "Build it again.")
        found = Build(folder, record)
        names = [*record["files"], *record["graphs"].values()]
        fits = (
            folder.name == f"{found.engine}-{found.precision}"
            and set(record["graphs"]) == set(bundle.graphs)
            and set(record["graphs"].values()) <= set(record["files"])
            and not any(Path(name).is_absolute() or ".." in Path(name).parts for name in names)
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
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        found = Build(folder, record)
        if record["key"] != key or record["format"] != FORMAT:
            return None
        found.verify()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EngineError):
        return None
    return replace(found, status="cached")


def _recipe(
    bundle: Bundle, engine: str, precision: str, scans: Sequence[Scan], targets: Sequence[str]
) -> dict[str, Any]:
    """All that decides what a build becomes: what its key is made of."""
    packages = ["numpy", "onnxruntime"]
    recipe: dict[str, Any] = {
        "sources": {graph: bundle.manifest["files"][file] for graph, file in bundle.manifest["graphs"].items()},
        "settings": {},
    }
    if precision == "fp16":
        from trt_landmarks.calibration.fp16 import DATA_MAX

        packages += ["onnx", "nvidia-modelopt"]
        recipe["settings"] = {"data_max": DATA_MAX, "decoding": "fp32"}
        recipe["inputs"] = {"scans": [scan.id for scan in scans], "sha256": _digest(scans)}
    recipe["versions"] = {"trt_landmarks": __version__, **{name: _version(name) for name in packages}}
    if engine in FLAVOURS:
        recipe["flavour"] = {"name": engine, "version": str(load_flavour(engine).__version__)}
        settings = PlanSettings(WORKSPACE, compute_capabilities=tuple(targets))
        recipe["target"] = build_target(engine, settings)
        recipe["settings"] |= {"profile": list(PROFILE), "tf32": False, **settings.as_data()}
    return {"engine": engine, "precision": precision, **recipe}


def _make(
    bundle: Bundle, engine: str, precision: str, scans: Sequence[Scan], folder: Path, targets: Sequence[str], say: Say
) -> dict[str, Any]:
    """Write the files of a build; returns what is to be recorded of them."""
    facts: dict[str, Any] = {"graphs": {}}
    sources = bundle.graphs
    if precision == "fp16":
        from trt_landmarks.calibration.halve import halve

        (folder / "graphs").mkdir()
        sources, facts["fp16"], facts["comparison"] = halve(bundle, scans, folder / "graphs", say)
        facts["graphs"] = {graph: f"graphs/{path.name}" for graph, path in sources.items()}
    if engine in FLAVOURS:
        (folder / "engines").mkdir()
        shapes = input_shapes(bundle.task)
        facts["plans"] = {}
        for graph, path in sources.items():
            say(f"building {graph} with {engine}")
            batches = [(batch, *shapes[graph]) for batch in PROFILE]
            name = "volume" if graph == COARSE else "patches"
            facts["graphs"][graph] = f"engines/{graph}.plan"
            facts["plans"][graph] = build_plan(
                path,
                folder / facts["graphs"][graph],
                engine,
                {name: (batches[0], batches[1], batches[2])},
                graph=graph,
                precision=precision,
                command=_command(bundle, engine, precision, scans),
                settings=PlanSettings(WORKSPACE, compute_capabilities=tuple(targets)),
                say=say,
            ).as_data()
    return facts


def _put(staging: Path, folder: Path) -> None:
    """Give a complete build its name, in place of an older one."""
    old = staging.with_name(f"{staging.name}.old")
    if folder.exists():
        folder.rename(old)
    staging.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _digest(scans: Sequence[Scan]) -> str:
    digest = hashlib.sha256()
    for scan in scans:
        digest.update(f"{scan.id} {scan.geometry} {scan.voxels.dtype} {scan.voxels.shape}".encode())
        digest.update(np.ascontiguousarray(scan.voxels).data)
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _command(bundle: Bundle, engine: str, precision: str, scans: Sequence[Scan]) -> str:
    """How to make the build again; folders of this machine are left out."""
    model = bundle.name if bundle.shipped else "BUNDLE"
    real = " --scans SCANS" if scans and precision == "fp16" else ""
    return f"trtlm build {model} --engine {engine} --precision {precision}{real}"
