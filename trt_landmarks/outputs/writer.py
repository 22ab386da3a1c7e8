"""Writes what a person asked for beside the results file: a table, Slicer's files, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from trt_landmarks.errors import PredictionsError
from trt_landmarks.files import make_folder
from trt_landmarks.outputs import csv_file, figure, markups
from trt_landmarks.outputs.marks import Marks
from trt_landmarks.outputs.names import FileNames
from trt_landmarks.results.case import CaseResult
from trt_landmarks.scan import Scan


class OutputWriter:
    """Receives cases as they are found, and writes each of them in the forms that were asked for.

    Args:
        ids: of the cases that may come; they get their file names in this order.
        groups: landmark -> the correlated group it belongs to, in the order of the groups.
        tables: CSV files of all landmarks, see :mod:`trt_landmarks.outputs.csv_file`; the measurements go beside it.
        markup_folder: receives a ``.mrk.json`` file for each case with landmarks.
        figure_folder: receives a ``.png`` file for each case that :meth:`draw` is given.

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
    ) -> None:
        self.groups, self._tables = groups, tables
        #: Why pictures are missing, one sentence for each.
        self.problems: list[str] = []
        names = FileNames()
        self._names = {case_id: names.name(case_id) for case_id in ids}
        self._written: set[str] = set()
        self._markups = make_folder(markup_folder, PredictionsError) if markup_folder else None
        self._figures = make_folder(figure_folder, PredictionsError) if figure_folder else None
        if self._figures is not None:
            import matplotlib.figure  # noqa: F401  (now, not after the first scan)
        for table in tables:
            csv_file.write_landmarks(table, [], groups)

    def case(self, case: CaseResult) -> None:
        """Write the markups of a case.

        Raises:
            LandmarkFileError: if the file cannot be written.
        """
        if self._markups is not None and case.landmarks and case.id not in self._written:
            markups.write_case(self._markups / f"{self._names[case.id]}.mrk.json", case)
            self._written.add(case.id)

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
