"""Options that several commands take, and the panels of help in which they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

#: Panels of ``trtlm infer --help``.
INPUT, OUTPUT, ENGINE, RUN = "Input", "Output", "Engine", "Run control"


def option(panel: str, *names: str, help: str, **more: Any) -> Any:
    """An option in a panel of the help."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


Model = Annotated[
    str | None,
    option(ENGINE, help="Name of a shipped model, or bundle folder. (default: TRTLM_MODEL, else mouse-skull)"),
]
ModelArgument = Annotated[
    str | None, typer.Argument(help="Bundle folder or shipped model. (default: TRTLM_MODEL, else mouse-skull)")
]
Engine = Annotated[str, option(ENGINE, help="onnxruntime, openvino, tensorrt, tensorrt-rtx or auto.")]
Precision = Annotated[str | None, option(ENGINE, help="fp32, fp16, int8 or bf16. (default: automatic)")]
Threads = Annotated[int | None, option(ENGINE, min=1, help="CPU threads. (default: all cores)")]
Landmarks = Annotated[
    Path | None, typer.Option(help="Annotations, to measure the error. (default: landmarks/ in or beside the scans)")
]
Count = Annotated[int | None, typer.Option("--n", min=1, help="Calibration scans. (default: 16; 4 for fp16)")]
HeldOut = Annotated[int, typer.Option(min=1, help="Other scans to measure on, at most.")]
Method = Annotated[str, typer.Option(help="INT8 ranges: entropy or max.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Layer to leave out of INT8: <graph>:<node>. Repeatable.")]
Sensitivity = Annotated[bool, typer.Option(help="Rank INT8 layers by what they cost; leave out the worst if needed.")]
Pose = Annotated[
    str,
    option(ENGINE, help="as-is; search: of every scan; auto: of scans in which nothing credible is found as they lie."),
]
Tta = Annotated[
    bool, option(ENGINE, "--tta", help="Average with a mirrored and a jittered view: three times the time.")
]
Accept = Annotated[bool, typer.Option(help="Build even if the deviation from FP32 is too large.")]
Csv = Annotated[Path | None, option(OUTPUT, help="Landmarks as CSV too; measurements go to <name>-measurements.csv.")]
Markups = Annotated[Path | None, option(OUTPUT, help="Folder for a 3D Slicer file (.mrk.json) per case.")]
Measurements = Annotated[
    Path | None, option(OUTPUT, help="YAML file of distances and angles, in addition to the task's own.")
]
TaskFile = Annotated[Path | None, typer.Option("--task", help="Task file, instead of the model's.")]

Timeout = Annotated[
    float | None, option(RUN, min=0.001, help="Seconds for reading a scan, and for computing it, before it fails.")
]
Jobs = Annotated[int | None, option(RUN, min=1, help="Scans computed side by side on the CPU. (default: automatic)")]
LimitMemory = Annotated[
    str | None, option(RUN, help="Memory of the whole process, such as 4G: fewer workers, fewer scans at a time.")
]
Resume = Annotated[bool, option(RUN, "--resume", help="Continue an interrupted run, or add to its results.")]
RetryFailed = Annotated[bool, option(RUN, "--retry-failed", help="With --resume: compute failed scans again.")]
Overwrite = Annotated[bool, option(RUN, "--overwrite", help="Discard the cases of an unfinished run.")]
Report = Annotated[Path | None, option(OUTPUT, help="Report of the run (JSON).")]
Log = Annotated[Path | None, option(OUTPUT, help="Log file; a line per scan is appended.")]
