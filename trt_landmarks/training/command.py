"""What ``trtlm train`` does: read task and data, run, report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from trt_landmarks.data.dataset import k_folds, load_dataset, split_from_file
from trt_landmarks.errors import TrtlmError
from trt_landmarks.task.task import load_task
from trt_landmarks.training.run import Run
from trt_landmarks.training.settings import KINDS, Settings

#: Off a terminal: seconds until a net's first line of progress, which says how long it will take, and between lines.
FIRST_LINE, LINE_EVERY = 5.0, 60.0


def train_command(
    task_file: Path,
    data: Path,
    out: Path,
    *,
    split: Path | None,
    folds: int,
    fold: int,
    seed: int,
    keep: str,
    noise: float,
    contrast: float,
    length: float,
    steps: Sequence[str],
    device: str,
    quiet: bool,
    notify: Callable[[str], None] = lambda line: None,
) -> str:
    """Train, and return the validation's figures as text.

    ``notify`` receives what is left out, a table of the cases and warnings, line by line.

    Raises:
        TrtlmError: for a wrong task file, dataset, split, device or run folder.
    """
    if keep not in ("best", "last"):
        raise TrtlmError(f"--keep {keep}: must be best or last.", code="usage")
    kept = cast(Literal["best", "last"], keep)
    schedules = Settings().shortened(length).with_steps(_steps(steps))
    settings = replace(schedules, seed=seed, keep=kept, noise=noise).with_contrast(contrast)
    task = load_task(task_file)
    dataset = load_dataset(data, task)
    if split is not None:
        parts = split_from_file(split, dataset.ids)
    elif not fold < folds:
        raise TrtlmError(f"--fold {fold}: must be below --folds {folds}.")
    else:
        parts = k_folds(dataset.ids, folds, seed)[fold]
    used = set(parts.train) | set(parts.validation)
    for line in (*dataset.warnings, *_unused(dataset.ids, used)):
        notify(line)
    notify(f"training on {len(parts.train)} cases, validating on {len(parts.validation)}")
    with _Bar(quiet, 2 + len(task.independent) + len(task.groups)) as bar:
        run = Run(
            task, dataset.subset(parts.train), dataset.subset(parts.validation), settings, out, bar, _device(device),
            notify, dataset.warnings,
        )  # fmt: skip
        try:
            checkpoint = run.execute()
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error).lower():
                raise
            raise TrtlmError(
                f"{out}: training stopped: there is not enough memory for the task's grids and nets.",
                "Make coarse.shape, fine.shape or the widths smaller, or train on another machine.",
                code="memory",
            ) from None
        except OSError as error:
            where = error.filename or out
            raise TrtlmError(
                f"{where}: training stopped: {(error.strerror or str(error)).lower()}.",
                "Free space or choose another folder; the same command resumes.",
                code="run_unwritable",
            ) from None
    metrics = checkpoint.record.get("metrics")
    if metrics is None:
        return f"checkpoint: {out} (no validation cases)"
    lines = [f"checkpoint: {out}", f"validation on {len(metrics['cases'])} cases:"]
    for stage, label in (("mean_shape", "mean shape, without any net"), ("coarse", "coarse"), ("fine", "fine")):
        row = metrics[stage]["overall"]
        sdr = ", ".join(f"SDR({one['radius_mm']:g} mm) {one['percent']:.1f} %" for one in row["sdr"])
        lines.append(f"  {label}: MRE {row['mre_mm']:.3f} mm, {sdr}")
    return "\n".join([*lines, *_doubts(metrics, settings)])


def _doubts(metrics: dict[str, Any], settings: Settings) -> list[str]:
    """What a stage that does not help asks for."""
    shape, coarse, fine = (metrics[stage]["overall"]["mre_mm"] for stage in ("mean_shape", "coarse", "fine"))
    doubts = []
    if coarse >= shape:
        doubts.append(
            "warning: the coarse stage is no better than the mean shape: train it longer "
            f"(--steps coarse={4 * settings.coarse.steps}), or check coarse.field_of_view_mm and intensity."
        )
    if fine >= coarse:
        longer = " ".join(f"--steps {kind}={4 * getattr(settings, kind).steps}" for kind in KINDS[1:])
        doubts.append(
            f"warning: the fine stage is no better than the coarse one: train it longer ({longer}), or enlarge the "
            "patches (fine.shape, fine.spacing_mm) to some three times the coarse error to each side."
        )
    return doubts


def _unused(ids: Sequence[str], used: set[str]) -> list[str]:
    left = [case_id for case_id in ids if case_id not in used]
    return [f"in neither list of the split, not used: {', '.join(left)}."] if left else []


def _steps(given: Sequence[str]) -> dict[str, int]:
    """``coarse=3000`` and the like as numbers of steps."""
    steps = {}
    for text in given:
        kind, _, count = text.partition("=")
        if kind not in KINDS or not count.isdecimal() or int(count) < 1:
            raise TrtlmError(
                f"--steps: invalid value '{text}'.",
                f"Write for example --steps coarse=3000; kinds are {', '.join(KINDS)}.",
            )
        steps[kind] = int(count)
    return steps


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise TrtlmError(f"--device {name}: PyTorch has no such device here.", "Take --device cpu or auto.") from None
    return device


class _Bar:
    """Progress of every net: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self, quiet: bool, nets: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True, soft_wrap=True)
        self._lines = not quiet and not console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=quiet or self._lines)
        self._line = self._bar.add_task("reading scans", total=None)
        self._quiet, self._nets = quiet, nets
        self._net, self._number, self._first, self._began, self._next = "", 0, 0, 0.0, 0.0

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, net: str, step: int, steps: int, text: str) -> None:
        now = time.monotonic()
        if steps < 0:
            self._say(f"{net}: {text}")
            return
        if net != self._net:
            self._net, self._number, self._first, self._began = net, self._number + 1, step, now
            self._next = now + FIRST_LINE
        self._bar.update(self._line, completed=step, total=steps, description=f"{net} {text}")
        if self._lines and now >= self._next and step > self._first:
            left = (now - self._began) / (step - self._first) * (steps - step)
            self._say(
                f"{net} (net {self._number} of {self._nets}): step {step} of {steps}, {text}, "
                f"about {_duration(left)} left for this net"
            )
            self._next = now + LINE_EVERY

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._bar.console.print(text, markup=False, highlight=False)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
