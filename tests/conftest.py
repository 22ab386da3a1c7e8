"""Fixtures shared by all tests."""

from __future__ import annotations

import gzip
import locale
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from trt_landmarks.bundles.bundle import Bundle
    from trt_landmarks.localization.shape_model import ShapeModel
    from trt_landmarks.scan import Scan
    from trt_landmarks.training.checkpoint import Checkpoint


#: Makes a folder by its name and what fills it.
MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Ctrl-C works, also where a script runs the tests in the background, whose processes ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _reads_utf8() -> None:
    """Text is UTF-8 in every test: some library that others load leaves the C locale, in which Python reads ASCII."""
    locale.setlocale(locale.LC_ALL, "C.UTF-8")


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_root(repo_root: Path) -> Path:
    """The folder of real data: ``TRTLM_DATA``, or ``shared/data`` next to the checkout."""
    folder = Path(os.environ.get("TRTLM_DATA", repo_root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set TRTLM_DATA")
    return folder


@pytest.fixture(scope="session")
def mouse_scans(data_root: Path) -> list[Path]:
    """The real micro-CT heads in standard pose."""
    scans = sorted((data_root / "mouse-skull-ct" / "posed" / "images").glob("*.nii.gz"))
    if not scans:
        pytest.skip(f"no mouse-skull-ct in {data_root}")
    return scans


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Make a folder once for all processes of pytest-xdist: the first to ask makes it, the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder = shared / f"shared-{name}"
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():  # what failed leaves nothing, and the next to ask tries again
                unfinished = tmp_path_factory.mktemp(name) / "unfinished"
                fill(unfinished)
                unfinished.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Checkpoint:
    """Random nets of a small task: three independent landmarks, and a group of three with a key slice."""
    import torch

    from trt_landmarks.nets.model import build_nets
    from trt_landmarks.task.task import parse_task
    from trt_landmarks.training.checkpoint import Checkpoint

    content = {
        "name": "tiny",
        "landmarks": ["a", "b", "c", "d", "e", "f"],
        "groups": [{"name": "mid", "axis": "left-right", "landmarks": ["b", "d", "f"]}],
        "coarse": {"shape": [16, 16, 16], "field_of_view_mm": [24, 24, 24], "width": 4},
        "fine": {
            "shape": [16, 16, 16], "spacing_mm": [0.5, 0.5, 0.5], "frame": "anatomy", "width": 8, "levels": 3,
            "heatmap_sigma_mm": 1.0,
        },
        "sdr_radii_mm": [1, 2],
    }  # fmt: skip
    task = parse_task(content, "tiny")
    torch.manual_seed(0)
    nets = {name: net.eval() for name, net in build_nets(task).items()}
    with torch.no_grad():  # initial heads give almost nothing: points and peaks are to differ from zero
        for net in nets.values():
            for name, parameter in net.named_parameters():
                if name.endswith("head.weight"):
                    parameter.normal_(std=0.2)
        nets["coarse"].mean_shape.normal_(std=3)  # type: ignore[union-attr,operator]
    return Checkpoint(task, nets)


@pytest.fixture(scope="session")
def tiny_bundle(made_once: MadeOnce, request: pytest.FixtureRequest) -> Iterator[Bundle]:
    """The small task's bundle, without builds; copy it before changing it."""
    from trt_landmarks.bundles.bundle import open_bundle

    def export(folder: Path) -> None:
        from trt_landmarks.export.bundle import export_bundle

        export_bundle(request.getfixturevalue("tiny_checkpoint"), folder)

    bundle = open_bundle(made_once("tiny", export))
    yield bundle
    bundle.verify()
    # A build that was refused leaves an empty folder.
    assert not any(bundle.builds_folder.rglob("*")), "a test built into the bundle that all share"


@pytest.fixture(scope="session")
def built_bundle(tiny_bundle: Bundle, made_once: MadeOnce) -> Bundle:
    """The small task's bundle with an FP16 build for ONNX Runtime; copy it before changing it."""
    from trt_landmarks.bundles.bundle import open_bundle

    def build_fp16(folder: Path) -> None:
        from trt_landmarks.build import Request, build

        shutil.copytree(tiny_bundle.root, folder)
        build(open_bundle(folder), "onnxruntime", Request("fp16"))

    return open_bundle(made_once("built", build_fp16))


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Iterator[Bundle]:
    """A bundle without builds that a test may add to; whatever happens, its own files must not change."""
    from trt_landmarks.bundles.bundle import open_bundle

    shutil.copytree(tiny_bundle.root, tmp_path / "bundle", ignore=shutil.ignore_patterns("builds"))
    yield open_bundle(tmp_path / "bundle")
    open_bundle(tmp_path / "bundle", verify=True)


@pytest.fixture
def built(built_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A bundle with an FP16 build for ONNX Runtime that a test may spoil."""
    from trt_landmarks.bundles.bundle import open_bundle

    shutil.copytree(built_bundle.root, tmp_path / "bundle")
    return open_bundle(tmp_path / "bundle")


@pytest.fixture(scope="session")
def shape() -> ShapeModel:
    """A shape model of made heads."""
    from tests.confidence_cases import shapes
    from trt_landmarks.localization.shape_model import fit_shape_model

    return fit_shape_model(shapes(20))


@pytest.fixture(scope="module")
def real(mouse_scans: list[Path]) -> Path:
    """One real scan."""
    return mouse_scans[24]


@pytest.fixture(scope="module")
def content(real: Path) -> bytes:
    """The real scan's decompressed bytes: a little-endian NIfTI-1 file with qform and sform."""
    return gzip.decompress(real.read_bytes())


@pytest.fixture(scope="module")
def small(real: Path) -> Scan:
    """An oblique piece of it."""
    from tests.scan_files import oblique_piece

    return oblique_piece(real)
