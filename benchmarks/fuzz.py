"""Hostile input: real scans, broken at random, and what else may lie in a folder, through the command.

    python -m benchmarks.fuzz --scan SCAN --model BUNDLE --seconds 600 --seed 1

Each round makes a folder of mutants of a small piece of the scan (NIfTI, NRRD, MetaImage, DICOM), puts whole scans and
traps (pipes, devices, loops of links, bombs, names that are no text) among them and runs ``trtlm infer`` over it.  It
fails if that crashes, hangs, takes too much memory, or if a whole scan's result is not the same to the bit.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks.geometry import Geometry
from trt_landmarks.scan import Scan, read_scan, scan_from_array, write_scan

#: What runs the command.
CODE = "from trt_landmarks.cli import main; main()"
#: The most resident memory that the command may have, bytes; 0.2 GiB are its own, with the small nets of the tests.
MEMORY = 1 << 29
#: Seconds that a round may take for each file of it, and besides.
SECONDS_EACH, SECONDS = 1.0, 120.0
#: Of the whole scans in each folder.
GOOD = "whole-"
SLICES = 5


@dataclass
class Round:
    """What a round gave.

    Attributes:
        cases: id to case, as in the results file.
        report: the report of the run.
        problems: what must not be; empty if all is well.
    """

    cases: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def codes(self) -> Counter[str]:
        """How the cases ended."""
        return Counter(case["error"]["code"] if case["error"] else "ok" for case in self.cases.values())


def piece(path: Path) -> Scan:
    """A small piece from the middle of a real scan, as 16-bit voxels."""
    scan = read_scan(path)
    starts = [max(0, n // 2 - half) for n, half in zip(scan.voxels.shape, (8, 9, 10), strict=True)]
    k, j, i = (slice(start, start + 2 * half) for start, half in zip(starts, (8, 9, 10), strict=True))
    voxels = scan.voxels[k, j, i].astype(np.int16)
    a, b, c = voxels.shape
    return scan_from_array(voxels, Geometry((c, b, a), (1.0, 1.1, 1.2), (-5.0, 3.0, 7.0), np.eye(3)))


def originals(scan: Scan, folder: Path) -> dict[str, dict[str, bytes]]:
    """The scan in every format: a name for the case to its files (relative path to content)."""
    import SimpleITK

    folder.mkdir()
    found: dict[str, dict[str, bytes]] = {}
    image = SimpleITK.GetImageFromArray(scan.voxels)
    image.SetSpacing(scan.geometry.spacing)
    image.SetOrigin(scan.geometry.origin)
    for name, compressed in (("a.nii", False), ("a.nii.gz", True), ("a.nrrd", True), ("b.nrrd", False), ("a.mha", True),
                             ("b.mha", False), ("a.mhd", False), ("a.nhdr", False)):  # fmt: skip
        here = folder / f"{name}-{compressed}"
        here.mkdir()
        SimpleITK.WriteImage(image, str(here / name), useCompression=compressed)
        found[name] = {path.name: path.read_bytes() for path in here.iterdir()}
    here = folder / "series"
    here.mkdir()
    for number in range(SLICES):
        one = image[:, :, number]
        for tag, value in {
            "0008|0060": "CT", "0008|0016": "1.2.840.10008.5.1.4.1.1.2", "0020|000d": "1.2.3.1", "0020|000e": "1.2.3.2",
            "0020|0052": "1.2.3.3", "0020|0013": str(number + 1), "0020|0032": f"0\\0\\{1.2 * number}",
            "0020|0037": "1\\0\\0\\0\\1\\0", "0008|0018": f"1.2.3.4.{number + 1}",
        }.items():  # fmt: skip
            one.SetMetaData(tag, value)
        writer = SimpleITK.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(here / f"{number}.dcm"))
        writer.Execute(one)
    found["series"] = {f"series/{path.name}": path.read_bytes() for path in sorted(here.iterdir())}
    return found


def mutant(content: bytes, chance: random.Random) -> bytes:
    """The content, broken in one of the ways in which files break, or are broken."""
    data = bytearray(content)
    header = min(len(data), 600)
    kind = chance.randrange(9)
    if kind == 0:  # ends too early
        return bytes(data[: chance.randrange(len(data))])
    if kind == 1:  # one bit of the header, or of all
        at = chance.randrange(header if chance.random() < 0.7 else len(data))
        data[at] ^= 1 << chance.randrange(8)
    elif kind == 2:  # several bytes
        for _ in range(chance.randrange(2, 20)):
            data[chance.randrange(header if chance.random() < 0.5 else len(data))] = chance.randrange(256)
    elif kind == 3:  # a number that is extreme, in binary
        at = chance.randrange(header)
        value = chance.choice(
            [b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\x00\x00\xc0\x7f", bytes(4)]
        )
        data[at : at + 4] = value
    elif kind == 4:  # a number that is extreme, in text
        numbers = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(data[:header])))
        if numbers:
            one = chance.choice(numbers)
            data[one.start() : one.end()] = chance.choice(
                [
                    b"0",
                    b"-1",
                    b"99999999999999999999",
                    b"2147483647",
                    b"nan",
                    b"inf",
                    b"1e400",
                    b"",
                    b"65536 65536 65536",
                ]
            )
    elif kind == 5:  # a part is missing
        start = chance.randrange(len(data))
        del data[start : start + chance.randrange(1, 200)]
    elif kind == 6:  # a part is doubled
        start = chance.randrange(header)
        part = data[start : start + chance.randrange(1, 200)]
        data[start:start] = part
    elif kind == 7:  # a line of the header is missing, or is another one
        lines = bytes(data[:header]).split(b"\n")
        lines[chance.randrange(len(lines))] = chance.choice([b"", chance.choice(lines), b"\xff\xfe: = \x00"])
        data[:header] = b"\n".join(lines)
    else:  # noise
        data[chance.randrange(header) :] = chance.randbytes(chance.randrange(1, 2000))
    if chance.random() < 0.3 and content[:2] == b"\x1f\x8b":  # what is broken is within the compressed data
        return gzip.compress(mutant(gzip.decompress(content), chance), 1)
    return bytes(data)


def write_mutants(folder: Path, sources: dict[str, dict[str, bytes]], count: int, chance: random.Random) -> None:
    """So many cases, each with one broken file."""
    names = list(sources)
    for number in range(count):
        name = names[number % len(names)]
        files = dict(sources[name])
        broken = chance.choice(list(files))
        files[broken] = mutant(files[broken], chance)
        home = folder / f"m{number:05}"
        for path, content in files.items():
            target = home / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


@contextmanager
def traps(folder: Path, source: dict[str, dict[str, bytes]]) -> Iterator[None]:
    """What is no scan, or a scan with a trap, under names that end like scans."""
    folder.mkdir()
    for suffix in (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"):
        os.mkfifo(folder / f"pipe{suffix}")
        (folder / f"zero{suffix}").symlink_to("/dev/zero")
    (folder / "full.nii.gz").symlink_to("/dev/full")
    (folder / "loop.nii.gz").symlink_to("loop.nii.gz")
    (folder / "up").symlink_to("..")
    (folder / "missing.nrrd").symlink_to("nowhere.nrrd")
    (folder / "empty.dcm").write_bytes(b"")
    (folder / "folder.nii.gz").mkdir()
    elsewhere = ("pipe.nii", "/dev/zero", "../up", "folder.nii.gz", "\0", "/etc/hostname", "x" * 5000)
    for number, name in enumerate(elsewhere):
        for suffix, key in ((".mhd", "ElementDataFile = "), (".nhdr", "data file: ")):
            header = source[f"a{suffix}"][f"a{suffix}"].decode()
            at = header.index(key) + len(key)
            (folder / f"points-{number}{suffix}").write_text(header[:at] + name + header[at:].partition("\n")[1])
    bomb = gzip.compress(bytes(1 << 20), 9)
    whole = source["a.nii"]["a.nii"]
    (folder / "bomb.nii.gz").write_bytes(gzip.compress(whole) + bomb * 2000)  # 2 GB behind a whole scan
    huge = bytearray(whole)
    huge[40:56] = np.array([3, 32767, 32767, 32767, 1, 1, 1, 1], "<i2").tobytes()
    (folder / "huge.nii").write_bytes(huge)
    (folder / "huge.nii.gz").write_bytes(gzip.compress(bytes(huge)) + bomb * 2000)
    for name, field_, size in (
        ("b.mha", "DimSize = ", "65000 65000 65000"),
        ("b.nrrd", "sizes: ", "65000 65000 65000"),
    ):
        text = re.sub(field_.encode() + rb"[\d ]+", (field_ + size).encode(), source[name][name])
        (folder / f"huge-{name}").write_bytes(text)
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(folder)  # the path of a socket may have 107 bytes
        server.bind("socket.nii.gz")
        os.chdir(here)
        yield


def write_good(folder: Path, scan: Scan) -> None:
    """Whole scans, also under odd names."""
    folder.mkdir()
    for number in range(3):
        write_scan(Scan("", None, np.roll(scan.voxels, number, 0), scan.geometry), folder / f"{GOOD}{number}.nii.gz")
    content = (folder / f"{GOOD}0.nii.gz").read_bytes()
    for name in ("ünïcödé-骨", "new\nline", "\x1b[31mred", "[bold]", "a b;$(c)`d`", "-dash"):
        (folder / f"{GOOD}{name}.nii.gz").write_bytes(content)


def run_round(work: Path, scan: Scan, model: str, count: int, seed: int, alone: dict[str, Any] | None = None) -> Round:
    """One round; ``alone`` are the cases that the whole scans have without the others (computed if None)."""
    chance = random.Random(seed)
    sources = originals(scan, work / "sources")
    folder = work / "scans"
    folder.mkdir(parents=True)
    write_good(folder / "good", scan)
    if alone is None:
        first = _infer(folder / "good", work, model, SECONDS)
        if first.problems:
            return first
        alone = first.cases
    write_mutants(folder, sources, count, chance)
    with traps(folder / "traps", sources):
        found = _infer(folder, work, model, SECONDS + SECONDS_EACH * count)
    for id, case in alone.items():
        if id not in found.cases or _plain(found.cases[id]) != _plain(case):
            found.problems.append(f"the whole scan {id!r} has another result among the others")
    found.problems += [
        f"{id}: {case['error']['message']}"
        for id, case in found.cases.items()
        if case["error"] and case["error"]["code"] in ("internal", "timeout")
    ]
    return found


def _infer(folder: Path, work: Path, model: str, seconds: float) -> Round:
    out, report = work / "out.json", work / "report.json"
    arguments = ["--out", str(out), "--model", model, "--report", str(report), "--timeout", "30"]
    command = [sys.executable, "-c", CODE, "infer", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return Round(problems=[f"it hangs for more than {seconds:.0f} s"])
    told = done.stderr.decode("utf-8", "backslashreplace")
    problems = []
    if done.returncode not in (0, 1):
        problems.append(f"exit code {done.returncode}: {told[-500:]}")
    if "Traceback" in told:
        problems.append(f"a traceback: {told[told.index('Traceback') :][:2000]}")
    if not (out.exists() and report.exists()):
        return Round(problems=[*problems, "no results"])
    content = json.loads(report.read_text())
    if content["peak_memory_bytes"] > MEMORY:
        problems.append(f"{content['peak_memory_bytes'] / 2**20:.0f} MiB of memory")
    cases = {case["id"]: case for case in json.loads(out.read_text(encoding="utf-8"))["cases"]}
    return Round(cases, content, problems)


def _plain(case: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in case.items() if key not in ("timing_ms", "path")}


def main() -> None:
    """Rounds of other mutants, until the time is over; a round that fails is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, required=True, help="a real scan")
    parser.add_argument("--model", required=True, help="a bundle; a small one is quicker")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=500, help="mutants of a round")
    options = parser.parse_args()
    scan, end, seed, failed = piece(options.scan), time.monotonic() + options.seconds, options.seed, 0
    while time.monotonic() < end:
        work = Path(tempfile.mkdtemp(prefix=f"fuzz-{seed}-"))
        found = run_round(work, scan, options.model, options.count, seed)
        print(f"seed {seed}: {sum(found.codes.values())} cases, {dict(found.codes.most_common())}", flush=True)
        for problem in found.problems:
            print(f"  {problem}", flush=True)
        if found.problems:
            failed += 1
            print(f"  kept in {work}", flush=True)
        else:
            shutil.rmtree(work)
        seed += 1
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
