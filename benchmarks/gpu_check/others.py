"""The sections beside TensorRT's own runs: hand-over between streams, DALI, ONNX Runtime's CUDA provider, PyTorch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.gpu_check.rows import FAILED, MEASURED, NOT_RUN, Row, latency, row, verdict
from benchmarks.gpu_check.sections import (
    SAME_MM,
    VOLUME_TOLERANCE,
    Setting,
    compared,
    localizer_of,
    net_inputs,
    nets_engine,
    pycuda,
)
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.engines.tensorrt.memory import FINISHED, DeviceArray
from trt_landmarks.errors import EngineError
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.preprocessing.reference import ReferencePreprocessor
from trt_landmarks.preprocessing.sampling import intensity_range
from trt_landmarks.task.graphs import COARSE, NETS

if TYPE_CHECKING:
    from trt_landmarks.engines.tensorrt.engine import TensorRTEngine

#: Hand-overs, and how long the writer is kept busy before it writes, s.
TURNS, DELAY = 20, 0.02
#: Bytes that are copied to and fro to keep it busy.
BALLAST = 256 << 20


def race(setting: Setting) -> Iterator[Row]:
    """A writer on another stream that is late: the engine must wait for it, and reads old data if it does not."""
    bundle = setting.bundle()
    volumes = [net_inputs(bundle, scan)[COARSE] for scan in setting.read(2)]
    if len(volumes) < 2 or np.array_equal(*volumes):
        volumes = [volumes[0], np.ascontiguousarray(volumes[0][..., ::-1])]
    engine = nets_engine(bundle)
    cuda, context = pycuda()
    expected = [engine.run(COARSE, volume)[0] for volume in volumes]
    context.push()
    try:
        wrong, copies = _hand_overs(cuda, engine, volumes, expected)
    finally:
        context.pop()
        engine.close()
    figures = {"turns": TURNS, "writer_copies": copies}
    yield verdict("hand-over with the wait", wrong[True] == 0, "results are wrong", wrong=wrong[True], **figures)
    yield verdict("hand-over without the wait", wrong[False] > 0, "the race does not show itself",
                  wrong=wrong[False], **figures)  # fmt: skip


def _hand_overs(cuda: Any, engine: TensorRTEngine, volumes: Any, expected: Any) -> tuple[dict[bool, int], int]:
    """Wrong results with and without the wait, and by how many copies the writer was kept busy."""
    stream, size = cuda.Stream(1), volumes[0].nbytes  # 1: does not wait for the default stream
    sources = [cuda.mem_alloc(size) for _ in volumes]
    for source, volume in zip(sources, volumes, strict=True):
        cuda.memcpy_htod_async(int(source), volume, stream)
    ballast, target = cuda.mem_alloc(2 * BALLAST), cuda.mem_alloc(size)
    cuda.memcpy_dtod_async(int(target), int(sources[1]), size, stream)
    stream.synchronize()

    def late(copies: int) -> None:
        for _ in range(copies):
            cuda.memcpy_dtod_async(int(ballast), int(ballast) + BALLAST, BALLAST, stream)

    copies, wrong = _copies(late, stream), {True: 0, False: 0}
    for waits in wrong:
        for turn in range(TURNS):
            late(copies)
            cuda.memcpy_dtod_async(int(target), int(sources[turn % 2]), size, stream)
            writer = int(stream.handle) if waits else FINISHED
            (points,) = engine.run(COARSE, DeviceArray(int(target), volumes[0].shape, writer, target))
            wrong[waits] += not np.abs(points - expected[turn % 2]).max() <= SAME_MM
            stream.synchronize()
    for allocation in (*sources, ballast, target):
        allocation.free()
    return wrong, copies


def _copies(late: Any, stream: Any) -> int:
    """How many copies keep the writer busy for :data:`DELAY`."""
    copies = 1
    while copies < 4096:
        start = time.perf_counter()
        late(copies)
        stream.synchronize()
        if time.perf_counter() - start >= DELAY:
            break
        copies *= 2
    return copies


def dali(setting: Setting) -> Iterator[Row]:
    """DALI on the GPU: its numbers, and its volumes taken by TensorRT where they lie."""
    from trt_landmarks.preprocessing.dali import DaliPreprocessor

    bundle, scans = setting.bundle(), setting.read()
    task = bundle.task
    localizer = Localizer(task, bundle.mean_shape, OnnxRuntimeEngine(bundle.graphs))
    grids = [localizer.coarse_grid(scan) for scan in scans]
    ranges = [intensity_range(scan.voxels, task.intensity) for scan in scans]
    on_gpu = DaliPreprocessor(0)
    found = on_gpu.coarse_volumes(scans, grids, ranges)
    for name, other in (("DALI's CPU", DaliPreprocessor()), ("the reference", ReferencePreprocessor())):
        apart = float(np.abs(found - other.coarse_volumes(scans, grids, ranges)).max())
        yield verdict(f"GPU against {name}", apart <= VOLUME_TOLERANCE, "it is too large", max_difference=apart)
    yield row("GPU latency, one scan, to the host", MEASURED,
              latency=latency(lambda: on_gpu.coarse_volumes(scans[:1], grids[:1], ranges[:1])))  # fmt: skip
    try:
        engine = nets_engine(bundle)
    except EngineError as error:
        yield row("hand-over to TensorRT", NOT_RUN, str(error))
        return
    largest, pointers = 0.0, set()
    for turn in range(TURNS):
        n = turn % len(scans)
        batch = on_gpu.on_device([scans[n]], [grids[n]], [ranges[n]], engine.stream)
        tensor = batch.volumes.as_tensor()
        given = DeviceArray.of(tensor, FINISHED)  # DALI made the engine's stream wait
        pointers.add(given.address == tensor.data_ptr())
        (points,) = engine.run(COARSE, given)
        largest = max(largest, float(np.abs(points - engine.run(COARSE, found[n : n + 1])[0]).max()))
    yield verdict("hand-over to TensorRT", largest <= SAME_MM and pointers == {True}, "points differ, or it was copied",
                  turns=TURNS, max_mm=largest)  # fmt: skip
    engine.close()


def onnxruntime_cuda(setting: Setting) -> Iterator[Row]:
    """ONNX Runtime on the GPU.  Its CUDA provider computes in TF32 unless told otherwise, so FP16's limits hold."""
    bundle, scans = setting.bundle(), setting.read()
    try:
        engine = OnnxRuntimeEngine(bundle.graphs, provider="CUDAExecutionProvider")
    except EngineError as error:
        yield row("CUDA provider", NOT_RUN, error.message)
        return
    localizer = localizer_of(bundle, engine, NETS)
    localized = [localizer.localize(scan) for scan in scans]
    yield compared(setting, bundle, localized, "fp16", "against onnxruntime fp32")
    yield row("latency", MEASURED, latency=latency(lambda: localizer.localize(scans[0])))


def torch_nets(setting: Setting) -> Iterator[Row]:
    """The nets in PyTorch on this GPU.  A bundle holds no PyTorch weights, so theirs are random: times only."""
    try:
        import torch
    except ImportError:
        yield row("PyTorch", NOT_RUN, "it is not installed")
        return
    if not torch.cuda.is_available():
        yield row("PyTorch", NOT_RUN, f"PyTorch {torch.__version__} cannot use this GPU")
        return
    from trt_landmarks.nets.model import build_nets

    bundle, scan = setting.bundle(), setting.read(1)[0]
    inputs = net_inputs(bundle, scan)
    for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
        what = f"latency of the nets alone, eager {name}, random weights"
        nets = {graph: net.cuda().eval() for graph, net in build_nets(bundle.task).items()}

        def run(nets: Any = nets, dtype: Any = dtype) -> None:
            with torch.inference_mode(), torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                for graph, array in inputs.items():
                    nets[graph](torch.from_numpy(array).cuda())
            torch.cuda.synchronize()

        try:
            yield row(what, MEASURED, latency=latency(run))
        except RuntimeError as error:
            yield row(what, FAILED, str(error).splitlines()[0])
