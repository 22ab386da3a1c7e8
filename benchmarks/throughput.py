"""Throughput over a folder on the CPU: the pipeline against one scan after another, and against its stages alone.

    python -m benchmarks.throughput SCANS --out benchmarks/results/throughput

Every round runs every arm once, in an order that turns from round to round; ratios are taken within a round, and
their median and range over the rounds are given.  An arm begins when other processes leave the cores alone, and is
repeated if they took more than 5 % of them meanwhile (up to 5 times; the least disturbed counts).  With
``--enlarge 3`` the scans are first stored as int16 volumes of 27 times as many voxels, with noise, which makes
reading as dear as it is for a CT of a patient.  With ``--memory 500`` the pipeline runs once over that many scans
(the files again and again), and the resident memory is recorded on the way.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from benchmarks.writing import this_machine, write_results
from trt_landmarks.bench.machine import resident, seconds, undisturbed
from trt_landmarks.bench.statistics import spread
from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
from trt_landmarks.geometry import Geometry
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.results.case import CaseResult
from trt_landmarks.results.predictions import Predictions
from trt_landmarks.runs.run import Run
from trt_landmarks.scan import Scan, ScanFile, find_scans, read_scan, write_scan
from trt_landmarks.system import cores


@dataclass(frozen=True)
class Setting:
    """Workers that compute side by side; ``threads`` for each, or, if ``shared``, for all together."""

    workers: int
    threads: int
    shared: bool = False
    readers: int = 1
    batch: int = 1

    @property
    def name(self) -> str:
        """As in the report."""
        threads = f"{self.threads} thread{'s' * (self.threads > 1)} {'together' if self.shared else 'each'}"
        return f"{self.workers} worker{'s' * (self.workers > 1)}, {threads}, {self.readers} reading, batch {self.batch}"

    def localizers(self, bundle: Bundle) -> list[Localizer]:
        """The workers' localizers.  They share one engine, with a pool of threads that is shared or that is none."""
        engine = OnnxRuntimeEngine(bundle.graphs, threads=self.threads)
        return [Localizer(bundle.task, bundle.mean_shape, engine) for _ in range(self.workers)]


def enlarge(files: Sequence[ScanFile], factor: int, folder: Path) -> list[ScanFile]:
    """The scans with every voxel cut into ``factor`` cubed, as int16 with noise in the low bits."""
    random = np.random.default_rng(0)
    for file in files:
        scan = read_scan(file)
        voxels = scan.voxels.astype(np.int16) * 64
        for axis in range(3):
            voxels = np.repeat(voxels, factor, axis=axis)
        voxels += random.integers(0, 64, voxels.shape, dtype=np.int16)
        g = scan.geometry
        (i, j, k), (a, b, c) = g.size, (spacing / factor for spacing in g.spacing)
        x, y, z = np.asarray(g.origin) - g.direction @ [(factor - 1) / 2 * spacing for spacing in (a, b, c)]
        geometry = Geometry((factor * i, factor * j, factor * k), (a, b, c), (x, y, z), g.direction)
        write_scan(Scan(file.id, None, voxels, geometry), folder / f"{file.id}.nii.gz")
    return find_scans([folder])


def compute_alone(localizers: Sequence[Localizer], scans: Sequence[Scan], batch: int) -> None:
    """The workers on scans that are in memory, with nothing else to do."""
    batches: SimpleQueue[Sequence[Scan]] = SimpleQueue()
    for start in range(0, len(scans), batch):
        batches.put(scans[start : start + batch])

    def work(localizer: Localizer) -> None:
        with suppress(Empty):
            while True:
                localizer.localize_batch(batches.get_nowait())

    with ThreadPoolExecutor(len(localizers)) as pool:
        list(pool.map(work, localizers))


def read_alone(files: Sequence[ScanFile], readers: int) -> None:
    """The readers, with nothing else to do."""
    with ThreadPoolExecutor(readers) as pool:
        for _ in pool.map(lambda file: read_scan(file).voxels.shape, files):
            pass


def one_by_one(files: Sequence[ScanFile], localizer: Localizer) -> None:
    """Read, then compute, then the next."""
    for file in files:
        localizer.localize(read_scan(file))


def empty(bundle: Bundle) -> Predictions:
    return Predictions(bundle.task.name, {"name": bundle.name}, {"name": "onnxruntime"})


def throughput(files: Sequence[ScanFile], bundle: Bundle, settings: Sequence[Setting], rounds: int) -> dict[str, Any]:
    """Seconds of every arm in every round, and the ratios."""
    scans = [read_scan(file) for file in files]
    alone = Setting(1, cores()).localizers(bundle)[0]
    arms: dict[str, Callable[[], object]] = {"one by one": lambda: one_by_one(files, alone)}
    with tempfile.TemporaryDirectory() as folder:
        for setting in settings:
            localizers = setting.localizers(bundle)
            localizers[0].localize(scans[0])  # warm

            def pipelined(localizers: list[Localizer] = localizers, setting: Setting = setting) -> None:
                out = Path(folder, "predictions.json")
                Run(files, empty(bundle), out).go(localizers, batch=setting.batch, readers=setting.readers)

            def compute(localizers: list[Localizer] = localizers, setting: Setting = setting) -> None:
                compute_alone(localizers, scans, setting.batch)

            arms[f"read: {setting.readers}"] = lambda readers=setting.readers: read_alone(files, readers)  # type: ignore[misc]
            arms[f"compute: {setting.name}"] = compute
            arms[f"pipeline: {setting.name}"] = pipelined
        names = list(arms)
        taken: dict[str, list[float]] = {name: [] for name in names}
        disturbed: list[float] = []
        for number in range(rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                value, share = undisturbed(arms[name])
                taken[name].append(value)
                disturbed.append(share)
                print(f"round {number + 1} of {rounds}, {name}: {value:.2f} s ({share:.1%} others)", flush=True)
    rows = []
    for setting in settings:
        pipeline = np.array(taken[f"pipeline: {setting.name}"])
        read, compute_ = np.array(taken[f"read: {setting.readers}"]), np.array(taken[f"compute: {setting.name}"])
        rows.append({
            "setting": setting.name,
            "scans_per_second": spread(len(files) / pipeline),
            "against_one_by_one": spread(np.array(taken["one by one"]) / pipeline),
            "against_slowest_stage": spread(np.maximum(read, compute_) / pipeline),
            "slowest_stage": "read" if np.median(read / compute_) > 1 else "compute",
        })  # fmt: skip
    per_scan = {name: [round(value / len(files), 4) for value in values] for name, values in taken.items()}
    return {"scans": len(files), "rounds": rounds, "share_of_others": spread(disturbed), "rows": rows,
            "seconds_per_scan": per_scan}  # fmt: skip


def memory(files: Sequence[ScanFile], bundle: Bundle, setting: Setting, count: int) -> dict[str, Any]:
    """Resident memory (MiB) while the pipeline runs over ``count`` scans."""
    many = [ScanFile(f"{file.id}_{n}", file.path) for n, file in enumerate(islice(cycle(files), count))]
    curve: dict[int, float] = {}

    def record(case: CaseResult, done: int, of: int) -> None:
        assert case.status == "ok", case
        if done in (1, 2, 5, 10) or done % max(1, count // 20) == 0:
            curve[done] = resident() or 0.0
            print(f"{done} of {of}: {curve[done]:.0f} MiB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "predictions.json")
        run = Run(many, empty(bundle), out)
        took = seconds(lambda: run.go(setting.localizers(bundle), batch=setting.batch, readers=setting.readers,
                                      progress=record))  # fmt: skip
    return {"setting": setting.name, "scans": count, "seconds": round(took, 1), "resident_mib": curve}


def markdown(report: dict[str, Any]) -> list[str]:
    """The report as a table."""
    machine = report["machine"]
    lines = [f"{machine['cores']} cores, {machine['processor']}; {report['what']}.", ""]
    if "rows" in report:
        lines += ["| setting | against one by one | against the slowest stage alone | slowest stage | scans/s |",
                  "|---|---|---|---|---|"]  # fmt: skip
        for row in report["rows"]:
            ratios = [f"{row[key]['median']:.2f} ({row[key]['min']:.2f} to {row[key]['max']:.2f})"
                      for key in ("against_one_by_one", "against_slowest_stage")]  # fmt: skip
            lines.append(f"| {row['setting']} | {' | '.join(ratios)} | {row['slowest_stage']} "
                         f"| {row['scans_per_second']['median']:.2f} |")  # fmt: skip
    else:
        lines += [report["setting"], "", "| scans done | resident memory, MiB |", "|---|---|"]
        lines += [f"| {done} | {mib:.0f} |" for done, mib in report["resident_mib"].items()]
    return lines


def main() -> None:
    """Measure and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="files OUT.json and OUT.md are written")
    parser.add_argument("--model", help="bundle folder or shipped model")
    parser.add_argument("--count", type=int, default=12, help="scans of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--enlarge", type=int, default=1, help="cut every voxel into so many cubed")
    parser.add_argument("--memory", type=int, default=0, help="run once over so many scans and record the memory")
    parser.add_argument("--settings", nargs="+", default=["1x2", "2x1", "2of2"], help="see parse()")
    options = parser.parse_args()
    bundle = open_bundle(options.model)
    files = find_scans([options.scans])[: options.count]
    settings = [parse(text) for text in options.settings]
    with tempfile.TemporaryDirectory() as folder:
        what = f"{len(files)} scans of {options.scans.parent.name}/{options.scans.name}"
        if options.enlarge > 1:
            files = enlarge(files, options.enlarge, Path(folder))
            what += f", enlarged {options.enlarge} times along each axis"
        if options.memory:
            report = memory(files, bundle, settings[0], options.memory)
        else:
            report = throughput(files, bundle, settings, options.rounds)
    report = {"what": what, "model": bundle.name, "machine": this_machine(), **report}
    write_results(options.out, report, markdown(report))


def parse(text: str) -> Setting:
    """``2x1:1/4`` is two workers of one thread each, one reader, batches of four."""
    text, _, batch = text.partition("/")
    text, _, readers = text.partition(":")
    shared = "of" in text
    workers, _, threads = text.partition("of" if shared else "x")
    return Setting(int(workers), int(threads), shared, int(readers or 1), int(batch or 1))


if __name__ == "__main__":
    main()
