"""What the train command makes of its options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trt_landmarks.cli import app
from trt_landmarks.errors import TrtlmError
from trt_landmarks.training import command
from trt_landmarks.training.settings import KINDS, Settings


def test_steps_are_set_for_the_nets_that_are_named() -> None:
    before = Settings().shortened(0.5)
    after = before.with_steps({"coarse": 7, "correlated": 9})
    assert (after.coarse.steps, after.correlated.steps) == (7, 9)
    assert (after.shared, after.independent) == (before.shared, before.independent)
    assert after.coarse.learning_rate == before.coarse.learning_rate


def test_the_command_takes_steps_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Settings] = []

    def run(task: object, training: object, validation: object, settings: Settings, *_: object) -> None:
        taken.append(settings)
        raise TrtlmError("enough")

    monkeypatch.setattr(command, "Run", run)
    for name in ("load_task", "load_dataset", "k_folds"):
        monkeypatch.setattr(command, name, lambda *_: _Anything())
    arguments = ["train", "t.yaml", "--data", "d", "--out", "o", "--length", "2", "--contrast", "0.3"]
    for kind in KINDS[:2]:
        arguments += ["--steps", f"{kind}=5"]
    done = CliRunner().invoke(app, arguments)
    assert str(done.exception) == "enough"
    assert [taken[0].coarse.steps, taken[0].shared.steps] == [5, 5]
    assert taken[0].independent.steps == 2 * Settings().independent.steps
    assert taken[0].coarse_augmentation.contrast == taken[0].fine_augmentation.contrast == 0.3
    assert taken[0].fine_augmentation.rotation_deg == Settings().fine_augmentation.rotation_deg


class _Anything:
    """Stands for a dataset, its split and its cases."""

    def __getattr__(self, name: str) -> _Anything:
        return self

    def __getitem__(self, index: int) -> _Anything:
        return self

    def __iter__(self) -> Iterator[_Anything]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __call__(self, *_: object) -> _Anything:
        return self


@pytest.mark.parametrize("text", ["fine=3", "coarse", "coarse=", "coarse=0", "coarse=-1", "coarse=1.5", "=4"])
def test_wrong_steps_say_what_is_right(text: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", "t.yaml", "--data", "d", "--out", str(tmp_path), "--steps", text])
    assert isinstance(done.exception, TrtlmError)
    assert text in str(done.exception) and "coarse=3000" in str(done.exception)


def test_lines_of_progress_off_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr("trt_landmarks.training.command.time.monotonic", lambda: float(next(clock)))
    for quiet in (False, True):
        with command._Bar(quiet, 2) as bar:
            for step in range(1, 31):
                bar("coarse", step, 100, "loss 3")
            bar("coarse", -1, -1, "120 s")
        lines = capsys.readouterr().err.splitlines()
        assert bool(lines) != quiet
        if lines:
            assert "net 1 of 2" in lines[0] and "min left" in lines[0] and lines[-1] == "coarse: 120 s"
            assert 3 <= len(lines) <= 5


def test_a_stage_that_does_not_help_is_told() -> None:
    def metrics(shape: float, coarse: float, fine: float) -> dict[str, object]:
        return {
            name: {"overall": {"mre_mm": value}}
            for name, value in (("mean_shape", shape), ("coarse", coarse), ("fine", fine))
        }

    settings = Settings()
    assert command._doubts(metrics(5, 2, 1), settings) == []
    assert len(command._doubts(metrics(5, 2, 4.4), settings)) == 1
    assert len(command._doubts(metrics(5, 6, 7), settings)) == 2
