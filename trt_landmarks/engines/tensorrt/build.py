"""Building plans: from an ONNX graph to the file TensorRT runs and its record, in either flavour.

Networks are strongly typed, so precision comes from the graph alone, and TF32 is off: an FP32 layer (the decoding
above all) computes in FP32.  **Not verified, for want of a GPU:** building with TensorRT itself; it follows NVIDIA's
documentation of TensorRT 11.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from trt_landmarks.engines.tensorrt.check import this_platform
from trt_landmarks.engines.tensorrt.flavours import RTX, Log, load_flavour
from trt_landmarks.engines.tensorrt.gpu import first_gpu, gpu_problem
from trt_landmarks.engines.tensorrt.network import network_facts, network_inputs, network_outputs
from trt_landmarks.engines.tensorrt.record import PlanRecord, record_path
from trt_landmarks.engines.tensorrt.settings import PORTABLE, PlanSettings
from trt_landmarks.errors import EngineError
from trt_landmarks.files import write_bytes
from trt_landmarks.task.graphs import Shapes

#: Seconds between two lines of progress.
PROGRESS_SECONDS = 5.0

Say = Callable[[str], None]


def build_target(flavour: str, settings: PlanSettings) -> dict[str, str]:
    """What a plan built now will run on: the GPU here, or for RTX the compute capabilities it is built for.

    Returns:
        ``compute_capability``, and for TensorRT itself ``gpu``, ``driver`` (CUDA version) and ``platform``.

    Raises:
        EngineError: if TensorRT would have to build without a GPU, or a setting is none of the flavour's.
    """
    settings.check(flavour)
    if flavour == RTX:
        return {"compute_capability": ", ".join(settings.compute_capabilities) or PORTABLE}
    gpu = first_gpu()
    if gpu is None:
        raise EngineError(
            f"tensorrt builds plans on the GPU that will run them, and {gpu_problem()}.",
            "Build on the GPU machine, or take --engine tensorrt-rtx, which builds without one.",
        )
    return {
        "compute_capability": gpu.compute_capability,
        "gpu": gpu.name,
        "driver": gpu.driver,
        "platform": this_platform(),
    }


def build_plan(
    onnx_path: Path,
    out_path: Path,
    flavour: str,
    profile: Mapping[str, Shapes],
    *,
    graph: str,
    precision: str,
    command: str,
    settings: PlanSettings = PlanSettings(),  # noqa: B008 - frozen
    gate: Mapping[str, Any] | None = None,
    say: Say = lambda text: None,
) -> PlanRecord:
    """Build the plan of one graph, and write it as it is with its record beside it: both whole, or neither.

    Args:
        onnx_path: the graph; its types are the precision.
        out_path: the plan file.
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        profile: for every input its smallest, usual and largest shape.
        graph: name of the graph in its model, for the record.
        precision: ``fp32``, ``fp16`` or ``int8``, for the record.
        command: the command that builds it again, for the record.
        settings: how to build it.
        gate: plain data on how far the graph is from FP32, for the record, as far as known
            (:func:`~trt_landmarks.engines.tensorrt.record.set_gate` puts it there later).
        say: receives progress.

    Returns:
        The record.

    Raises:
        EngineError: naming node and operator if the graph cannot be parsed, or why it cannot be built or written.
        KeyboardInterrupt: if interrupted; nothing is written then.
    """
    start = time.perf_counter()
    trt = load_flavour(flavour)
    version = str(trt.__version__)
    target = build_target(flavour, settings)
    source = _read_source(onnx_path)
    log = Log(trt)
    monitor = _monitor(trt, graph, say)
    with _interruptible(monitor):
        builder = trt.Builder(log.logger)
        network = _parse(trt, builder, log, onnx_path, source)
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)
        if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # else TensorRT for RTX allocates while it runs, and
            config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # its runs cannot be captured as CUDA graphs
        settings.apply(trt, config)
        _set_profile(builder, config, network, profile)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
    monitor.reraise()
    if plan is None:
        raise _build_error(onnx_path, f"{flavour} {version}", log, settings)
    record = PlanRecord(
        graph=graph,
        precision=precision,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        source_sha256=hashlib.sha256(source).hexdigest(),
        flavour=flavour,
        version=version,
        target=target,
        settings=settings,
        profile=dict(profile),
        inputs=network_inputs(network),
        outputs=network_outputs(network),
        network=network_facts(network),
        gate=dict(gate or {}),
        command=command,
        seconds=round(time.perf_counter() - start, 1),
    )
    _write(out_path, plan, record)
    return record


def _read_source(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineError(f"{path}: cannot be read: {error.strerror}.", "Export the bundle again.") from None


def _parse(trt: ModuleType, builder: Any, log: Log, path: Path, source: bytes) -> Any:
    """The network of a graph: of the very bytes whose SHA-256 is recorded."""
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # the only kind since TensorRT 11
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, log.logger)
    parsed = parser.parse(source)
    if not parsed or not network.num_inputs or not network.num_outputs:  # it parses an empty file without complaint
        reason = "it has no inputs or outputs" if parsed else _parse_errors(parser, log)
        raise EngineError(
            f"{path.name}: {trt.__name__} {trt.__version__} cannot parse this graph: {reason}.",
            "Export the bundle again; if it stays so, please report it with this message.",
            code="graph_refused",
        )
    return network


def _parse_errors(parser: Any, log: Log) -> str:
    """Every parser error with its node."""
    texts = []
    for n in range(parser.num_errors):
        error = parser.get_error(n)
        where = f"node {error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
        texts.append(f"{where}{error.desc().strip().rstrip('.')}")
    return "; ".join(texts) or log.last()


def _set_profile(builder: Any, config: Any, network: Any, profile: Mapping[str, Shapes]) -> None:
    """One optimization profile over all inputs."""
    names = {network.get_input(n).name for n in range(network.num_inputs)}
    if names != set(profile):
        raise EngineError(f"The graph's inputs are {', '.join(sorted(names))}, not {', '.join(sorted(profile))}.")
    shapes = builder.create_optimization_profile()
    for name, (smallest, usual, largest) in profile.items():
        with contextlib.suppress(Exception):  # a refusal is told by the profile, which is then not valid
            shapes.set_shape(name, smallest, usual, largest)
    if not shapes or config.add_optimization_profile(shapes) < 0:
        raise EngineError(f"TensorRT refuses the shapes {dict(profile)}.", code="shape_refused")


def _build_error(path: Path, builder: str, log: Log, settings: PlanSettings) -> EngineError:
    remedy = ""
    short = any("OutOfMemory" in text or "workspace" in text.lower() for text in log.errors)
    if settings.workspace_bytes is not None and short:
        remedy = f"Give it more workspace than {settings.workspace_bytes / 2**20:.0f} MiB."
    return EngineError(f"{path.name}: {builder} cannot build this graph: {log.last()}.", remedy, code="build_failed")


def _monitor(trt: ModuleType, name: str, say: Say) -> Any:
    """Reports a build's progress and ends it when interrupted.

    TensorRT calls it from native code, where an exception would be lost: it is kept and raised afterwards.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.spoken = time.monotonic()
            self.error: BaseException | None = None

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self.steps[phase] = steps

        def phase_finish(self, phase: str) -> None:
            self.steps.pop(phase, None)

        def step_complete(self, phase: str, step: int) -> bool:
            try:
                if time.monotonic() - self.spoken > PROGRESS_SECONDS:
                    self.spoken = time.monotonic()
                    say(f"  {name}: {phase} {step + 1}/{self.steps.get(phase, step + 1)}")
            except BaseException as error:  # KeyboardInterrupt above all
                self.stop(error)
            return self.error is None

        def stop(self, error: BaseException) -> None:
            """End the build at its next step, because of an error."""
            self.error = error

        def reraise(self) -> None:
            """Raise what ended the build, if anything did."""
            if self.error is not None:
                raise self.error

    return Monitor()


@contextlib.contextmanager
def _interruptible(monitor: Any) -> Iterator[None]:
    """Let Ctrl-C end a build at its next step.

    TensorRT calls its logger and its monitor all the time, and an exception that is raised within one of them is
    printed and lost (TensorRT for RTX 1.7): a KeyboardInterrupt would often do nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: monitor.stop(KeyboardInterrupt()))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


def _write(path: Path, plan: Any, record: PlanRecord) -> None:
    """Put plan and record in place, the plan last: a plan never appears without its record."""
    record.write(path)
    try:
        write_bytes(path, plan, EngineError)
    except BaseException:
        for file in (path, record_path(path)):
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
        raise
