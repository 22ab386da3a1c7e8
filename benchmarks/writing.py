"""What the benchmarks leave: figures as JSON, and the same as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trt_landmarks.system import cores, processor


def this_machine() -> dict[str, Any]:
    """Cores and processor."""
    return {"cores": cores(), "processor": processor()}


def write_results(out: Path, report: Mapping[str, Any], lines: Sequence[str]) -> None:
    """Write ``out``.json and ``out``.md, and print the latter."""
    out.parent.mkdir(parents=True, exist_ok=True)
    # The name may hold a dot, which with_suffix would take for an ending.
    out.with_name(f"{out.name}.json").write_text(json.dumps(report, indent=1) + "\n")
    out.with_name(f"{out.name}.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]
