"""Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str | None,
    typer.Option(help="Shipped model's name or bundle folder. [default: the setting TRTLM_MODEL, else mouse-skull]"),
]
ModelArgument = Annotated[
    str | None, typer.Argument(help="Bundle folder or shipped model. [default: TRTLM_MODEL, else mouse-skull]")
]
Engine = Annotated[str, typer.Option(help="onnxruntime, tensorrt, tensorrt-rtx or auto.")]
Landmarks = Annotated[
    Path | None, typer.Option(help="Annotations, to measure the error. [default: landmarks/ in or beside the scans]")
]
Count = Annotated[int | None, typer.Option("--n", min=1, help="Scans to calibrate on. [default: 16; 4 for fp16]")]
HeldOut = Annotated[int, typer.Option(min=1, help="Other scans to measure on, at most.")]
Method = Annotated[str, typer.Option(help="INT8 ranges: entropy or max.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Layer to leave out of INT8: <graph>:<node>. Repeatable.")]
Sensitivity = Annotated[bool, typer.Option(help="Rank INT8 layers by what they cost; leave out the worst if needed.")]
Layout = Annotated[
    str, typer.Option(help="nets: inputs sampled on the host; pair, one: two graphs or one that take the scan itself.")
]
Accept = Annotated[bool, typer.Option(help="Build even if the deviation from FP32 is too large.")]
Csv = Annotated[
    Path | None, typer.Option(help="Write the landmarks here too (CSV); measurements go to <name>-measurements.csv.")
]
Markups = Annotated[Path | None, typer.Option(help="Folder for a 3D Slicer file (.mrk.json) of each case.")]
Measurements = Annotated[
    Path | None, typer.Option(help="YAML file of distances and angles to measure, beside the task's own.")
]
TaskFile = Annotated[Path | None, typer.Option("--task", help="Task file, instead of the model's.")]

Timeout = Annotated[
    float | None, typer.Option(min=0.001, help="Seconds for reading a scan, and for computing it, before it fails.")
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Scans computed side by side on the CPU. [default: as helps]")]
LimitMemory = Annotated[
    str | None, typer.Option(help="Memory for the whole process, such as 4G: fewer workers, fewer scans at a time.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was cut off, or add to its results.")]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="With --resume: compute failed scans again.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Throw away what an unfinished run computed.")]
Report = Annotated[Path | None, typer.Option(help="Write a report of the run here (JSON).")]
Log = Annotated[Path | None, typer.Option(help="Append a line for every scan to this file.")]
