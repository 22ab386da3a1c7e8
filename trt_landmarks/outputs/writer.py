"""Writes what a person asked for beside the results file: a table, Slicer's files, DICOM reports, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trt_landmarks.errors import PredictionsError, ScanError
from trt_landmarks.files import make_folder
from trt_landmarks.outputs import csv_file, dicom_sr, figure, markups
from trt_landmarks.outputs.marks import Marks
from trt_landmarks.outputs.names import FileNames
from trt_landmarks.results.case import CaseResult
from trt_landmarks.scan import Scan, ScanFile


@dataclass(frozen=True)
class Reports:
    """Writes DICOM SR of cases.

    Attributes:
        folder: receives a ``.dcm`` file for each case.
        files: the scans, DICOM series.
        model: ``name`` and ``sha256``, as in a results file.
    """

    folder: Path
    files: Sequence[ScanFile]
    model: Mapping[str, str]

    def write(self, name: str, case: CaseResult) -> None:
        """Write a case's report.

        Raises:
            ScanError: if its series lacks what a report needs.
            PredictionsError: if the file cannot be written.
        """
        file = next(one for one in self.files if one.id == case.id)
        dicom_sr.write_report(self.folder / f"{name}.dcm", case, file, self.model["name"], self.model["sha256"])


class OutputWriter:
    """Receives cases as they are found, and writes each of them in the forms that were asked for.

    Args:
        ids: of the cases that may come; they get their file names in this order.
        groups: landmark -> the correlated group it belongs to, in the order of the groups.
        tables: CSV files of all landmarks, see :mod:`trt_landmarks.outputs.csv_file`; the measurements go beside it.
        markup_folder: receives a ``.mrk.json`` file for each case with landmarks.
        figure_folder: receives a ``.png`` file for each case that :meth:`draw` is given.
        reports: writes DICOM SR.

    Raises:
        PredictionsError: if the table cannot be written or a folder cannot be made (found out at once).
        ModuleNotFoundError: if there are to be pictures and matplotlib is not installed.
    """

    def __init__(
        self,
        ids: Iterable[str],
        groups: Mapping[str, str],
        *,
        tables: Sequence[Path] = (),
        markup_folder: Path | None = None,
        figure_folder: Path | None = None,
        reports: Reports | None = None,
    ) -> None:
        self.groups, self._tables = groups, tables
        self._reports = reports
        #: Why pictures or DICOM reports are missing, one sentence for each.
        self.problems: list[str] = []
        names = FileNames()
        self._names = {case_id: names.name(case_id) for case_id in ids}
        self._written: set[str] = set()
        self._markups = make_folder(markup_folder, PredictionsError) if markup_folder else None
        self._figures = make_folder(figure_folder, PredictionsError) if figure_folder else None
        if self._figures is not None:
            import matplotlib.figure  # noqa: F401  (now, not after the first scan)
        if reports is not None:
            make_folder(reports.folder, PredictionsError)
        for table in tables:
            csv_file.write_landmarks(table, [], groups)

    def case(self, case: CaseResult) -> None:
        """Write the markups and the DICOM report of a case.

        Raises:
            LandmarkFileError: if the markups cannot be written.
            PredictionsError: if the report cannot be written.
        """
        if not case.landmarks or case.id in self._written:
            return
        self._written.add(case.id)
        if self._markups is not None:
            markups.write_case(self._markups / f"{self._names[case.id]}.mrk.json", case)
        if self._reports is not None:
            try:
                self._reports.write(self._names[case.id], case)
            except ScanError as problem:  # the series has something missing that the report needs
                self.problems.append(f"{case.id}: has no DICOM report: {problem}")

    def draw(self, case: CaseResult, scan: Scan) -> None:
        """Draw a case, in any thread; what goes wrong is kept in :attr:`problems`, and ends nothing."""
        if self._figures is None:
            return
        path = self._figures / f"{self._names[case.id]}.png"
        try:
            figure.save(figure.case_figure(scan, Marks(case, {}, self.groups)), path)
        except Exception as problem:  # whatever drawing raises: the result is there and counts more
            self.problems.append(f"{case.id}: has no picture: {problem}")

    def finish(self, cases: Sequence[CaseResult]) -> None:
        """Write the tables of all cases, and the markups of those that were not given to :meth:`case`.

        Raises:
            PredictionsError: if a table cannot be written.
            LandmarkFileError: if a file of markups cannot be written.
        """
        for case in cases:
            self.case(case)
        for table in self._tables:
            csv_file.write_landmarks(table, cases, self.groups)
            if any(case.measurements for case in cases):
                csv_file.write_measurements(csv_file.measurements_beside(table), cases)
