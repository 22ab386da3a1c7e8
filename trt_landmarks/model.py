"""The public API: open a model, localize landmarks in a scan, read the result."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.bundles.bundle import SHIPPED, open_bundle
from trt_landmarks.bundles.select import open_engine
from trt_landmarks.errors import EngineError, ScanError, TrtlmError
from trt_landmarks.geometry import Floats
from trt_landmarks.localization.case import NOT_THIS_ANATOMY, case_result, failed_case
from trt_landmarks.localization.pose import PosingLocalizer
from trt_landmarks.localization.whole_scan import WholeScanLocalizer
from trt_landmarks.preprocessing.select import open_preprocessor
from trt_landmarks.results.case import CaseResult
from trt_landmarks.runs.workers import localizer_for
from trt_landmarks.scan import Scan, ScanFile, case_id, read_scan
from trt_landmarks.scan.arrays import scan_from_affine
from trt_landmarks.scan.itk import scan_from_image
from trt_landmarks.task.task import Task

if TYPE_CHECKING:
    import pandas as pd

Frame = Literal["RAS", "LPS"]


@dataclass(frozen=True)
class Result:
    """The landmarks of one scan.

    Arrays are in the order of the task's landmarks.  A scan that could not be read or computed has no landmarks and an
    ``error``; only :meth:`Model.localize_many` gives such results, :meth:`Model.localize` raises.

    Attributes:
        case: the case as in a results file (:mod:`trt_landmarks.results.case`).
        groups: landmark name to the name of its correlated group.

    Example:
        >>> from trt_landmarks.results.case import CaseResult, Landmark
        >>> mark = Landmark("AC", "located", (1.0, -2.0, 3.0), (90.0, 120.0, 70.0), 0.98, 0.5, 1.1)
        >>> result = Result(CaseResult("head", "head.nii.gz", landmarks=(mark,)), {})
        >>> result["AC"]
        array([ 1., -2.,  3.])
        >>> result.points.shape, result.names, result.reliable
        ((1, 3), ('AC',), True)
    """

    case: CaseResult
    groups: Mapping[str, str]

    @property
    def id(self) -> str:
        """The case's name: the scan's file name without its ending."""
        return self.case.id

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the landmarks."""
        return tuple(mark.name for mark in self.case.landmarks)

    @property
    def points(self) -> Floats:
        """Positions ``[N, 3]``, LPS mm."""
        return np.array([mark.position_lps_mm for mark in self.case.landmarks], dtype=np.float64).reshape(-1, 3)

    @property
    def confidence(self) -> Floats:
        """``[N]`` 0..1: the probability that the error is not large."""
        return np.array([mark.confidence for mark in self.case.landmarks], dtype=np.float64)

    @property
    def expected_error_mm(self) -> Floats:
        """``[N]`` expected error in mm; NaN where it is not known."""
        return _numbers(mark.expected_error_mm for mark in self.case.landmarks)

    @property
    def error_90_mm(self) -> Floats:
        """``[N]`` bound in mm that 90 % of such landmarks keep; NaN where it is not known."""
        return _numbers(mark.error_90_mm for mark in self.case.landmarks)

    @property
    def status(self) -> tuple[str, ...]:
        """Of each landmark: ``located``, ``low_confidence`` or ``outside_scan``."""
        return tuple(mark.status for mark in self.case.landmarks)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know of the scan or the result, in words."""
        return tuple(warning.message for warning in self.case.warnings)

    @property
    def error(self) -> str | None:
        """Why there are no landmarks; None if there are."""
        return None if self.case.error is None else self.case.error.message

    @property
    def reliable(self) -> bool:
        """False for a failed case, and for a scan that does not show this anatomy: rely on none of its landmarks."""
        wrong = any(warning.code == NOT_THIS_ANATOMY for warning in self.case.warnings)
        return self.case.error is None and not wrong

    def __getitem__(self, name: str) -> Floats:
        """Position ``[3]`` of a landmark, LPS mm.

        Raises:
            KeyError: if there is no landmark of that name.
        """
        for mark in self.case.landmarks:
            if mark.name == name:
                return np.array(mark.position_lps_mm, dtype=np.float64)
        raise KeyError(f"no landmark '{name}'; there are {', '.join(self.names) or 'none'}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data: the case as in a results file."""
        return self.case.to_dict()

    def to_dataframe(self) -> pd.DataFrame:
        """A table with a row per landmark: name, status, x, y, z (LPS mm), confidence, expected_error_mm, error_90_mm.

        Raises:
            TrtlmError: if pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError:
            raise TrtlmError("to_dataframe needs pandas.", "Run: pip install pandas.", code="package_missing") from None
        x, y, z = self.points.T
        columns = {"name": self.names, "status": self.status, "x": x, "y": y, "z": z, "confidence": self.confidence}
        errors = {"expected_error_mm": self.expected_error_mm, "error_90_mm": self.error_90_mm}
        return pd.DataFrame({**columns, **errors})

    def write_markups(self, path: str | Path) -> None:
        """Write a 3D Slicer markups file (``.mrk.json``, LPS mm).

        Raises:
            TrtlmError: if the case failed, or the file cannot be written.
        """
        from trt_landmarks.outputs.markups import write_case

        if self.case.error is not None:
            raise TrtlmError(f"{self.id}: has no landmarks: {self.case.error.message}", code=self.case.error.code)
        write_case(path, self.case)


class Model:
    """An opened model: a bundle, the engine that runs it, and the localizer.

    Use :meth:`open`, as a context manager or with :meth:`close`.

    Example:
        >>> with Model.open("brain-afids") as model:
        ...     len(model.landmarks), model.landmarks[0]
        (32, 'AC')
    """

    def __init__(self, name: str, task: Task, localizer: PosingLocalizer | WholeScanLocalizer, note: str) -> None:
        self.name, self.task, self.note = name, task, note
        self._opened: PosingLocalizer | WholeScanLocalizer | None = localizer

    @staticmethod
    def names() -> tuple[str, ...]:
        """Names of the models that ship with the package; the first is the default."""
        return SHIPPED

    @classmethod
    def open(
        cls,
        model: str | Path | None = None,
        *,
        engine: str = "auto",
        precision: str | None = None,
        device: int = 0,
        threads: int | None = None,
        preprocess: str = "auto",
        pose: str = "auto",
        tta: bool = False,
    ) -> Model:
        """Open a model.

        Args:
            model: a shipped model's name, the folder of a bundle, or None for the default.
            engine: ``auto`` takes the best that works here; an engine that is named is taken or refused.
            precision: ``fp32``, ``fp16``, ... as the engine has it; None for the engine's best.
            device: number of the GPU, for engines that run on one.
            threads: threads on the CPU; None for all cores that this process may use.
            preprocess: ``reference``, ``dali`` or ``auto``.
            pose: ``as-is`` takes scans as they lie, ``search`` searches the pose of all, ``auto`` of those in which
                nothing credible is found as they lie.
            tta: also average over a mirrored and a jittered view, which takes three times as long.

        Raises:
            TrtlmError: if ``pose`` or ``tta`` cannot be had with this model.
            BundleError: if there is no such model, or its files are damaged.
            EngineError: if the engine or precision that was named cannot be had here, with the reason.
        """
        bundle = open_bundle(model)
        opened, note = open_engine(bundle, engine, precision, threads, device=device)
        gpu = device if opened.provider == "GPU" else None
        preprocessor, _ = open_preprocessor(preprocess, gpu, threads)
        localizer = localizer_for(bundle, opened, preprocessor, pose, tta)
        return cls(bundle.name, bundle.task, localizer, note)

    @property
    def landmarks(self) -> tuple[str, ...]:
        """Names of the landmarks, in the order of all results."""
        return self.task.landmarks

    @property
    def _localizer(self) -> PosingLocalizer | WholeScanLocalizer:
        if self._opened is None:
            raise EngineError("the model was closed.", "Open it again: Model.open(...).", code="model_closed")
        return self._opened

    @property
    def engine(self) -> str:
        """The engine's name, such as ``onnxruntime``."""
        return self._localizer.engine.name

    @property
    def precision(self) -> str:
        """What the engine computes in, such as ``fp32``."""
        return self._localizer.engine.precision

    def localize(self, scan: Any, *, frame: Frame = "RAS", pose: str | None = None, tta: bool | None = None) -> Result:
        """Localize the landmarks in one scan.

        Args:
            scan: a path (file, DICOM folder, archive), a :class:`Scan`, a ``SimpleITK.Image``, a nibabel image, or
                ``(array, affine)``: array ``[i, j, k]`` in the order of the affine's columns, affine 4x4 from voxels
                to mm.
            frame: the world of ``(array, affine)``: ``RAS`` as nibabel gives it, or ``LPS``.  Other inputs know theirs.
            pose: as for :meth:`open`; None for what was said there.
            tta: the same.

        Raises:
            TrtlmError: if ``pose`` or ``tta`` cannot be had with this model.
            ScanError: if the scan cannot be read or used.
            EngineError: if the engine fails.
        """
        read = as_scan(scan, frame)
        (found,) = self._localizer.localize_batch([read], pose, tta)
        return Result(case_result(_file(read), read, found, self.task), self.task.group_of)

    def localize_many(self, scans: Iterable[Any], *, frame: Frame = "RAS") -> Iterator[Result]:
        """Localize landmarks in many scans, in their order, one result at a time.

        The next scan is read while the nets run.  A scan that cannot be read or computed gives a result with an
        ``error``; the others go on.

        Args:
            scans: what :meth:`localize` takes; read when it is its turn.
            frame: as for :meth:`localize`.
        """
        localizer = self._localizer
        with ThreadPoolExecutor(1, "trtlm-read") as reader:
            sources = iter(scans)
            waiting = [(item, reader.submit(as_scan, item, frame)) for item in itertools.islice(sources, 2)]
            while waiting:
                item, reading = waiting.pop(0)
                waiting += [(later, reader.submit(as_scan, later, frame)) for later in itertools.islice(sources, 1)]
                try:
                    read = reading.result()
                    (found,) = localizer.localize_batch([read])
                    case = case_result(_file(read), read, found, self.task)
                except Exception as error:  # whatever it is, it is this scan's
                    case = failed_case(_named(item), error)
                yield Result(case, self.task.group_of)

    def close(self) -> None:
        """Give the engine's memory free."""
        close = getattr(self._opened.engine, "close", None) if self._opened else None
        self._opened = None
        if close is not None:
            close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Model({self.name!r}, {len(self.landmarks)} landmarks, {self.note})"


def as_scan(source: Any, frame: Frame = "RAS") -> Scan:
    """A scan from whatever :meth:`Model.localize` takes.

    Raises:
        ScanError: if it cannot be read or used, or is nothing that can be a scan.
    """
    if isinstance(source, Scan):
        return source
    if isinstance(source, (str, Path, ScanFile)):
        return read_scan(source)
    if isinstance(source, tuple) and len(source) == 2:
        if frame not in ("RAS", "LPS"):
            raise ScanError(f"frame {frame!r} is neither RAS nor LPS.", code="usage")
        return scan_from_affine(np.asarray(source[0]), np.asarray(source[1]), frame)
    module = type(source).__module__
    if module.startswith("SimpleITK"):
        return scan_from_image(source)
    if module.startswith("nibabel"):
        name = source.get_filename()
        voxels: NDArray[Any] = np.asanyarray(source.dataobj)
        return scan_from_affine(voxels, np.asarray(source.affine), "RAS", Path(name) if name else None)
    raise ScanError(
        f"{type(source).__name__}: cannot be read as a scan.",
        "Give a path, a Scan, a SimpleITK or nibabel image, or (array, affine).",
        code="scan_format",
    )


def _file(scan: Scan) -> ScanFile:
    return ScanFile(scan.id, scan.path or Path(scan.id))


def _named(source: Any) -> ScanFile:
    """What a failed case says its scan is."""
    if isinstance(source, ScanFile):
        return source
    if isinstance(source, Scan):
        return _file(source)
    if isinstance(source, (str, Path)):
        return ScanFile(case_id(Path(source)), Path(source))
    return ScanFile("array", Path("array"))


def _numbers(values: Iterable[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
