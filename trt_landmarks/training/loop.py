"""One training loop for every net: AdamW, one-cycle learning rate, averaged weights, resumable at any step.

All randomness of step n is drawn from ``(seed, name of the net, n)``, so a run that was killed and resumed
takes exactly the steps an uninterrupted run takes.
"""

from __future__ import annotations

import csv
import io
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from trt_landmarks.errors import CheckpointError
from trt_landmarks.files import write_bytes

State = dict[str, Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast one net learns.

    Attributes:
        steps: optimizer steps.
        batch: samples per step.
        learning_rate: the peak; reached after a tenth of the steps, then falling to 1 % along a cosine.
        weight_decay: of AdamW.
        average: decay of the exponential average of the weights, which is what is kept.
        validate: validations in the course of the run (the last one at its end).
    """

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float = 1e-4
    average: float = 0.98
    validate: int = 5


class Progress(Protocol):
    """Where the loop reports: a progress bar, or nothing."""

    def __call__(self, net: str, step: int, steps: int, text: str) -> None: ...


class Log:
    """``train.csv``: net, step, seconds, loss, learning rate, and the validation figure where there is one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._started = time.monotonic()
        if not path.exists():
            path.write_text("net,step,seconds,loss,learning_rate,validation_mre_mm\n")

    def write(self, net: str, step: int, loss: float, rate: float, validation: float | None = None) -> None:
        """Append one row."""
        seconds = time.monotonic() - self._started
        with self.path.open("a", newline="") as file:
            cells = [net, step, f"{seconds:.1f}", f"{loss:.6g}", f"{rate:.3g}"]
            csv.writer(file, lineterminator="\n").writerow([*cells, "" if validation is None else f"{validation:.4f}"])


def step_rng(seed: int, name: str, step: int) -> np.random.Generator:
    """The random generator of one step."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), step])


def fit(
    name: str,
    net: nn.Module,
    loss_of: Callable[[nn.Module, np.random.Generator], Tensor],
    schedule: Schedule,
    seed: int,
    folder: Path,
    log: Log,
    progress: Progress,
    validate: Callable[[nn.Module], float] | None = None,
    keep: str = "best",
    save_seconds: float = 60.0,
) -> State:
    """Train ``net`` and return the averaged weights.

    Args:
        name: the net's name in the log; also seeds its randomness.
        net: trained in place; holds the returned weights at the end.
        loss_of: draws a batch from the generator and gives the loss.
        folder: where ``<name>.state.pt`` is kept while training, for resuming.
        validate: MRE in mm of a net (in eval mode) on the validation scans.
        keep: ``best`` keeps the weights of the best validation, ``last`` those of the end.
    """
    state_path = folder / f"{name}.state.pt"
    optimizer = torch.optim.AdamW(net.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    average = {key: value.detach().clone() for key, value in net.state_dict().items()}
    best: State | None = None
    best_figure, start = float("inf"), 0
    if state_path.exists():
        try:
            saved = torch.load(state_path, weights_only=True, map_location="cpu")
            net.load_state_dict(saved["net"])
            optimizer.load_state_dict(saved["optimizer"])
            average, best, best_figure, start = saved["average"], saved["best"], saved["best_figure"], saved["step"]
        except Exception:  # torch.load has no base of its own errors
            raise CheckpointError(
                f"{state_path}: is damaged.", "Remove it: this net is trained from its first step again."
            ) from None
        average = {key: value.to(next(net.parameters()).device) for key, value in average.items()}
    marks = {round(schedule.steps * (n + 1) / schedule.validate) for n in range(schedule.validate)}
    saved_at = time.monotonic()
    for step in range(start, schedule.steps):
        rate = _rate(schedule, step)
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        rng = step_rng(seed, name, step)
        torch.manual_seed(int(rng.integers(2**31)))
        net.train()
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(net, rng)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        _average(average, net, min(schedule.average, (step + 1) / (step + 10)))
        done = step + 1
        figure = None
        if validate is not None and done in marks:
            with using(net, average):
                figure = validate(net)
            if figure < best_figure:
                best_figure, best = figure, {key: value.clone() for key, value in average.items()}
        if done % 20 == 0 or figure is not None or done == schedule.steps:
            log.write(name, done, float(loss.detach()), rate, figure)
        progress(name, done, schedule.steps, f"loss {float(loss.detach()):.4g}")
        if time.monotonic() - saved_at > save_seconds:
            whole = {
                "net": net.state_dict(), "optimizer": optimizer.state_dict(), "average": average,
                "best": best, "best_figure": best_figure, "step": done,
            }  # fmt: skip
            content = io.BytesIO()
            torch.save(whole, content)
            write_bytes(state_path, content.getbuffer(), CheckpointError)
            saved_at = time.monotonic()
    kept = best if keep == "best" and best is not None else average
    net.load_state_dict(kept)
    net.eval()
    return kept


def write_weights(path: Path, weights: State) -> None:
    """Write a ``.safetensors`` file, whole or not at all.

    Raises:
        CheckpointError: naming the file, if it cannot be written.
    """
    content = save({key: value.contiguous().cpu() for key, value in weights.items()})
    write_bytes(path, content, CheckpointError)


class using:  # noqa: N801 - reads as a verb: with using(net, weights)
    """Context in which a net has other weights and is in eval mode."""

    def __init__(self, net: nn.Module, weights: State) -> None:
        self.net, self.weights = net, weights

    def __enter__(self) -> nn.Module:
        self.kept = {key: value.clone() for key, value in self.net.state_dict().items()}
        self.net.load_state_dict(self.weights)
        self.net.eval()
        return self.net

    def __exit__(self, *_: object) -> None:
        self.net.load_state_dict(self.kept)


def _average(average: State, net: nn.Module, decay: float) -> None:
    for key, value in net.state_dict().items():
        if value.is_floating_point():
            average[key].lerp_(value, 1 - decay)
        else:
            average[key].copy_(value)


def _rate(schedule: Schedule, step: int) -> float:
    """One cycle: linear warm-up over a tenth of the steps, then a cosine down to 1 %."""
    warm = max(1, schedule.steps // 10)
    if step < warm:
        return schedule.learning_rate * (step + 1) / warm
    phase = (step - warm) / max(1, schedule.steps - warm)
    return schedule.learning_rate * (0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * phase))))


def batches(rng: np.random.Generator, count: int, batch: int) -> Iterator[int]:
    """``batch`` indices below ``count``, without repetition as long as there are enough."""
    while batch > 0:
        chosen = rng.permutation(count)[:batch]
        yield from (int(n) for n in chosen)
        batch -= len(chosen)


def mean_loss(losses: Tensor) -> Tensor:
    """The mean; 0 if nothing in the batch is annotated, where a mean would be NaN and ruin the weights."""
    return losses.mean() if len(losses) else losses.sum()
