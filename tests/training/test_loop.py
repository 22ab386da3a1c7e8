"""The training loop: a run that was killed and resumed is the run that was not, bit for bit."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trt_landmarks.errors import CheckpointError
from trt_landmarks.training.loop import Log, Schedule, State, _rate, batches, fit, step_rng, using, write_weights

SCHEDULE = Schedule(steps=12, batch=4, learning_rate=0.05, validate=4)


class Net(nn.Module):
    """Everything that keeps a state while training: batch statistics, dropout, weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 3, 3, padding=1)
        self.norm = nn.BatchNorm3d(3)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.dropout(torch.relu(self.norm(self.conv(x))).mean(dim=(2, 3, 4))))
        return y


def new_net() -> Net:
    torch.manual_seed(5)
    return Net().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]


def loss_of(net: nn.Module, rng: np.random.Generator) -> Tensor:
    x = torch.from_numpy(rng.random((4, 1, 4, 4, 4), dtype=np.float32))
    return (net(x)[:, 0] - x.mean(dim=(1, 2, 3, 4))).square().mean()


def figure(net: nn.Module) -> float:
    assert not net.training
    return float(net(torch.linspace(0, 1, 64).reshape(1, 1, 4, 4, 4)).detach().abs())


class Killed(KeyboardInterrupt):
    pass


def killer(at: int) -> Callable[..., None]:
    def progress(net: str, step: int, steps: int, text: str) -> None:
        if step == at:
            raise Killed

    return progress


def ignore(*_: object) -> None:
    pass


def run(folder: Path, progress: Callable[..., None] = ignore, **changes: object) -> tuple[State, Net]:
    folder.mkdir(exist_ok=True)
    net = new_net()
    options = {"validate": figure, "keep": "last", "save_seconds": -1.0, "schedule": SCHEDULE, "seed": 1} | changes
    kept = fit(name="net", net=net, loss_of=loss_of, folder=folder, log=Log(folder / "train.csv"), progress=progress,
               **options)  # type: ignore[arg-type]  # fmt: skip
    return kept, net


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("keep", ["best", "last"])
@pytest.mark.parametrize("killed", [(2,), (7,), (3, 4, 12)])
def test_killed_and_resumed_is_the_same_run(tmp_path: Path, keep: str, killed: tuple[int, ...]) -> None:
    expected, _ = run(tmp_path / "whole", keep=keep)
    for at in killed:
        with pytest.raises(Killed):
            run(tmp_path / "parts", killer(at), keep=keep)
        torch.manual_seed(at)  # another process has another random state
    resumed, net = run(tmp_path / "parts", keep=keep)
    assert same(resumed, expected)
    assert same(dict(net.state_dict()), expected)


def test_a_run_without_saved_state_begins_anew(tmp_path: Path) -> None:
    expected, _ = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "parts", killer(6), save_seconds=1e9)
    assert not (tmp_path / "parts" / "net.state.pt").exists()
    assert same(run(tmp_path / "parts")[0], expected)


def test_what_a_run_depends_on(tmp_path: Path) -> None:
    first, _ = run(tmp_path / "a")
    again, _ = run(tmp_path / "b")
    other, _ = run(tmp_path / "c", seed=2)
    assert same(first, again) and not same(first, other)
    checked, _ = run(tmp_path / "d", validate=None)
    assert same(first, checked)  # looking at the net does not change it


def test_best_and_last(tmp_path: Path) -> None:
    figures = iter([5.0, 2.0, 3.0, 4.0])
    seen: list[State] = []

    def validate(net: nn.Module) -> float:
        seen.append({key: value.clone() for key, value in net.state_dict().items()})
        return next(figures)

    best, net = run(tmp_path / "best", validate=validate, keep="best")
    assert len(seen) == 4 and same(best, seen[1]) and same(dict(net.state_dict()), seen[1])
    assert not net.training
    figures = iter([5.0, 2.0, 3.0, 4.0])
    last, _ = run(tmp_path / "last", validate=validate, keep="last")
    assert same(last, seen[-1]) and not same(last, best)
    nothing, _ = run(tmp_path / "nan", validate=lambda net: float("nan"), keep="best")
    assert same(nothing, last)


def test_averaged_weights_are_kept_and_validated(tmp_path: Path) -> None:
    """A running mean at first, then one that forgets."""
    newest, _ = run(tmp_path / "a", schedule=replace(SCHEDULE, average=0.0))
    averaged, _ = run(tmp_path / "b")
    assert not same(newest, averaged)
    hand: State = {key: value.clone() for key, value in new_net().state_dict().items()}

    def watch(net: str, step: int, steps: int, text: str) -> None:
        for key, value in watched.state_dict().items():
            decay = min(0.98, step / (step + 9))
            hand[key] = hand[key] * decay + value * (1 - decay) if value.is_floating_point() else value.clone()

    watched = new_net()
    kept = fit("net", watched, loss_of, SCHEDULE, 1, tmp_path, Log(tmp_path / "log.csv"), watch)
    for key, value in kept.items():
        torch.testing.assert_close(value, hand[key], rtol=1e-4, atol=1e-6)


def test_it_learns(tmp_path: Path) -> None:
    before = np.mean([loss_of(new_net().eval(), step_rng(9, "x", n)).item() for n in range(20)])
    _, net = run(tmp_path, schedule=replace(SCHEDULE, steps=80), save_seconds=1e9, validate=None)
    after = np.mean([loss_of(net, step_rng(9, "x", n)).item() for n in range(20)])
    assert after < 0.2 * before


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_log(tmp_path: Path) -> None:
    run(tmp_path, schedule=replace(SCHEDULE, steps=45, validate=3), save_seconds=1e9)
    rows = rows_of(tmp_path / "train.csv")
    assert [int(row["step"]) for row in rows] == [15, 20, 30, 40, 45]
    assert [bool(row["validation_mre_mm"]) for row in rows] == [True, False, True, False, True]
    assert all(row["net"] == "net" and float(row["loss"]) >= 0 and float(row["seconds"]) >= 0 for row in rows)
    Log(tmp_path / "train.csv").write("other", 1, 0.5, 0.1)  # a resumed run goes on in the same file
    assert len(rows_of(tmp_path / "train.csv")) == 6


def test_the_learning_rate() -> None:
    schedule = Schedule(steps=100, batch=1, learning_rate=2.0)
    rates = [_rate(schedule, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == rates[10] == max(rates) == 2.0
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.02 < rates[-1] < 0.025 and rates[55] == pytest.approx(1.01)
    assert all(_rate(Schedule(n, 1, 1.0), step) > 0 for n in (1, 2, 3) for step in range(n))


def test_batches() -> None:
    assert sorted(batches(np.random.default_rng(0), 5, 5)) == [0, 1, 2, 3, 4]
    assert len(set(batches(np.random.default_rng(0), 10, 4))) == 4
    many = list(batches(np.random.default_rng(0), 3, 8))
    assert len(many) == 8 and sorted(many[:3]) == sorted(many[3:6]) == [0, 1, 2]


def test_steps_draw_their_own_numbers() -> None:
    keys = [(0, "a", 1), (0, "a", 2), (0, "b", 1), (1, "a", 1)]
    assert len({step_rng(*key).random() for key in keys}) == 4
    assert step_rng(0, "a", 1).random() == step_rng(0, "a", 1).random()


def test_using_other_weights_for_a_while() -> None:
    net = new_net().train()
    kept = {key: value.clone() for key, value in net.state_dict().items()}
    zeros = {key: torch.zeros_like(value) for key, value in kept.items()}
    with pytest.raises(Killed), using(net, zeros) as inside:
        assert not inside.training and same(dict(inside.state_dict()), zeros)
        raise Killed
    assert same(dict(net.state_dict()), kept)


def test_a_full_disk_is_one_error_and_weights_are_for_the_group(tmp_path: Path) -> None:
    weights = {"weight": torch.zeros(3)}
    with pytest.raises(CheckpointError):
        write_weights(Path("/dev/full"), weights)
    before = os.umask(0o027)
    try:
        write_weights(tmp_path / "net.safetensors", weights)
    finally:
        os.umask(before)
    assert (tmp_path / "net.safetensors").stat().st_mode & 0o777 == 0o640
