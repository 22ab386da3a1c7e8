"""Metrics with answers worked out by hand, and evaluations in which nothing may disappear quietly."""

import json
import math

import numpy as np
import pytest
from rich.console import Console

from trt_landmarks.data.annotations import write_mrk_json
from trt_landmarks.data.dataset import load_dataset, split_from_file
from trt_landmarks.errors import LandmarkFileError, PredictionsError
from trt_landmarks.results.case import CaseError, CaseResult, Landmark
from trt_landmarks.results.evaluation import evaluate, evaluate_points
from trt_landmarks.results.predictions import Predictions
from trt_landmarks.task.task import load_task

NAN = [math.nan] * 3


def located(name, position, status="located"):
    return Landmark(name, status, tuple(position), (0.0, 0.0, 0.0), 0.9)


def result(*cases, task="toy"):
    return Predictions(task, {"name": "m"}, {"name": "e"}, list(cases))


def failed(case_id):
    return CaseResult(case_id, f"{case_id}.nii.gz", "failed", CaseError("scan_truncated", "the scan ends early."))


def by_hand():
    """Errors: a 5 and 2, b 1; b is not annotated in the second case, the third case is not predicted."""
    truth = np.array([[[10, 10, 10], [20, 20, 20]], [[0, 0, 0], NAN], [[1, 1, 1], [2, 2, 2]]], dtype=float)
    pred = np.array([[[13, 6, 10], [20, 20, 21]], [[0, 0, -2], [5, 5, 5]], [NAN, NAN]], dtype=float)
    return pred, truth


def test_metrics_worked_out_by_hand():
    pred, truth = by_hand()
    tables = evaluate_points(pred, truth, ["a", "b"], [1, 2])
    row = tables.overall
    assert (row.n, row.n_annotated) == (3, 5)
    assert row.mre_mm == pytest.approx(8 / 3)
    assert row.sd_mm == pytest.approx(math.sqrt(13 / 3))
    assert (row.median_mm, row.max_mm) == (2, 5)
    assert row.p95_mm == pytest.approx(4.7)
    assert row.axis_mm == pytest.approx((1, 4 / 3, 1))
    assert [one.percent for one in row.sdr] == pytest.approx([100 / 3, 200 / 3])
    assert [one.percent_of_all for one in row.sdr] == pytest.approx([20, 40])
    assert row.mre_interval is None and row.sdr[0].interval is None

    a, b = tables.landmarks
    assert (a.name, a.n, a.n_annotated, a.mre_mm) == ("a", 2, 3, 3.5)
    assert a.axis_mm == pytest.approx((1.5, 2, 1))
    assert (b.name, b.n, b.n_annotated, b.mre_mm, b.max_mm) == ("b", 1, 2, 1, 1)
    assert math.isnan(b.sd_mm)
    assert b.sdr[0].percent == 100 and b.sdr[0].percent_of_all == 50


def test_groups_pool_their_landmarks():
    pred, truth = by_hand()
    tables = evaluate_points(pred, truth, ["a", "b"], [1], groups={"both": ["b", "a"], "one": ["b"]})
    assert [group.name for group in tables.groups] == ["both", "one"]
    assert tables.groups[0].mre_mm == tables.overall.mre_mm
    assert tables.groups[1].mre_mm == tables.landmarks[1].mre_mm
    with pytest.raises(ValueError, match="unknown landmarks: c"):
        evaluate_points(pred, truth, ["a", "b"], [1], groups={"g": ["c"]})


def test_a_point_at_the_radius_is_within_it():
    truth = np.array([[[1.0, 0, 0]]])
    inside = evaluate_points(truth + np.array([0.3, 0, 0]), truth, ["a"], [0.3])  # 1.3 - 1 is a little above 0.3
    outside = evaluate_points(truth + np.array([0.30001, 0, 0]), truth, ["a"], [0.3])
    assert (inside.overall.sdr[0].percent, outside.overall.sdr[0].percent) == (100, 0)


def test_nothing_predicted_gives_undefined_errors_but_all_misses():
    _, truth = by_hand()
    row = evaluate_points(np.full_like(truth, np.nan), truth, ["a", "b"], [1], bootstrap=50).overall
    assert (row.n, row.n_annotated, row.sdr[0].percent_of_all) == (0, 5, 0)
    assert row.to_dict()["mre_mm"] is None and row.to_dict()["sdr"][0]["percent"] is None
    json.dumps(row.to_dict(), allow_nan=False)


@pytest.mark.parametrize("shape", [(3, 2), (3, 1, 3), (2, 2, 3)])
def test_wrong_shapes_are_refused(shape):
    _, truth = by_hand()
    with pytest.raises(ValueError, match="must both be"):
        evaluate_points(np.zeros(shape), truth, ["a", "b"], [1])


def along_x(errors):
    """Predictions and truth ``[C, N, 3]`` with the given radial errors ``[C, N]``."""
    errors = np.asarray(errors, dtype=float)
    pred = np.zeros((*errors.shape, 3))
    pred[..., 0] = errors
    return pred, np.zeros_like(pred)


def overall(errors, radii, **options):
    """The overall row of points with the given radial errors ``[C, N]``."""
    pred, truth = along_x(errors)
    return evaluate_points(pred, truth, [str(i) for i in range(pred.shape[1])], radii, **options).overall


def test_interval_of_two_cases_is_known():
    # Means of resamples: 0, 5 and 10 with probabilities 1/4, 1/2, 1/4, so 95 % reach from 0 to 10.
    row = overall([[0], [10]], [1], bootstrap=2000)
    assert row.mre_interval == (0, 10)
    assert row.sdr[0].interval == (0, 100)


def test_one_case_has_no_interval():
    assert overall([[1, 2, 3]], [1], bootstrap=100).mre_interval is None


def test_cases_are_resampled_and_not_points():
    per_case = np.random.default_rng(1).gamma(2, 1, (12, 1))
    one = overall(per_case, [1.5], bootstrap=500)
    many = overall(np.repeat(per_case, 50, axis=1), [1.5], bootstrap=500)
    assert many.mre_interval == pytest.approx(one.mre_interval)
    assert many.sdr[0].interval == pytest.approx(one.sdr[0].interval)


def test_cases_that_were_not_predicted_do_not_widen_the_interval():
    pred, truth = along_x(np.arange(1.0, 9.0)[:, None])
    alone = evaluate_points(pred, truth, ["a"], [4], bootstrap=300).overall
    pred, truth = np.concatenate([pred, np.full((20, 1, 3), np.nan)]), np.concatenate([truth, np.zeros((20, 1, 3))])
    more = evaluate_points(pred, truth, ["a"], [4], bootstrap=300).overall
    assert more.mre_interval == alone.mre_interval
    assert more.sdr[0].percent == alone.sdr[0].percent == 50
    assert more.sdr[0].percent_of_all == pytest.approx(100 * 4 / 28)


def test_the_seed_decides_the_interval():
    errors = np.random.default_rng(2).gamma(2, 1, (15, 3))
    first, again, other = (overall(errors, [1], bootstrap=200, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.mre_interval != other.mre_interval


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(3)

    def sample(cases):
        """Errors of correlated points: a factor per case, mean 1, times one per point, mean 1."""
        return rng.gamma(4, 0.25, (cases, 1)) * rng.uniform(0.5, 1.5, (cases, 6))

    radius = 1.0
    true_sdr = 100 * np.mean(sample(200_000) <= radius)
    covered, covered_sdr, naive, trials = 0, 0, 0, 300
    for trial in range(trials):
        errors = sample(40)
        row = overall(errors, [radius], bootstrap=300, seed=trial)
        covered += row.mre_interval[0] <= 1 <= row.mre_interval[1]
        covered_sdr += row.sdr[0].interval[0] <= true_sdr <= row.sdr[0].interval[1]
        naive += abs(errors.mean() - 1) <= 1.96 * errors.std() / math.sqrt(errors.size)
    assert 0.90 <= covered / trials <= 0.985
    assert 0.90 <= covered_sdr / trials <= 0.985
    assert naive / trials < 0.8  # what resampling points would give


@pytest.fixture
def annotated(tmp_path):
    """Landmark files of cases a, b and c; the annotation of c lacks landmark 2; all have an extra landmark."""
    folder = tmp_path / "landmarks"
    folder.mkdir()
    points = {"1": np.array([1.0, 0, 0]), "2": np.array([0, 2.0, 0]), "extra": np.array([9.0, 9, 9])}
    write_mrk_json(folder / "a.mrk.json", points)
    write_mrk_json(folder / "b.mrk.json", points)
    write_mrk_json(folder / "c.mrk.json", {name: points[name] for name in ("1", "extra")})
    return folder


def ok(case_id, *positions, status="located"):
    marks = tuple(located(str(n), position, status) for n, position in enumerate(positions, start=1))
    return CaseResult(case_id, f"{case_id}.nii.gz", landmarks=marks)


def test_every_case_is_accounted_for(annotated):
    predictions = result(ok("a", (1, 0, 1), (0, 2, 3)), failed("b"), ok("d", (0, 0, 0), (0, 0, 0)))
    done = evaluate(predictions, annotated, [1, 2], bootstrap=100)
    assert done.n_cases_expected == 3
    assert (done.evaluated, done.failed, done.missing, done.unannotated) == (("a",), ("b",), ("c",), ("d",))
    assert done.absent == {"c": ("2",)}
    assert done.ignored_names == ("extra",)
    row = done.tables.overall
    assert (row.n, row.n_annotated) == (2, 5)
    assert row.mre_mm == 2
    assert row.sdr[0].percent == 50
    assert row.sdr[0].percent_of_all == 20


def test_doubtful_points_stay_in_the_errors_and_are_counted(annotated):
    predictions = result(
        ok("a", (1, 0, 1), (0, 2, 1), status="outside_scan"), ok("b", (1, 0, 4), (0, 2, 4), status="low_confidence")
    )
    row = evaluate(predictions, annotated, [2]).tables.overall
    assert row.mre_mm == 2.5
    assert row.flagged == {"outside_scan": 2, "low_confidence": 2}
    assert row.to_dict()["n_outside_scan"] == 2


def test_only_some_cases(annotated):
    predictions = result(ok("a", (1, 0, 1), (0, 2, 3)), ok("d", (0, 0, 0), (0, 0, 0)))
    done = evaluate(predictions, annotated, [1], cases=["a"])
    assert (done.n_cases_expected, done.missing, done.unannotated) == (1, (), ())
    with pytest.raises(LandmarkFileError, match="has no landmark file of d"):
        evaluate(predictions, annotated, [1], cases=["a", "d"])


def test_a_landmark_that_was_not_predicted_is_a_miss(annotated):
    done = evaluate(result(ok("a", (1, 0, 0), (0, 2, 0)), ok("b", (1, 0, 0))), annotated, [1])
    assert [(row.n, row.n_annotated) for row in done.tables.landmarks] == [(2, 3), (1, 2)]
    assert done.tables.overall.sdr[0].percent_of_all == pytest.approx(60)


def test_nothing_to_compare_is_an_error_with_a_remedy(annotated, tmp_path):
    with pytest.raises(PredictionsError, match=r"predicted x; annotated a, b, c\. A scan and its landmark file need"):
        evaluate(result(ok("x", (0, 0, 0))), annotated, [1])
    with pytest.raises(PredictionsError, match="all predictions of annotated scans failed; a: the scan ends early"):
        evaluate(result(failed("a"), failed("b")), annotated, [1])
    (tmp_path / "empty").mkdir()
    with pytest.raises(LandmarkFileError, match=r"holds no landmark files\. Name the folder"):
        evaluate(result(ok("a", (0, 0, 0))), tmp_path / "empty", [1])
    with pytest.raises(LandmarkFileError, match="no such folder"):
        evaluate(result(ok("a", (0, 0, 0))), tmp_path / "none", [1])


def test_predictions_of_another_task_are_refused(annotated, repo_root):
    task = load_task(repo_root / "tasks" / "mouse-skull.yaml")
    with pytest.raises(PredictionsError, match="are of task 'toy', which is not the task 'mouse-skull'"):
        evaluate(result(ok("a", (0, 0, 0))), annotated, task)
    strange = result(CaseResult("a", "a.nii.gz", landmarks=(located("nose", (0, 0, 0)),)), task="mouse-skull")
    with pytest.raises(PredictionsError, match="with the landmarks nose"):
        evaluate(strange, annotated, task)


def test_json_and_text_say_the_same(annotated, tmp_path):
    predictions = result(ok("a", (1, 0, 1), (0, 2, 3)), ok("b", (1, 0, 2), (0, 2, 2)), failed("c"))
    done = evaluate(predictions, annotated, [1, 2.5], bootstrap=200)
    done.write(tmp_path / "metrics.json")
    content = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert content == done.to_dict()
    assert content["overall"]["mre_mm"] == 2
    assert content["overall"]["sdr"][1]["radius_mm"] == 2.5
    assert content["overall"]["mre_interval95_mm"] == [2, 2]
    assert [row["name"] for row in content["landmarks"]] == ["1", "2"]
    assert content["cases"]["failed"] == ["c"]

    text = done.table()
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["landmark", "n"]
    assert lines[1].split()[:5] == ["1", "2", "1.500", "[1.000,", "2.000]"]
    assert len({len(line) for line in lines[:5]}) == 1
    assert "within 2.5 mm: 75.00 % [50.00, 100.00] of the predicted points, 60.00 % of all" in text
    assert "scans: 2 of 3 annotated evaluated, 1 failed, 0 missing" in text
    assert "failed: c" in text
    console = Console(width=40, force_terminal=False)
    with console.capture() as captured:
        done.render(console)
    assert captured.get() == text + "\n"


def test_predicting_the_mean_shape_of_real_heads(data_root, repo_root):
    """The baseline to beat, and the same number from the files by plain arithmetic."""
    task = load_task(repo_root / "tasks" / "mouse-skull.yaml")
    folder = data_root / "mouse-skull-ct" / "posed"
    dataset = load_dataset(folder, task)
    split = split_from_file(data_root / "mouse-skull-ct" / "split.json", dataset.ids)
    mean = np.mean([case.points for case in dataset.subset(split.train)], axis=0)
    cases = [
        CaseResult(
            case.id,
            str(case.image),
            landmarks=tuple(located(n, p.tolist()) for n, p in zip(task.landmarks, mean, strict=True)),
        )
        for case in dataset
    ]
    predictions = result(*cases, task=task.name)
    done = evaluate(predictions, folder / "landmarks", task, bootstrap=200)
    assert (len(done.evaluated), done.failed, done.missing, done.unannotated) == (41, (), (), ())
    assert [group.name for group in done.tables.groups] == ["midsagittal"]
    row = done.tables.overall
    assert row.n == 41 * 45
    assert row.mre_interval is not None and row.mre_interval[0] < row.mre_mm < row.mre_interval[1]
    unseen = evaluate(predictions, folder / "landmarks", task, cases=split.validation)
    assert unseen.evaluated == tuple(sorted(split.validation))
    assert unseen.tables.overall.mre_mm == pytest.approx(1.72224, abs=2e-5)
    plain = {path.name.split(".mrk")[0]: json.loads(path.read_text()) for path in (folder / "landmarks").iterdir()}
    points = {
        case_id: np.array([point["position"] for point in content["markups"][0]["controlPoints"]])
        for case_id, content in plain.items()
    }
    errors = np.array([points[case_id] for case_id in split.validation])
    errors = np.sqrt(((errors - np.array([points[case_id] for case_id in split.train]).mean(axis=0)) ** 2).sum(axis=2))
    assert unseen.tables.overall.mre_mm == pytest.approx(errors.mean(), abs=2e-5)
    assert unseen.tables.overall.median_mm == pytest.approx(np.median(errors), abs=2e-5)
    for row, column in zip(unseen.tables.landmarks, errors.T, strict=True):
        assert row.mre_mm == pytest.approx(column.mean(), abs=2e-5)
