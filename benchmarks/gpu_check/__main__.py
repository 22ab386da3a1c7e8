"""The command: runs the sections, each in its own process, and writes the report after each."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import benchmarks.gpu_check
from benchmarks.gpu_check.rows import FAILED, NOT_RUN, Row, markdown, row
from benchmarks.gpu_check.sections import SECTIONS, Section, Setting
from trt_landmarks.bench.machine import scrubbed
from trt_landmarks.engines.tensorrt.gpu import gpu_problem
from trt_landmarks.errors import TrtlmError
from trt_landmarks.files import write_text
from trt_landmarks.scan import find_scans

#: For all sections together, seconds.
LIMIT = 470.0
FORMAT = 1


def main(arguments: list[str] | None = None) -> int:
    """Run the check; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=benchmarks.gpu_check.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scans", type=Path, required=True, help="folder of real scans")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives gpu_check.json and .md")
    parser.add_argument("--model", help="name or folder of a model; the default model if left out")
    parser.add_argument("--count", type=int, default=5, help="scans to compare on")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    setting = Setting(options.scans, options.model, options.count, options.out)
    if options.section:
        _child(SECTIONS[options.section], setting, options.rows)
        return 0
    try:
        find_scans([options.scans])
        setting.bundle()
    except TrtlmError as error:
        print(error, file=sys.stderr)
        return 2
    start, problem = time.monotonic(), gpu_problem()
    sections = []
    with tempfile.TemporaryDirectory() as folder:
        for name, section in SECTIONS.items():
            begun = time.monotonic()
            if problem is not None and section.needs_gpu:
                rows = [row(what, NOT_RUN, problem) for what in section.rows]
            else:
                left = LIMIT - (begun - start)
                rows = _run(name, section, min(section.seconds, left), setting, Path(folder))
            for entry in rows:
                print(f"{name}: {entry['what']}: {entry['result']} {entry.get('reason', '')}".rstrip(), flush=True)
            sections.append({"name": name, "seconds": round(time.monotonic() - begun, 1), "rows": rows})
            report = scrubbed(_report(sections, problem, time.monotonic() - start))
            try:
                options.out.mkdir(parents=True, exist_ok=True)
                write_text(options.out / "gpu_check.json", json.dumps(report, indent=1) + "\n", TrtlmError)
                write_text(options.out / "gpu_check.md", markdown(report), TrtlmError)
            except (OSError, TrtlmError) as error:
                print(f"{options.out}: the report cannot be written: {error}", file=sys.stderr)
                return 2
    print(report["verdict"])
    return 2 if problem is not None else int(report["counts"][FAILED] > 0)


def _report(sections: list[dict[str, Any]], problem: str | None, seconds: float) -> dict[str, Any]:
    counts: dict[str, int] = {FAILED: 0}
    for section in sections:
        for entry in section["rows"]:
            counts[entry["result"]] = counts.get(entry["result"], 0) + 1
    text = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    summary = f"There is no GPU here ({problem}): {text}." if problem else f"On this GPU: {text}."
    return {
        "format": FORMAT, "verdict": summary, "counts": counts, "seconds": round(seconds, 1), "sections": sections,
    }  # fmt: skip


def _run(name: str, section: Section, limit: float, setting: Setting, folder: Path) -> list[Row]:
    """The rows of a section, run in a process of its own."""
    if limit < 5:
        return [row(what, NOT_RUN, f"no time was left of {LIMIT:.0f} s") for what in section.rows]
    file = folder / f"{name.replace(' ', '-')}.jsonl"
    command = [
        sys.executable, "-m", "benchmarks.gpu_check", "--section", name, "--rows", str(file), "--scans",
        str(setting.scans), "--out", str(folder), "--count", str(setting.count),
    ]  # fmt: skip
    command += ["--model", setting.model] if setting.model else []
    try:
        done = subprocess.run(command, timeout=limit, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        said = " ".join(done.stderr.split())[-300:]
        ended = f"the process ended with {done.returncode}{f': {said}' if said else ''}" if done.returncode else ""
    except subprocess.TimeoutExpired:
        ended = f"it was not done in {limit:.0f} s"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [*rows, row(name, FAILED, ended)] if ended else rows


def _child(section: Section, setting: Setting, file: Path) -> None:
    """Run a section here, and write its rows as they come."""
    with file.open("w", encoding="utf-8") as lines:
        try:
            for entry in section.run(setting):
                lines.write(json.dumps(entry) + "\n")
                lines.flush()
        except TrtlmError as error:
            lines.write(json.dumps(row("the rest of this section", NOT_RUN, str(error))) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
