"""The sections beside TensorRT's own runs: DALI and its hand-over, forms of the nets, and what others are as fast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.gpu_check.rows import MEASURED, NOT_RUN, Row, latency, row, verdict
from benchmarks.gpu_check.sections import SAME_MM, Setting, any_engine, pycuda
from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.tensorrt.check import Plan
from trt_landmarks.engines.tensorrt.engine import TensorRTEngine
from trt_landmarks.engines.tensorrt.flavours import FLAVOURS, load_flavour
from trt_landmarks.errors import EngineError
from trt_landmarks.localization.localizer import Localizer, coarse_grid
from trt_landmarks.localization.whole_scan import WholeScanLocalizer
from trt_landmarks.preprocessing.dali import DaliPreprocessor
from trt_landmarks.preprocessing.reference import ReferencePreprocessor
from trt_landmarks.preprocessing.sampling import intensity_range
from trt_landmarks.scan import Scan
from trt_landmarks.task.graphs import COARSE, net_profiles

#: The largest difference of a volume between preprocessors, of its range 0..1.
VOLUME_TOLERANCE = 1e-3
#: Hand-overs from DALI to TensorRT.
TURNS = 40


def dali(setting: Setting) -> Iterator[Row]:
    """DALI on the GPU: its numbers, and its buffers taken by TensorRT where they lie, in the right order."""
    bundle, scans = setting.bundle(), setting.read()
    grids = [coarse_grid(bundle.task, scan) for scan in scans]
    ranges = [intensity_range(scan.voxels, bundle.task.intensity) for scan in scans]
    on_gpu = DaliPreprocessor(0)
    found = on_gpu.coarse_volumes(scans, grids, ranges)
    for name, other in (("DALI's CPU", DaliPreprocessor()), ("the reference", ReferencePreprocessor())):
        apart = float(np.abs(found - other.coarse_volumes(scans, grids, ranges)).max())
        yield verdict(f"GPU against {name}", apart <= VOLUME_TOLERANCE, "it is too large", max_difference=apart)
    try:
        engine = any_engine(bundle)
    except EngineError as error:
        yield row("hand-over to TensorRT", NOT_RUN, str(error))
        return
    expected = [WholeScanLocalizer(bundle.task, engine).localize(scan).points for scan in scans]
    wrong = _wrong(WholeScanLocalizer(bundle.task, engine, on_gpu), scans, expected)
    yield verdict("hand-over to TensorRT", wrong == 0, "points differ: the engine read too early",
                  turns=TURNS, wrong=wrong)  # fmt: skip
    cuda, context = pycuda()
    context.push()
    elsewhere = cuda.Stream(1)
    early = _wrong(WholeScanLocalizer(bundle.task, engine, _Elsewhere(on_gpu, int(elsewhere.handle))), scans, expected)
    elsewhere.synchronize()
    del elsewhere
    context.pop()
    yield row("without the wait", MEASURED, "" if early else "the race does not show itself", wrong=early)
    engine.close()


class _Elsewhere:
    """DALI that lets another stream wait than the engine's: a race."""

    name = "dali"

    def __init__(self, on_gpu: DaliPreprocessor, stream: int) -> None:
        self._on_gpu, self._stream = on_gpu, stream
        self.coarse_volumes = on_gpu.coarse_volumes

    def scan_volumes(self, scan: Scan, grid: Any, intensities: Any, stream: int | None) -> Any:
        return self._on_gpu.scan_volumes(scan, grid, intensities, self._stream)


def _wrong(localizer: WholeScanLocalizer, scans: list[Scan], expected: list[Any]) -> int:
    """How often of :data:`TURNS` points are not those that the same engine finds with inputs from the host."""
    wrong = 0
    for turn in range(TURNS):
        n = turn % len(scans)
        # DALI's samples differ from the reference's by less than this
        wrong += not np.abs(localizer.localize(scans[n]).points - expected[n]).max() <= 100 * SAME_MM
    return wrong


def variants(setting: Setting) -> Iterator[Row]:
    """The fine nets in forms that compute the same, alone, as CUDA graphs: which one does this GPU like?"""
    from trt_landmarks.export.fine_forms import FORMS, in_form
    from trt_landmarks.export.onnx_graphs import export_graph
    from trt_landmarks.export.weights import nets_from_bundle
    from trt_landmarks.nets.folding import folded

    bundle, scan = setting.bundle(), setting.read(1)[0]
    inputs, nets = net_inputs(bundle, scan), nets_from_bundle(bundle, [scan])
    for flavour in FLAVOURS:
        try:
            load_flavour(flavour)
        except EngineError as error:
            yield row(flavour, NOT_RUN, error.message)
            continue
        for form in FORMS:
            for graph, array in inputs.items():
                if graph == COARSE:
                    continue
                what = f"{flavour} {graph} {form}"
                with TemporaryDirectory() as name:
                    path = Path(name) / f"{graph}.onnx"
                    export_graph(in_form(folded(nets[graph]), form), graph, array.shape[1:], path)
                    yield _timed(bundle, flavour, graph, path, array, what)


def _timed(bundle: Bundle, flavour: str, graph: str, path: Path, array: Any, what: str) -> Row:
    from trt_landmarks.engines.tensorrt.build import build_plan

    try:
        plan = path.with_suffix(".plan")
        record = build_plan(
            path, plan, flavour, net_profiles(bundle.task)[graph], graph=graph, precision="fp32", command="gpu_check"
        )
        engine = TensorRTEngine({graph: Plan(plan, record.source_sha256)}, flavour, "fp32")
    except EngineError as error:
        return row(what, NOT_RUN, str(error))
    found = latency(lambda: engine.run(graph, array))
    engine.close()
    return row(what, MEASURED, build_seconds=record.seconds, plan_layers=record.network.layers, latency=found)


def baselines(setting: Setting) -> Iterator[Row]:
    """The same nets, with the same weights and inputs, in PyTorch at its best and in ONNX Runtime's CUDA provider."""
    bundle, scan = setting.bundle(), setting.read(1)[0]
    inputs = net_inputs(bundle, scan)
    yield from _torch(bundle, scan, inputs)
    try:
        engine = OnnxRuntimeEngine(bundle.graphs, provider="CUDAExecutionProvider")
    except EngineError as error:
        yield row("ONNX Runtime's CUDA provider", NOT_RUN, error.message)
        return

    def run() -> None:
        for graph, array in inputs.items():
            engine.run(graph, array)

    yield row("ONNX Runtime's CUDA provider", MEASURED, latency=latency(run))


def _torch(bundle: Bundle, scan: Scan, inputs: dict[str, Any]) -> Iterator[Row]:
    try:
        import torch

        from trt_landmarks.export.weights import nets_from_bundle
        from trt_landmarks.nets.folding import folded
    except ImportError as error:
        yield row("PyTorch", NOT_RUN, f"{error.name} is not installed")
        return
    if not torch.cuda.is_available():
        yield row("PyTorch", NOT_RUN, f"PyTorch {torch.__version__} cannot use this GPU")
        return
    nets = {graph: folded(net).cuda().eval() for graph, net in nets_from_bundle(bundle, [scan]).items()}
    half = [torch.from_numpy(array).cuda() for array in inputs.values()]
    last = [tensor.to(memory_format=torch.channels_last_3d) for tensor in half]

    def forward(models: Any, tensors: Any, amp: bool) -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=amp):
            for model, tensor in zip(models, tensors, strict=True):
                model(tensor)

    def synchronized(call: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            call()
            torch.cuda.synchronize()

        return run

    def plain() -> Callable[[], None]:
        return lambda: forward(nets.values(), half, False)

    def amp() -> Callable[[], None]:
        for net in nets.values():
            net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        return lambda: forward(nets.values(), last, True)

    def graph() -> Callable[[], None]:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(3):
                forward(nets.values(), last, True)
        stream.synchronize()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            forward(nets.values(), last, True)
        return captured.replay

    def compiled() -> Callable[[], None]:
        models = [torch.compile(net) for net in nets.values()]
        return lambda: forward(models, last, True)

    ways = (("plain", plain), ("AMP and channels_last_3d", amp), ("CUDA graph of these", graph), ("compiled", compiled))
    for name, make in ways:
        what = f"PyTorch {name}, the nets alone, inputs on the GPU"
        try:
            yield row(what, MEASURED, latency=latency(synchronized(make())))
        except Exception as error:  # of a kernel or a compiler: the next may run
            yield row(what, NOT_RUN, (str(error).strip().splitlines() or [type(error).__name__])[0])


def net_inputs(bundle: Bundle, scan: Scan) -> dict[str, Any]:
    """The nets' inputs of one scan: graph name to ``[1, C, Z, Y, X]``, float32."""
    from trt_landmarks.export.parity import real_inputs

    return dict(real_inputs(Localizer(bundle.task, bundle.mean_shape, OnnxRuntimeEngine(bundle.graphs)), [scan]))
