"""The shipped mouse-skull model, on real scans, as it is installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pose import brains, half, not_heads
from tests.synthetic import turned
from trt_landmarks.build import Request, build
from trt_landmarks.bundles.builds import PRECISIONS, Build, find_build
from trt_landmarks.bundles.bundle import Bundle, open_bundle
from trt_landmarks.bundles.select import open_engine
from trt_landmarks.calibration.scans import choose_scans
from trt_landmarks.data.dataset import load_dataset, split_from_file
from trt_landmarks.engines.tensorrt.flavours import RTX
from trt_landmarks.engines.tensorrt.record import PlanRecord
from trt_landmarks.geometry import Floats, Geometry, rigid_rotation, turned_by
from trt_landmarks.localization.localizer import Localizer
from trt_landmarks.localization.pose import PosingLocalizer
from trt_landmarks.localization.result import Localization
from trt_landmarks.results.metrics import evaluate_points
from trt_landmarks.scan import Scan, read_scan
from trt_landmarks.task.graphs import SCAN


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle("mouse-skull")


@pytest.fixture(scope="module")
def localizer(bundle: Bundle) -> Localizer:
    return Localizer(bundle.task, bundle.mean_shape, open_engine(bundle, "onnxruntime")[0])


@pytest.fixture(scope="module")
def validation(bundle: Bundle, localizer: Localizer, data_root: Path) -> tuple[list[Scan], list[Localization], Floats]:
    """The five validation scans, what is found in them, and their annotation ``[5, N, 3]``."""
    folder = data_root / "mouse-skull-ct"
    dataset = load_dataset(folder / "posed", bundle.task)
    cases = dataset.subset(split_from_file(folder / "split.json", dataset.ids).validation)
    scans = [read_scan(case.image) for case in cases]
    return scans, [localizer.localize(scan) for scan in scans], np.stack([case.points for case in cases])


def test_files_are_small_and_their_origin_is_told(bundle: Bundle) -> None:
    assert max(path.stat().st_size for path in bundle.root.rglob("*")) <= 15e6
    assert {"data", "licence", "command"} <= set(bundle.manifest["provenance"])
    assert "seed" in bundle.manifest["training"]


def test_millimetres_on_the_validation_scans(
    bundle: Bundle, validation: tuple[list[Scan], list[Localization], Floats]
) -> None:
    _, found, truth = validation
    names, radii = bundle.task.landmarks, (0.5,)
    fine = evaluate_points(np.stack([one.points for one in found]), truth, names, radii).overall
    coarse = evaluate_points(np.stack([one.coarse_points for one in found]), truth, names, radii).overall
    assert fine.n == 225
    assert fine.mre_mm <= 0.20
    assert fine.sdr[0].percent >= 96
    assert coarse.mre_mm <= 0.40
    recorded = bundle.manifest["training"]["metrics"]["fine"]["overall"]["mre_mm"]
    assert fine.mre_mm == pytest.approx(recorded, abs=2e-3)  # what ships is what was measured


def test_confidence_and_expected_errors_on_the_validation_scans(
    bundle: Bundle, validation: tuple[list[Scan], list[Localization], Floats]
) -> None:
    """The confidence was fitted on these five, among others: what ships is what was measured."""
    assert bundle.confidence is not None
    _, found, truth = validation
    judged = [bundle.confidence.judge(one) for one in found]
    reliable = [one.reliability for one in judged if one.reliability is not None]
    errors = np.stack([np.linalg.norm(one.points - t, axis=1) for one, t in zip(judged, truth, strict=True)])
    assert len(reliable) == 5 and not any(said.wrong_anatomy for said in reliable)
    large, low = errors > bundle.confidence.large_error_mm, np.stack([said.low for said in reliable])
    assert low[~large].mean() <= 0.1
    assert low[large].mean() > low[~large].mean()
    assert 0.85 <= (errors <= np.stack([said.error_90_mm for said in reliable])).mean() <= 0.97
    assert np.stack([said.expected_error_mm for said in reliable]).mean() == pytest.approx(errors.mean(), rel=0.2)
    assert np.stack([one.confidence for one in judged]).mean() == pytest.approx((~large).mean(), abs=0.05)


def test_what_is_no_mouse_head_or_lies_wrong_is_flagged(
    bundle: Bundle, localizer: Localizer, validation: tuple[list[Scan], list[Localization], Floats]
) -> None:
    scan = validation[0][0]
    upside_down = turned(scan, np.diag([1.0, -1.0, -1.0]))
    noise = np.random.default_rng(0).integers(0, 256, scan.voxels.shape, dtype=np.uint8)
    wrong = [upside_down, Scan("noise", None, noise, scan.geometry)]
    nilearn = importlib.util.find_spec("nilearn")
    if nilearn is not None and nilearn.origin is not None:
        data = Path(nilearn.origin).parent / "datasets" / "data"
        wrong.append(read_scan(data / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"))
    assert bundle.confidence is not None
    for one in wrong:
        said = bundle.confidence.judge(localizer.localize(one)).reliability
        assert said is not None and said.wrong_anatomy and said.low.all()


@pytest.fixture(scope="module")
def any_pose(bundle: Bundle, localizer: Localizer) -> PosingLocalizer:
    return PosingLocalizer(bundle.task, bundle.mean_shape, localizer.engine, None, bundle.confidence)


def test_a_raw_head_is_found_in_the_pose_in_which_it_lies(
    bundle: Bundle, any_pose: PosingLocalizer, data_root: Path
) -> None:
    (case,) = (one for one in load_dataset(data_root / "mouse-skull-ct" / "raw", bundle.task) if one.id == "MRL_MPJ_")
    scan = read_scan(case.image)
    (as_is,), (found,) = any_pose.localize_batch([scan], "as-is"), any_pose.localize_batch([scan])
    assert as_is.wrong_anatomy and not found.wrong_anatomy
    assert np.linalg.norm(found.points - case.points, axis=1).mean() <= 0.18
    assert found.pose is not None and found.pose.rotation is not None
    assert turned_by(found.pose.rotation.T @ rigid_rotation(bundle.mean_shape, case.points)) < 3


@pytest.mark.parametrize("what", ["half a head", "ball", "brain"])
def test_the_search_finds_no_pose_in_what_is_no_whole_head(
    what: str, bundle: Bundle, any_pose: PosingLocalizer, data_root: Path
) -> None:
    raw = read_scan(data_root / "mouse-skull-ct" / "raw" / "images" / "MRL_MPJ_.nii.gz")
    if what == "half a head":  # which the whole model knows rather well: its visible half is found
        scan = half(raw, 1, upper=True)
    elif what == "ball":
        (scan,) = (made.scan for made in not_heads(raw) if made.scan.id == "ball")
    else:
        scan = next((made.scan for made in brains() if made.scan.id == "x 0.1"), raw)
        if scan is raw:
            pytest.skip("nilearn is not installed")
    (found,) = any_pose.localize_batch([scan])
    assert found.wrong_anatomy and found.pose is not None
    assert found.pose.rotation is None and found.pose.runs >= 1


def restored(scan: Scan, order: tuple[int, ...], flips: tuple[bool, ...]) -> Scan:
    """The same scan with its axes stored in another order and direction."""
    voxels = scan.voxels.transpose(*(2 - axis for axis in reversed(order)))
    direction = scan.geometry.direction[:, list(order)].copy()
    size = tuple(scan.geometry.size[axis] for axis in order)
    spacing = tuple(scan.geometry.spacing[axis] for axis in order)
    origin = np.array(scan.geometry.origin)
    for axis, flip in enumerate(flips):
        if flip:
            origin += direction[:, axis] * spacing[axis] * (size[axis] - 1)
            direction[:, axis] *= -1
            voxels = np.flip(voxels, 2 - axis)
    geometry = Geometry(size, spacing, tuple(origin), direction)  # type: ignore[arg-type]
    return Scan(scan.id, None, np.ascontiguousarray(voxels), geometry)


def test_how_a_scan_is_stored_moves_nothing(
    localizer: Localizer, validation: tuple[list[Scan], list[Localization], Floats]
) -> None:
    scan, expected = validation[0][0], validation[1][0].points
    ways = list(product(permutations(range(3)), product((False, True), repeat=3)))
    assert len(ways) == 48
    for order, flips in ways[5::9]:  # the sampling of all 48 is compared in tests/localization/test_localizer.py
        points = localizer.localize(restored(scan, order, flips)).points
        assert np.abs(points - expected).max() <= 0.02 * min(scan.geometry.spacing)


def test_neither_batch_nor_order_changes_a_result(
    localizer: Localizer, validation: tuple[list[Scan], list[Localization], Floats]
) -> None:
    scans, alone, _ = validation
    together = localizer.localize_batch(scans[::-1])[::-1]
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one.points - other.points).max() <= 1e-4
        assert np.abs(one.confidence - other.confidence).max() <= 1e-4


def test_inference_takes_less_than_2_gigabytes(mouse_scans: list[Path], tmp_path: Path) -> None:
    code = f"""
import json, pathlib, sys
import trt_landmarks.cli as cli
sys.argv = ["trtlm", "infer", {str(mouse_scans[0])!r}, "--out", {str(tmp_path / "p.json")!r}, "--model", "mouse-skull"]
try:
    cli.main()
except SystemExit as end:
    status = pathlib.Path("/proc/self/status").read_text()  # not getrusage: that begins with the parent's peak
    print(json.dumps([end.code, int(status.split("VmHWM:")[1].split()[0]) / 2**20]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    code_, gigabytes = json.loads(done.stdout.splitlines()[-1])
    assert code_ == 0
    assert gigabytes < 2


@pytest.fixture(scope="module")
def plans(bundle: Bundle, data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Build]]:
    """Plans at every precision, calibrated on two training heads and measured on two of validation."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    folder = data_root / "mouse-skull-ct"
    split = split_from_file(folder / "split.json", load_dataset(folder / "posed", bundle.task).ids)
    scans = choose_scans(folder / "posed", 2, 2, validation=split.validation)
    assert {file.id for file in scans.held_out} <= set(split.validation)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield {precision: build(bundle, RTX, Request(precision, scans)) for precision in PRECISIONS}


def test_the_whole_method_becomes_a_plan_of_its_precision(plans: dict[str, Build]) -> None:
    facts = {}
    for precision, done in plans.items():
        record = PlanRecord.read(done.files[SCAN])
        assert record.precision == precision and done.files[SCAN].stat().st_size > 1e6
        facts[precision] = record.network
    # The FP32 graph has FP16 constants, its weights: what computes in FP16 comes on top of these.
    half = {precision: network.by_output_dtype.get("float16", 0) for precision, network in facts.items()}
    assert half["fp16"] > half["fp32"] and half["int8"] > half["fp32"]
    assert facts["fp32"].int8_convolutions == facts["fp16"].int8_convolutions == 0
    assert facts["int8"].int8_convolutions >= 10  # all three-dimensional ones but heads


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precision_keeps_the_millimetres(bundle: Bundle, plans: dict[str, Build], precision: str) -> None:
    gate = plans[precision].record["gate"]
    assert gate["passed"] and gate["mre_percent"] <= 2
    if precision == "fp16":
        assert gate["p99_voxel"] <= 0.05 and gate["max_voxel"] <= 0.25
        return
    assert gate["mean_voxel"] <= 0.1
    graphs = find_build(bundle, "onnxruntime", "int8")
    assert graphs is not None
    assert all(figures["conv_flops_int8"] >= 0.8 for figures in graphs.record["lowering"].values())
