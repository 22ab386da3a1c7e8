"""A whole training run on small synthetic heads: begins, is killed, resumes, and leaves a checkpoint."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.synthetic import HEAD, blobs, head_geometry, rotation, small_task
from trt_landmarks.data.dataset import Case
from trt_landmarks.errors import CheckpointError, DatasetError
from trt_landmarks.scan import Scan, write_scan
from trt_landmarks.task.task import Task
from trt_landmarks.training import run as run_module
from trt_landmarks.training.checkpoint import Checkpoint, load_checkpoint
from trt_landmarks.training.loop import Schedule, fit
from trt_landmarks.training.run import Run
from trt_landmarks.training.settings import Settings
from trt_landmarks.training.validation import localize_cases

TASK = small_task(intensity={"low": 0, "high": 100})
SETTINGS = Settings(
    seed=3,
    coarse=Schedule(steps=3, batch=2, learning_rate=1e-3, validate=2),
    shared=Schedule(steps=2, batch=2, learning_rate=1e-3),
    independent=Schedule(steps=2, batch=2, learning_rate=1e-3, validate=2),
    correlated=Schedule(steps=3, batch=2, learning_rate=1e-3, validate=2),
)
STAGES = ["coarse", "shared", "landmark-001", "landmark-002", "landmark-003", "landmark-004", "group-mid"]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    folder = tmp_path_factory.mktemp("heads")
    rng = np.random.default_rng(0)
    cases = []
    for n in range(4):
        geometry = head_geometry(rotation(*rng.uniform(-10, 10, 3)), mirrored=n % 2 == 0)
        turn = rotation(*rng.uniform(-10, 10, 3))
        points = (HEAD + rng.normal(size=HEAD.shape) * 0.3) @ turn.T + geometry.centre
        write_scan(Scan(f"head{n}", None, blobs(geometry, points, [1] * 7, 1.5), geometry), folder / f"head{n}.mha")
        cases.append(Case(f"head{n}", folder / f"head{n}.mha", points))
    return cases


def ignore(*_: object) -> None:
    pass


class Killed(KeyboardInterrupt):
    pass


def train(
    cases: Sequence[Case], folder: Path, progress: Callable[..., None] = ignore, task: Task = TASK,
    settings: Settings = SETTINGS, validation: int = 1,
) -> Checkpoint:  # fmt: skip
    """As in a fresh process: the random state at the beginning is always the same."""
    torch.manual_seed(0)
    count = len(cases) - validation
    device = torch.device("cpu")
    return Run(task, cases[:count], cases[count:], settings, folder, progress, device).execute()


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {
        f"{graph}.{key}": value for graph, net in checkpoint.nets.items() for key, value in net.state_dict().items()
    }


def same(a: Checkpoint, b: Checkpoint) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def finished(cases: list[Case], tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Path]:
    folder = tmp_path_factory.mktemp("run")
    return train(cases, folder), folder


def test_a_run_leaves_a_checkpoint(finished: tuple[Checkpoint, Path], cases: list[Case]) -> None:
    checkpoint, folder = finished
    again = load_checkpoint(folder)
    assert same(again, checkpoint) and again.task == TASK
    record = again.record
    assert record["seed"] == 3 and record["settings"]["coarse"]["steps"] == 3
    assert record["split"] == {"train": ["head0", "head1", "head2"], "val": ["head3"]}
    assert record["metrics"]["cases"] == ["head3"]
    found = localize_cases(again, cases[3:])[0]
    for stage, points in (("fine", found.points), ("coarse", found.coarse_points)):
        error = np.linalg.norm(points - cases[3].points, axis=1).mean()
        assert record["metrics"][stage]["overall"]["mre_mm"] == pytest.approx(error, abs=1e-3)
    # The coarse net predicts the difference to the training set's mean shape.
    sizes = [np.linalg.norm(shape - shape.mean(0)) for shape in (again.mean_shape, HEAD)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
    assert sorted(path.stem for path in (folder / "stages").glob("*.safetensors")) == sorted(STAGES)
    assert not list((folder / "stages").glob("*.state.pt")) and not list((folder / "stages").glob("*.partial"))
    assert {line.split(",")[0] for line in (folder / "train.csv").read_text().splitlines()[1:]} == set(STAGES)


def test_every_net_has_learned(finished: tuple[Checkpoint, Path], cases: list[Case]) -> None:
    """Each landmark's net comes from the shared one and went its own way."""
    from safetensors.torch import load_file

    _, folder = finished
    stages = {name: load_file(folder / "stages" / f"{name}.safetensors") for name in STAGES}
    key = "encoder.levels.0.0.conv.weight"
    singles = [stages[name][key] for name in STAGES[2:6]]
    for n, single in enumerate(singles):
        torch.testing.assert_close(single, stages["shared"][key], atol=0.1, rtol=0)
        assert all(not torch.equal(single, other) for other in [stages["shared"][key], *singles[:n]])
    independent = load_checkpoint(folder).nets["independent"].state_dict()[f"nets.{key}"]
    assert torch.equal(independent, torch.cat(singles))


@pytest.mark.parametrize(
    "kill", [("coarse", 3), ("shared", 2), ("landmark-002", 1), ("landmark-003", 2), ("group-mid", 2)]
)
def test_killed_and_resumed(
    finished: tuple[Checkpoint, Path], cases: list[Case], tmp_path: Path, kill: tuple[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(run_module, "fit", functools.partial(fit, save_seconds=-1.0))

    def progress(net: str, step: int, steps: int, text: str) -> None:
        if (net, step) == kill:
            raise Killed

    with pytest.raises(Killed):
        train(cases, tmp_path, progress)
    with pytest.raises(CheckpointError, match="has not finished"):
        load_checkpoint(tmp_path)
    done: list[tuple[str, int]] = []
    resumed = train(cases, tmp_path, lambda net, step, steps, text: done.append((net, step)))
    assert same(resumed, finished[0])
    before = STAGES[: STAGES.index(kill[0])]
    assert not {net for net, _ in done} & set(before)
    # Saving follows the report, so the step that was killed is taken again, and none before it.
    assert done[0] == kill


def test_a_finished_run_is_not_trained_again(finished: tuple[Checkpoint, Path], cases: list[Case]) -> None:
    def never(*_: object) -> None:
        raise AssertionError("trained again")

    assert same(train(cases, finished[1], never), finished[0])


@pytest.mark.parametrize(
    ("what", "key"),
    [
        ("task", "task.name"),
        ("seed", "seed"),
        ("settings", "settings.coarse.steps"),
        ("split", "split.train"),
        ("annotations", "annotations_sha256"),
        ("image", "images.head0"),
    ],
)
def test_the_folder_of_another_run_is_refused(
    finished: tuple[Checkpoint, Path], cases: list[Case], what: str, key: str, tmp_path: Path
) -> None:
    _, folder = finished
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    task = TASK.model_copy(update={"name": "other"}) if what == "task" else TASK
    settings = {"seed": replace(SETTINGS, seed=4), "settings": SETTINGS.shortened(0.5)}.get(what, SETTINGS)
    if what == "annotations":
        cases = [replace(cases[0], points=cases[0].points + 0.1), *cases[1:]]
    if what == "image":
        image = tmp_path / "head0.mha"
        image.write_bytes(cases[0].image.read_bytes()[:-1] + b"x")
        cases = [replace(cases[0], image=image), *cases[1:]]
    with pytest.raises(CheckpointError) as caught:
        train(cases, folder, task=task, settings=settings, validation=2 if what == "split" else 1)
    assert caught.value.code == "run_differs" and key in caught.value.message
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_only_describes_a_model_may_change(finished: tuple[Checkpoint, Path], cases: list[Case]) -> None:
    task = TASK.model_copy(update={"description": "other words", "sdr_radii_mm": (1.0, 3.0)})
    assert same(train(cases, finished[1], task=task), finished[0])
    train(cases, finished[1])  # as it was, for the tests after this one


def test_two_trainings_in_one_folder(cases: list[Case], tmp_path: Path) -> None:
    def second(*_: object) -> None:
        with pytest.raises(CheckpointError) as caught:
            train(cases, tmp_path)
        assert caught.value.code == "run_in_use"
        raise Killed

    with pytest.raises(Killed):
        train(cases, tmp_path, second)


def test_a_damaged_stage_is_named(finished: tuple[Checkpoint, Path], cases: list[Case], tmp_path: Path) -> None:
    shutil.copytree(finished[1], tmp_path / "run")
    stage = tmp_path / "run" / "stages" / "shared.safetensors"
    stage.write_bytes(stage.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"shared\.safetensors"):
        train(cases, tmp_path / "run")


def test_a_task_file_changed_after_training_is_refused(finished: tuple[Checkpoint, Path], tmp_path: Path) -> None:
    shutil.copytree(finished[1], tmp_path / "run")
    task = TASK.model_copy(update={"landmarks": TASK.landmarks[::-1]})
    (tmp_path / "run" / "task.yaml").write_text(task.to_yaml())
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "run")
    assert caught.value.code == "task_changed" and "landmarks" in caught.value.message


def test_what_the_checks_saw_is_told_and_kept(cases: list[Case], tmp_path: Path) -> None:
    copied = [replace(cases[0], id="again"), *cases]
    lines: list[str] = []
    run = Run(
        TASK, copied[:3], copied[3:], SETTINGS.shortened(0.1), tmp_path, lambda *_: None, torch.device("cpu"),
        lines.append, ["a scan without landmarks"],
    )  # fmt: skip
    data = run.execute().record["data"]
    assert data["left_out"] == ["a scan without landmarks"]
    assert any("again" in warning and "head0" in warning for warning in data["warnings"])
    assert any(line.startswith("head1") for line in lines)


def test_without_validation_there_are_no_metrics(cases: list[Case], tmp_path: Path) -> None:
    task = small_task(groups=[], symmetry=None, intensity=TASK.intensity.model_dump())
    checkpoint = train(cases[:2], tmp_path, task=task, settings=SETTINGS.shortened(0.1), validation=0)
    assert "metrics" not in checkpoint.record
    assert set(checkpoint.nets) == {"coarse", "independent"}


def test_what_no_training_case_shows_is_named(cases: list[Case], tmp_path: Path) -> None:
    """A validation case alone does not teach."""
    blind = []
    for case in cases[:3]:
        points = case.points.copy()
        points[[1, 4]] = np.nan
        blind.append(Case(case.id, case.image, points))
    with pytest.raises(DatasetError, match="no training case is annotated with ear-r, nose"):
        train([*blind, cases[3]], tmp_path / "run")
    assert not (tmp_path / "run" / "task.yaml").exists()


def test_partly_annotated_cases_are_trained_on(cases: list[Case], tmp_path: Path) -> None:
    """Each landmark is missing somewhere; the group is missing altogether in one case."""
    partly = [Case(case.id, case.image, case.points.copy()) for case in cases]
    partly[0].points[[4, 5, 6]] = np.nan
    partly[1].points[[0, 1]] = np.nan
    partly[3].points[[2, 6]] = np.nan
    checkpoint = train(partly, tmp_path)
    for key, value in weights(checkpoint).items():
        assert torch.isfinite(value).all(), key
    assert np.isfinite(checkpoint.record["metrics"]["fine"]["overall"]["mre_mm"])
    json.loads((tmp_path / "checkpoint.json").read_text())


def test_settings() -> None:
    short = Settings().shortened(0.001)
    assert (short.coarse.steps, short.shared.steps, short.independent.steps, short.correlated.steps) == (3, 1, 1, 1)
    assert json.loads(json.dumps(short.to_dict()))["coarse"]["steps"] == 3
