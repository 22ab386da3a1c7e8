"""The localizers that share a folder: two for each GPU, or several on the CPU's cores."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.bundles.select import open_engine
from trt_landmarks.engines.base import Engine
from trt_landmarks.engines.tensorrt.flavours import FLAVOURS
from trt_landmarks.errors import EngineError
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.localization.pose import PosingLocalizer
from trt_landmarks.localization.whole_scan import WholeScanLocalizer, check_as_is
from trt_landmarks.preprocessing.reference import Preprocessor
from trt_landmarks.preprocessing.select import open_preprocessor
from trt_landmarks.runs.memory import MemoryBudget, plan_memory
from trt_landmarks.system import cores

AnyLocalizer = Localizer | WholeScanLocalizer

#: Workers that share a folder on the CPU, at most: each takes memory for what it computes.
MOST_WORKERS = 4
#: Workers on each GPU: while one waits for its scan's upload, the other's nets run.
LANES = 2
#: Readers beside GPUs, at most: each takes memory for what it reads.
MOST_READERS = 8


@dataclass(frozen=True)
class Workers:
    """Localizers, and what they are.

    Attributes:
        localizers: each computes in a thread of its own; on the CPU they share one engine.
        engine: the first one's engine.
        note: which engine it is and why, for people.
        preprocessing: what samples the coarse net's input, for people.
        pose: what is done about the pose of scans; ``as-is`` where ``auto`` cannot be had.
        memory: what they leave for scans; None if there is no limit.
    """

    localizers: list[AnyLocalizer]
    engine: Engine
    note: str
    preprocessing: str
    pose: str = "as-is"
    memory: MemoryBudget | None = None


def side_by_side(batches: int, threads: int | None = None, jobs: int | None = None) -> tuple[int, int | None]:
    """How many workers share a folder on the CPU, and how many threads each of them has.

    Workers of one thread each get more done than one worker with all threads, which wait for each other between
    operators (on two cores 1.2 times as much: ``benchmarks/results/throughput.md``; more cores were not measured).
    But the last batches then run on a part of the cores, so that every worker should have two batches at least.

    Args:
        batches: how many there are to compute.
        threads: of all workers together; None for all cores.
        jobs: how many workers are wanted; None for at most :data:`MOST_WORKERS`, with two batches each at least.

    Returns:
        Workers, and threads each; None lets the engine take all cores.
    """
    shared = threads or cores()
    workers = jobs or min(shared, MOST_WORKERS, batches // 2)
    return (workers, -(-shared // workers)) if workers > 1 else (1, threads)


def readers_for(localizers: Sequence[AnyLocalizer]) -> int:
    """How many threads read: on the CPU one for each worker, beside GPUs one for each core.

    On the CPU, reading takes its time from computing: two readers beside two workers are hardly better than one
    (``benchmarks/results/throughput-large.md``).  A GPU leaves the cores to reading, and two readers on two cores get
    twice as much done as one (the same table); how many a GPU keeps busy was not measured.
    """
    if any(localizer.engine.provider == "GPU" for localizer in localizers):
        return min(cores(), MOST_READERS)
    return len(localizers)


def open_workers(
    bundle: Bundle,
    batches: int,
    *,
    engine: str = "auto",
    precision: str | None = None,
    preprocess: str = "auto",
    threads: int | None = None,
    devices: tuple[int, ...] = (),
    jobs: int | None = None,
    pose: str = "auto",
    tta: bool = False,
) -> Workers:
    """Open what works on a folder.

    Args:
        bundle: the model.
        batches: how many there are to compute.
        engine: see :func:`~trt_landmarks.bundles.select.open_engine`.
        precision: the same.
        preprocess: see :func:`~trt_landmarks.preprocessing.select.open_preprocessor`.
        threads: on the CPU, of all workers together; None for all cores.
        devices: numbers of GPUs, :data:`LANES` workers each; none given: the first GPU, or the CPU.
        jobs: workers on the CPU; None for as many as help, see :func:`side_by_side`.
        pose: see :class:`~trt_landmarks.localization.pose.PosingLocalizer`; TensorRT's graph of the whole method sees
            scans as they lie only, which ``auto`` allows.
        tta: the same.

    Raises:
        TrtlmError: if a pose is to be searched, or views averaged, with what cannot do it.
        EngineError: if an explicit choice cannot be had, with the reason and what to do.
    """
    count, each = side_by_side(batches, threads, jobs)
    localizers: list[AnyLocalizer] = []
    opened: list[Engine] = []
    for device in devices or (0,):
        for _ in range(min(batches, LANES)):
            one, note = open_engine(bundle, engine, precision, each, device, count)
            on_gpu = one.provider == "GPU"
            if devices and not on_gpu:
                raise EngineError(
                    f"GPUs {', '.join(map(str, devices))} were asked for, and this would run as: {note}.",
                    "Leave --devices out, or build the model for TensorRT: trtlm build; see trtlm doctor.",
                    code="engine_missing",
                )
            opened.append(one)
            preprocessor, preprocessing = open_preprocessor(preprocess, device if on_gpu else None, threads)
            localizers.append(localizer_for(bundle, one, preprocessor, pose, tta))
            if not on_gpu:
                break
    if jobs is not None and opened[0].provider == "GPU":
        raise EngineError(
            f"--jobs is for the CPU, and this would run as: {note}.", "Leave it out; --devices takes several GPUs."
        )
    if len(devices) > 1:
        note += f"; on each of GPUs {', '.join(map(str, devices))}"
    if opened[0].provider != "GPU" and count > 1:
        localizers *= count  # they share the engine
        note += f"; {count} workers with {each} thread{'s' if each != 1 else ''} each"
    first = localizers[0]
    return Workers(
        localizers, opened[0], note, preprocessing, first.pose if isinstance(first, PosingLocalizer) else "as-is"
    )


def localizer_for(
    bundle: Bundle, engine: Engine, preprocessor: Preprocessor | None = None, pose: str = "auto", tta: bool = False
) -> PosingLocalizer | WholeScanLocalizer:
    """The localizer that an engine needs: TensorRT runs the whole method, the others its nets.

    Raises:
        TrtlmError: if a pose is to be searched, or views averaged, with what cannot do it.
    """
    if engine.name in FLAVOURS:
        check_as_is(pose, tta)
        return WholeScanLocalizer(bundle.task, engine, preprocessor, bundle.confidence)
    return PosingLocalizer(bundle.task, bundle.mean_shape, engine, preprocessor, bundle.confidence, pose=pose, tta=tta)


def within_memory(workers: Workers, limit: int, batch: int, reopen: Callable[[int], Workers]) -> Workers:
    """The workers, or fewer, so that they and the scans stay within a limit of memory.

    Args:
        workers: that were opened without one.
        limit: bytes for the whole process.
        batch: scans that go through the nets together.
        reopen: opens so many workers on the CPU.

    Raises:
        TrtlmError: if not even one of them, or not one for every GPU, stays within it.
    """
    wanted = len(workers.localizers)
    count, budget = plan_memory(limit, workers.localizers[0], wanted, batch)
    if count < wanted:
        if workers.engine.provider == "GPU":
            raise EngineError(f"memory for {wanted} GPUs is not allowed.", "Name fewer devices, or allow more memory.")
        workers = reopen(count)
        workers = replace(workers, note=f"{workers.note}; {count} of {wanted} workers, because memory is limited")
    return replace(workers, memory=budget)


def parse_devices(text: str | None) -> tuple[int, ...]:
    """Numbers of GPUs from ``0,1``.

    Raises:
        EngineError: if it is anything else, or names one twice.
    """
    if text is None:
        return ()
    if not re.fullmatch(r"\d+(,\d+)*", text) or len(set(text.split(","))) < len(text.split(",")):
        raise EngineError(f"--devices {text}: is not a list of GPUs.", "Write numbers with commas: --devices 0,1.")
    return tuple(int(number) for number in text.split(","))
