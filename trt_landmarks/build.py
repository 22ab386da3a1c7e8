"""``trtlm build``: from a bundle's FP32 graphs to graphs of lower precision, and to plans.

::

    FP32 graphs --calibrate, gate--> graphs at a precision    (build onnxruntime-<precision>)
                --put together, TensorRT--> the plan of the whole method (build tensorrt[-rtx]-<precision>)
                --OpenVINO, gate---> a record of the accuracy in bfloat16  (build openvino-bf16)
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_landmarks import __version__
from trt_landmarks.bundles.builds import (
    ENGINE_PRECISIONS,
    ENGINES,
    OPENVINO,
    REPORT,
    Build,
    Say,
    find_build,
    make_build,
    own_graphs,
)
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.calibration.recipe import LIMITS, LOW_PRECISIONS, Recipe, constants
from trt_landmarks.engines.tensorrt.check import Plan
from trt_landmarks.engines.tensorrt.flavours import FLAVOURS, load_flavour
from trt_landmarks.engines.tensorrt.gpu import gpu_problem
from trt_landmarks.engines.tensorrt.settings import PlanSettings
from trt_landmarks.errors import EngineError
from trt_landmarks.files import write_text
from trt_landmarks.system import installed_version, installed_versions, processor, processor_bf16
from trt_landmarks.task.graphs import SCAN, scan_profile

if TYPE_CHECKING:
    from trt_landmarks.calibration.scans import CalibrationScans
    from trt_landmarks.localization.localizer import Localizer
    from trt_landmarks.localization.whole_scan import WholeScanLocalizer


@dataclass(frozen=True)
class Request:
    """What is asked of a build.

    Attributes:
        precision: ``fp32``, ``fp16``, ``int8``, or ``bf16`` for OpenVINO.
        scans: real scans to calibrate on and to measure on; without them graphs of lower precision are taken from an
            earlier build, or, for FP16, made without measuring millimetres.
        method, exclude, sensitivity: see :class:`~trt_landmarks.calibration.recipe.Recipe`.
        accept_deviation: build even if the gate is not passed.
        plans: settings of TensorRT's builder.
    """

    precision: str
    scans: CalibrationScans | None = None
    method: str = Recipe.method
    exclude: tuple[str, ...] = ()
    sensitivity: bool = False
    accept_deviation: bool = False
    plans: PlanSettings = PlanSettings()

    @property
    def recipe(self) -> Recipe:
        """How graphs of lower precision are made."""
        return Recipe(self.precision, self.method, tuple(sorted(self.exclude)), self.sensitivity)


def build(bundle: Bundle, engine: str, request: Request, say: Say = lambda text: None) -> Build:
    """Make a build, unless the same is there already.

    Args:
        bundle: the model.
        engine: ``onnxruntime`` (graphs of lower precision), ``openvino`` (a record of its accuracy), ``tensorrt``,
            ``tensorrt-rtx`` (plans), or ``auto``: OpenVINO for bfloat16, else the first TensorRT that is installed,
            else ``onnxruntime``.
        request: what is asked for.
        say: receives one line per step.

    Raises:
        EngineError: if it cannot be built here or deviates too much from FP32.  Nothing is changed then.
        ScanError: if a scan cannot be read.
    """
    engine = OPENVINO if (engine, request.precision) == ("auto", "bf16") else resolve(engine, say)
    if request.precision not in ENGINE_PRECISIONS[engine]:
        raise EngineError(
            f"{request.precision}: no such precision for engine {engine}.",
            f"Precisions: {', '.join(ENGINE_PRECISIONS[engine])}.",
        )
    if (engine, request.precision) == ("onnxruntime", "fp32"):
        say("ONNX Runtime runs the bundle's FP32 graphs as they are: nothing to build")
        return own_graphs(bundle)
    bundle.verify()
    if engine == OPENVINO:
        return _openvino(bundle, request, say)
    graphs = own_graphs(bundle)
    if request.precision in LOW_PRECISIONS:
        graphs = _graphs(bundle, request, say)
    done = graphs if engine == "onnxruntime" else _plan(bundle, engine, request, graphs, say)
    if done.status == "cached":
        say(f"{done.folder.name}: the same build is there already (cached)")
    return done


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


def _graphs(bundle: Bundle, request: Request, say: Say) -> Build:
    """The build of graphs at a lower precision."""
    precision, scans = request.precision, request.scans
    if scans is None:
        present = find_build(bundle, "onnxruntime", precision)
        if present is not None and _accepted(present, request) and _same_recipe(present, request):
            present.verify()
            say(f"{present.folder.name}: taking the graphs that are there already (cached)")
            return replace(present, status="cached")
    recipe = {
        "sources": own_graphs(bundle).digests,
        "recipe": asdict(request.recipe),
        "settings": constants(),
        "limits": asdict(LIMITS[precision]),
        "scans": scans.digests() if scans else "smooth random inputs",
        "versions": _versions("numpy", "onnxruntime", "onnx", "nvidia-modelopt"),
    }

    def make(folder: Path) -> dict[str, Any]:
        from trt_landmarks.calibration.lower import lower
        from trt_landmarks.calibration.report import report

        (folder / "graphs").mkdir()
        if scans is not None:
            scans.check_apart()
        files, facts = lower(
            bundle, request.recipe, scans, folder / "graphs", say,
            findings=findings, accept_deviation=request.accept_deviation,
        )  # fmt: skip
        facts["graphs"] = {graph: f"graphs/{path.name}" for graph, path in files.items()}
        write_text(folder / REPORT, report(bundle, request.recipe, facts), EngineError)
        return facts

    findings = bundle.builds_folder / ".sensitivity.jsonl"
    command = _command(bundle, "onnxruntime", request)
    done = make_build(bundle, "onnxruntime", precision, recipe, command, make)
    _check_accepted(done, request)
    findings.unlink(missing_ok=True)
    return done


def _plan(bundle: Bundle, engine: str, request: Request, graphs: Build, say: Say) -> Build:
    """The build of TensorRT's plan of the whole method, put together of graphs."""
    from trt_landmarks.engines.tensorrt.build import build_plan, build_target

    profile = scan_profile(bundle.task)
    command = _command(bundle, engine, request)
    recipe = {
        "sources": graphs.digests,
        "mean_shape_mm": bundle.manifest["mean_shape_mm"],
        "flavour": {"name": engine, "version": str(load_flavour(engine).__version__)},
        "target": build_target(engine, request.plans),
        "settings": request.plans.as_data(),
        "profile": profile,
        "versions": _versions("onnx", "torch"),
    }

    def make(folder: Path) -> dict[str, Any]:
        from trt_landmarks.export.whole_scan import write_whole_scan

        source, file = folder / f"{SCAN}.onnx", f"engines/{SCAN}.plan"
        (folder / file).parent.mkdir()
        say("putting the graph of the whole method together")
        write_whole_scan(bundle.task, bundle.mean_shape, graphs.files, source)
        say(f"building its plan with {engine}")
        gate = graphs.record["gate"]
        record = build_plan(
            source, folder / file, engine, profile, graph=SCAN, precision=request.precision, command=command,
            settings=request.plans, gate=_in_brief(gate), say=say,
        )  # fmt: skip
        source.unlink()
        problem = gpu_problem()
        if problem is None and request.scans is not None:
            gate = _gate_plan(bundle, engine, request, Plan(folder / file, record.source_sha256), say)
        else:
            why = problem or "no scans were given"
            say(f"the plan itself was not run: {why}; the gate's figures are those of its graphs")
        return {
            "graphs": {SCAN: file}, "source": record.source_sha256, "gate": gate, "plan": asdict(record.network)
        }  # fmt: skip

    return make_build(bundle, engine, request.precision, recipe, command, make)


def _gate_plan(bundle: Bundle, engine: str, request: Request, plan: Plan, say: Say) -> dict[str, Any]:
    """The gate, measured with the plan on the GPU (not verified: no GPU was at hand)."""
    from trt_landmarks.engines.tensorrt.engine import TensorRTEngine
    from trt_landmarks.engines.tensorrt.record import set_gate
    from trt_landmarks.localization.whole_scan import WholeScanLocalizer

    opened = TensorRTEngine({SCAN: plan}, engine, request.precision)
    gate = _gate(bundle, request, WholeScanLocalizer(bundle.task, opened), f"{engine} on the GPU", say)
    opened.close()
    set_gate(plan.path, _in_brief(gate))
    return gate


def _openvino(bundle: Bundle, request: Request, say: Say) -> Build:
    """The build for OpenVINO: in bfloat16, a record of how accurate it is on this kind of processor."""
    from trt_landmarks.engines.openvino import OpenVinoEngine, check_bf16
    from trt_landmarks.localization.localizer import Localizer

    if request.precision == "fp32":
        say("OpenVINO runs the bundle's FP32 graphs as they are: nothing to build")
        return own_graphs(bundle)
    check_bf16()
    if request.scans is None:
        raise EngineError("bf16 must be measured on scans.", "Give real scans: --calib SCANS.", code="scans_missing")
    recipe = {
        "sources": own_graphs(bundle).digests,
        "flavour": {"name": OPENVINO, "version": installed_version("openvino")},
        "target": {"processor": processor_bf16()},
        "limits": asdict(LIMITS[request.precision]),
        "scans": request.scans.digests(),
        "versions": _versions("numpy"),
    }

    def make(folder: Path) -> dict[str, Any]:
        say(f"measuring bf16 on {len(request.scans.held_out) if request.scans else 0} scans")
        engine = OpenVinoEngine(bundle.graphs, request.precision)
        measured = Localizer(bundle.task, bundle.mean_shape, engine)
        return {"graphs": {}, "gate": _gate(bundle, request, measured, f"OpenVINO on {processor()}", say)}

    done = make_build(bundle, OPENVINO, request.precision, recipe, _command(bundle, OPENVINO, request), make)
    _check_accepted(done, request)
    return done


def _gate(
    bundle: Bundle, request: Request, measured: Localizer | WholeScanLocalizer, engine: str, say: Say
) -> dict[str, Any]:
    """The accuracy gate: landmarks of held-out scans, compared with FP32 in ONNX Runtime.

    Raises:
        EngineError: ``gate_failed``, unless the deviation is accepted.
    """
    from trt_landmarks.calibration.gate import deviation, judged, localize_all, table
    from trt_landmarks.calibration.scans import read_scans
    from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine

    assert request.scans is not None
    held_out = read_scans(request.scans.held_out)
    expected = localize_all(bundle, OnnxRuntimeEngine(bundle.cpu_graphs), held_out)  # what `infer` runs in FP32
    figures = deviation(
        bundle, expected, [measured.localize(scan) for scan in held_out], request.scans.truth(bundle.task.landmarks)
    )
    gate = {**judged(figures, request.precision), "on": [scan.id for scan in held_out], "engine": engine}
    for line in table(gate):
        say(line)
    if not gate["passed"] and not request.accept_deviation:
        raise EngineError(
            f"{engine}: {request.precision} deviates too much from FP32: {'; '.join(gate['failures'])}.",
            "Nothing was built. Build all the same with --accept-deviation.",
            code="gate_failed",
        )
    return {**gate, "accepted": not gate["passed"]}


def _check_accepted(done: Build, request: Request) -> None:
    """Raise :class:`EngineError` (``gate_failed``) for a build of earlier whose deviation is not accepted."""
    if not _accepted(done, request):
        failures = "; ".join(done.record["gate"]["failures"])
        raise EngineError(
            f"{done.folder}: is there already, and deviates too much from FP32: {failures}.",
            "Accept it with --accept-deviation, or change how it is calibrated.",
            code="gate_failed",
        )


def _accepted(found: Build, request: Request) -> bool:
    """Whether a build may be used: its gate was passed, or what it deviates is accepted now."""
    gate = found.record["gate"]
    return gate is None or gate["passed"] or request.accept_deviation


def _same_recipe(found: Build, request: Request) -> bool:
    """Whether graphs made earlier are what is asked for now, whatever scans they were made with."""
    made = found.record["recipe"]["recipe"]
    asked = asdict(request.recipe)
    return all(made[name] == (list(value) if isinstance(value, tuple) else value)
               for name, value in asked.items() if value != getattr(Recipe(request.precision), name))  # fmt: skip


def _in_brief(gate: dict[str, Any] | None) -> dict[str, Any]:
    """A gate without its tables, for the record of a single plan."""
    return {name: value for name, value in (gate or {}).items() if name != "landmarks"}


def _versions(*packages: str) -> dict[str, str]:
    return {"trt_landmarks": __version__, **dict.fromkeys(packages, "missing"), **installed_versions(packages)}


def _command(bundle: Bundle, engine: str, request: Request) -> str:
    """How to make a build again; folders of this machine are left out."""
    words = ["trtlm", "build", bundle.name if bundle.shipped else "BUNDLE", "--engine", engine]
    words += ["--precision", request.precision]
    if request.precision == "bf16":
        words += ["--calib", "SCANS"]
    if request.precision in LOW_PRECISIONS and request.scans is not None:
        words += ["--calib", "SCANS", "--n", str(len(request.scans.calibration)), "--seed", str(request.scans.seed)]
    if request.precision == "int8" and request.method != Recipe.method:
        words += ["--method", request.method]
    for name in sorted(request.exclude):
        words += ["--exclude", name]
    if request.sensitivity:
        words.append("--sensitivity")
    if request.accept_deviation:
        words.append("--accept-deviation")
    if engine in FLAVOURS:
        words += _plan_options(request.plans)
    return shlex.join(words)


def _plan_options(plans: PlanSettings) -> list[str]:
    """Settings of TensorRT's builder as options of the command."""
    words = []
    if plans.workspace_bytes is not None:
        words += ["--workspace", str(plans.workspace_bytes >> 20)]
    if plans.optimization_level is not None:
        words += ["--optimization-level", str(plans.optimization_level)]
    if plans.version_compatible:
        words.append("--version-compatible")
    if plans.hardware_compatibility != "none":
        words += ["--hardware-compatibility", plans.hardware_compatibility]
    for text in plans.compute_capabilities:
        words += ["--target", text]
    return words
