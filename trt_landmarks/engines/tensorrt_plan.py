"""Building plans: from an ONNX graph to the file TensorRT runs, in either flavour.

Networks are strongly typed, so precision comes from the graph alone, and TF32 is off: an FP32 layer (the decoding
above all) computes in FP32.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from trt_landmarks.engines.gpu import first_gpu, gpu_problem
from trt_landmarks.errors import EngineError

#: Flavour to its Python module and to what installs it.
FLAVOURS = {"tensorrt": ("tensorrt", "gpu"), "tensorrt-rtx": ("tensorrt_rtx", "rtx")}
#: What TensorRT for RTX builds for unless told otherwise.
PORTABLE = "8.0, 8.6, 8.9, 12.0 and later (portable)"
#: Seconds between two lines of progress.
PROGRESS_SECONDS = 5.0

#: Smallest, usual and largest shape of an input.
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def load_flavour(name: str) -> ModuleType:
    """The Python module of ``tensorrt`` or ``tensorrt-rtx``.

    Raises:
        EngineError: if it is not installed or cannot be loaded.
    """
    module, extra = FLAVOURS[name]
    try:
        loaded = importlib.import_module(module)
        loaded.Builder, loaded.OnnxParser, loaded.__version__  # noqa: B018 - a stub package has none of these
    except Exception as error:  # the packages raise OSError and RuntimeError for missing libraries
        raise EngineError(
            f"{name} cannot be used: the Python module {module} is not installed or does not load ({error}).",
            f"Install it with: pip install 'trt-landmarks[{extra}]'.",
        ) from None
    return loaded


def build_target(flavour: str, targets: Sequence[str] = ()) -> dict[str, str]:
    """What a plan built now will run on: the GPU here, or for RTX the compute capabilities it is built for.

    Raises:
        EngineError: if TensorRT proper would have to build without a GPU, or is given targets.
    """
    if flavour == "tensorrt-rtx":
        return {"compute_capability": ", ".join(targets) or PORTABLE}
    if targets:
        raise EngineError("tensorrt builds for the GPU of the machine it runs on; it takes no other target.")
    gpu = first_gpu()
    if gpu is None:
        raise EngineError(
            f"tensorrt builds plans on the GPU that will run them, and {gpu_problem()}.",
            "Build on the GPU machine, or take --engine tensorrt-rtx, which builds without one.",
        )
    return {"gpu": gpu.name, "compute_capability": gpu.compute_capability, "driver": gpu.driver}


def build_plan(
    onnx_path: Path,
    out_path: Path,
    flavour: str,
    profile: Mapping[str, Shapes],
    *,
    workspace: int | None = None,
    optimization_level: int | None = None,
    targets: Sequence[str] = (),
    timing_cache: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Build the plan of one graph and write it as it is, whole or not at all.

    Args:
        onnx_path: the graph; its types are the precision.
        out_path: the plan file.
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        profile: for every input its smallest, usual and largest shape.
        workspace: most scratch memory of the GPU, in bytes; None leaves TensorRT's default.
        optimization_level: 0 to 5; None leaves TensorRT's default.
        targets: compute capabilities to build for, e.g. ``"7.5"`` (TensorRT for RTX only; none: portable).
        timing_cache: file of measured kernel times to read and to write (TensorRT proper).
        say: receives progress.

    Returns:
        Plain data: ``inputs`` and ``outputs`` (names in the graph's order), ``layers`` and ``seconds``.

    Raises:
        EngineError: naming node and operator if the graph cannot be parsed, or why it cannot be built.
    """
    start = time.perf_counter()
    trt = load_flavour(flavour)
    build_target(flavour, targets)
    log = collector(trt)
    builder = trt.Builder(log)
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # the only kind since TensorRT 11
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx_path)):
        raise EngineError(
            f"{onnx_path.name}: {flavour} {trt.__version__} cannot parse this graph: {_parse_errors(parser, log)}.",
            "Export the bundle again; if it stays so, please report it with this message.",
            code="graph_refused",
        )
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    if optimization_level is not None:
        config.builder_optimization_level = optimization_level
    _set_targets(trt, config, targets)
    _set_profile(builder, config, network, profile)
    cache = _timing_cache(config, timing_cache)
    monitor = _monitor(trt, onnx_path.stem, say)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    monitor.reraise()
    if plan is None:
        raise EngineError(
            f"{onnx_path.name}: {flavour} {trt.__version__} cannot build this graph: {log.last()}.", code="build_failed"
        )
    _write(out_path, plan)
    if cache is not None and timing_cache is not None:
        _write(timing_cache, cache.serialize())
    return {
        "inputs": [network.get_input(n).name for n in range(network.num_inputs)],
        "outputs": [network.get_output(n).name for n in range(network.num_outputs)],
        "layers": network.num_layers,
        "seconds": round(time.perf_counter() - start, 1),
    }


def collector(trt: ModuleType) -> Any:
    """A TensorRT logger that keeps warnings and errors instead of printing them."""

    class Collector(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.errors.append(" ".join(message.split()))

        def last(self) -> str:
            """The last errors, for a message."""
            return "; ".join(self.errors[-3:]).rstrip(".") or "it gives no reason"

    return Collector()


def _parse_errors(parser: Any, log: Any) -> str:
    """Every parser error with its node."""
    texts = []
    for n in range(parser.num_errors):
        error = parser.get_error(n)
        where = f"node {error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
        texts.append(f"{where}{error.desc().strip().rstrip('.')}")
    return "; ".join(texts) or log.last()


def _set_targets(trt: ModuleType, config: Any, targets: Sequence[str]) -> None:
    if not targets:
        return
    config.num_compute_capabilities = len(targets)
    for n, target in enumerate(targets):
        capability = getattr(trt.ComputeCapability, f"SM{target.replace('.', '')}", None)
        if capability is None:
            known = [name[2:-1] + "." + name[-1] for name in dir(trt.ComputeCapability) if name.startswith("SM")]
            raise EngineError(
                f"{trt.__name__} {trt.__version__} cannot build for compute capability {target}.",
                f"It knows {', '.join(known)}.",
            )
        config.set_compute_capability(capability, n)


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


def _timing_cache(config: Any, path: Path | None) -> Any:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _monitor(trt: ModuleType, name: str, say: Callable[[str], None]) -> Any:
    """Reports a build's progress and ends it when interrupted.

    TensorRT calls it from native code, which no exception may cross: it is kept and raised afterwards.
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
                self.error = error
            return self.error is None

        def reraise(self) -> None:
            if self.error is not None:
                raise self.error

    return Monitor()


def _write(path: Path, content: Any) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with _removed(temporary):
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


@contextlib.contextmanager
def _removed(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
