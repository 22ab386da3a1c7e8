"""The whole benchmark: which scans, which ways, in which order, and the report as plain data."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks.bench import machine
from trt_landmarks.bench.measure import (
    MOST_RUNS,
    MOST_SECONDS,
    STABLE_RATIO,
    STABLE_RUNS,
    Say,
    Subject,
    folder_turns,
    take_turns,
)
from trt_landmarks.bench.pytorch import write_nets
from trt_landmarks.bench.report import SCHEMA_VERSION, accuracy, describe_way, ratios
from trt_landmarks.bench.scans import annotated, choose_files, unseen
from trt_landmarks.bench.statistics import ratio, spread, summarize
from trt_landmarks.bench.ways import (
    BASELINES,
    DEFAULT,
    ENGINES,
    FOLDER,
    ONNXRUNTIME,
    PREPROCESSING,
    Spec,
    Way,
    list_ways,
)
from trt_landmarks.bundles.builds import PRECISIONS
from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.errors import BundleError, EngineError
from trt_landmarks.scan import ScanFile, read_scan
from trt_landmarks.system import cores, install_command


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: see :func:`~trt_landmarks.bundles.bundle.open_bundle`.
        scans: scan files or a folder of them; None takes the mouse skulls of ``TRTLM_DATA``.
        landmarks: folder of annotations; None looks for ``landmarks/`` in or beside the scans.
        engines: of :data:`~trt_landmarks.bench.ways.ENGINES`.
        precisions: of ``fp32``, ``fp16``, ``int8``.
        count: scans of a round.
        rounds: how often every way runs every scan.
        cold: fresh processes of every way.
        folder: scans of the folder whose throughput is measured; 0 for none.
        folder_rounds: how often.
        threads: of every way on the CPU; None for all cores.
        device: of PyTorch: ``cpu``, ``cuda`` or ``auto``.
    """

    model: str | None = None
    scans: Path | None = None
    landmarks: Path | None = None
    engines: tuple[str, ...] = ENGINES
    precisions: tuple[str, ...] = PRECISIONS
    count: int = 5
    rounds: int = 5
    cold: int = 2
    folder: int = 12
    folder_rounds: int = 2
    threads: int | None = None
    device: str = "auto"


def bench(settings: Settings, say: Say = lambda text: None) -> dict[str, Any]:
    """Measure, and give the report (``bench.schema.json``).

    Raises:
        TrtlmError: if the model, the scans or the settings cannot be used, or no way runs.
    """
    bundle = open_bundle(settings.model)
    all_files = choose_files(bundle, settings.scans)
    files = all_files[: settings.count]
    for file in files:
        read_scan(file.path)  # better an error now than one for every way
    threads = settings.threads or cores()
    subjects, not_run = [], []
    for way in list_ways(bundle, settings.engines, settings.precisions):
        spec = Spec(way.name, way.engine, way.precision, _model(bundle), threads=threads)
        if way.problem:
            not_run.append({"way": way.name, "reason": way.problem})
        else:
            subjects.append(Subject(way, spec))
    report: dict[str, Any] = {"machine": machine.describe()}
    with tempfile.TemporaryDirectory(prefix="trtlm-bench-") as name:
        folder = Path(name)
        try:
            subjects = _with_torch(settings, bundle, subjects, files[0], folder, not_run, say)
            subjects = _started(subjects, files[0], folder, settings.cold, not_run, say)
            ways = [one for one in subjects if one.way.name not in PREPROCESSING]
            prepared = [one for one in subjects if one.way.name in PREPROCESSING]
            if not subjects:
                reasons = "; ".join(f"{entry['way']}: {entry['reason']}" for entry in not_run)
                raise EngineError(f"None of the ways runs here: {reasons}.", "See trtlm doctor.")
            shares = take_turns(ways, files, settings.rounds, folder, say) if ways else []
            volumes = _preprocessing(prepared, files, settings.rounds, folder, not_run)
            throughput = _throughput(settings, ways, all_files[: settings.folder], folder, not_run, say)
        finally:
            for subject in subjects:
                subject.finish()
    not_run += [{"way": one.way.name, "reason": one.problem} for one in ways if one.problem]
    complete = [one for one in ways if not one.problem]
    truth = annotated(bundle, files, settings.scans, settings.landmarks)
    told = {
        "schema_version": SCHEMA_VERSION,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": {"name": bundle.name, "sha256": bundle.sha256, "landmarks": len(bundle.task.landmarks)},
        "scans": {
            "ids": [file.id for file in files],
            "unseen_in_training": [f.id for f in files if f.id in unseen(bundle)],
        },
        **report,
        "versions": machine.versions(),
        "commit": machine.commit(),
        "method": _method(settings, threads, _device(settings)),
        "share_of_others": spread(shares) if shares and np.isfinite(shares).all() else None,
        "ways": [describe_way(one) for one in complete],
        "ratios": ratios(complete),
        "accuracy": accuracy(bundle, complete, truth),
        "preprocessing": volumes,
        "throughput": throughput,
        "not_run": not_run,
    }
    return dict(machine.scrubbed(told))


def _with_torch(
    settings: Settings, bundle: Bundle, subjects: list[Subject], first: ScanFile, folder: Path,
    not_run: list[dict[str, str]], say: Say,
) -> list[Subject]:  # fmt: skip
    """The subjects, those of PyTorch with their nets, or without them where they cannot have any."""
    wanted = [one for one in subjects if one.way.name in BASELINES]
    if not wanted:
        return subjects
    say("taking the nets to PyTorch")
    try:
        write_nets(bundle, read_scan(first.path), folder)
    except (ModuleNotFoundError, BundleError) as error:
        reason = str(error)
        if isinstance(error, ModuleNotFoundError):
            reason = f"the package {error.name} is not installed ({install_command('bench')})"
        not_run.extend({"way": one.way.name, "reason": reason} for one in wanted)
        return [one for one in subjects if one not in wanted]
    for subject in wanted:
        subject.spec = replace(subject.spec, nets=str(folder), device=_device(settings))
    return subjects


def _started(
    subjects: Sequence[Subject], first: ScanFile, folder: Path, cold: int, not_run: list[dict[str, str]], say: Say
) -> list[Subject]:
    """Those that run; the others' reasons go to ``not_run``."""
    running = []
    for subject in subjects:
        say(f"starting {subject.way.name}")
        try:
            subject.start(first, folder, 1 if subject.way.name in PREPROCESSING else cold)
        except EngineError as error:
            subject.close()
            not_run.append({"way": subject.way.name, "reason": error.message})
        else:
            running.append(subject)
    return running


def _preprocessing(
    subjects: Sequence[Subject], files: Sequence[ScanFile], rounds: int, folder: Path, not_run: list[dict[str, str]]
) -> list[dict[str, Any]]:
    """Rows of the preprocessing alone: times, and how far the last scan's volume is from the reference."""
    if not subjects:
        return []
    take_turns(subjects, files, 1, folder)  # so that every scan is in memory; it does not count
    for subject in subjects:
        subject.samples.clear()
        subject.stages.clear()
        subject.cpu.clear()
    take_turns(subjects, files, rounds, folder)
    not_run += [{"way": one.way.name, "reason": one.problem} for one in subjects if one.problem]
    rows, reference = [], None
    for subject in (one for one in subjects if not one.problem):
        volume = np.load(subject.out(folder).with_suffix(".json.npy"))
        reference = volume if reference is None else reference
        times = [value for values in subject.samples.values() for value in values]
        first = [value for values in subjects[0].samples.values() for value in values]
        rows.append({
            "way": subject.way.name, "note": subject.note, "ms": summarize(times).to_dict(),
            "times_as_fast_as_reference": None if subject is subjects[0] else ratio(first, times).to_dict(),
            "largest_difference": float(np.abs(volume - reference).max()),
        })  # fmt: skip
    return rows


def _throughput(
    settings: Settings, ways: Sequence[Subject], files: Sequence[ScanFile], folder: Path,
    not_run: list[dict[str, str]], say: Say,
) -> dict[str, Any] | None:  # fmt: skip
    """Scans per second over a folder: the default way one by one, and with all that overlaps."""
    alone = next((one for one in ways if one.way.name == DEFAULT and not one.problem), None)
    if not files or alone is None:
        return None
    way = Way(FOLDER, "reading, computing and writing overlap, as in trtlm infer of a folder", ONNXRUNTIME)
    pipelined = Subject(way, replace(alone.spec, way=FOLDER, batches=len(files)))
    try:
        pipelined.start(files[0], folder)
        taken = folder_turns([alone, pipelined], files, settings.folder_rounds, folder, say)
    except EngineError as error:
        pipelined.problem = error.message
    finally:
        pipelined.finish()
    if alone.problem or pipelined.problem:
        not_run.append({"way": FOLDER, "reason": alone.problem or pipelined.problem})
        return None
    rates = {name: [len(files) / value for value in values] for name, values in taken.items()}
    return {
        "scans": len(files),
        "rounds": settings.folder_rounds,
        "note": pipelined.note,
        "one_by_one_per_second": spread(rates[DEFAULT]),
        "pipelined_per_second": spread(rates[FOLDER]),
        "times_as_fast": ratio(taken[DEFAULT], taken[FOLDER]).to_dict(),
        "pipelined_host_peak_mib": pipelined.host_peak_mib,
        "seconds": {name: [round(value, 3) for value in values] for name, values in taken.items()},
    }


def _model(bundle: Bundle) -> str:
    return bundle.name if bundle.shipped else str(bundle.root.resolve())


def _device(settings: Settings) -> str:
    if settings.device != "auto":
        return settings.device
    try:
        import torch
    except ModuleNotFoundError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def _method(settings: Settings, threads: int, device: str) -> dict[str, Any]:
    """How it was measured, as plain data."""
    return {
        "rounds": settings.rounds,
        "scans": settings.count,
        "threads": threads,
        "torch_device": device,
        "cold_processes": settings.cold,
        "warm_up": f"until the last {STABLE_RUNS} runs are within {100 * (STABLE_RATIO - 1):.0f} %, "
                   f"at most {MOST_RUNS} runs or {MOST_SECONDS:.0f} s",
        "order": "every way runs every scan once a round; the order of the ways turns from scan to scan",
        "outliers": "none removed",
    }  # fmt: skip
