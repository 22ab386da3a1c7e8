"""Landmark annotation files: 3D Slicer ``.mrk.json`` and ``.fcsv``, and plain ``.csv``.

Whatever the file says it holds, points come out as **LPS mm**.  RAS and LPS differ by the sign of x and y.

=============  =================================================================================================
``.mrk.json``  ``coordinateSystem`` of each point list: LPS (also when absent, as in Slicer) or RAS.  Points whose
               ``positionStatus`` is not ``defined`` are absent.
``.fcsv``      ``# CoordinateSystem`` must be there, because Slicer's own default changed between versions:
               RAS or 0, LPS or 1.  Columns as ``# columns`` names them; the landmark's name is its ``label``.
``.csv``       A header row with ``name`` or ``label`` and ``x, y, z``, each of which may end in ``_mm``, ``_lps``
               or ``_ras`` (``x_lps_mm``); or ``l, p, s`` or ``r, a, s`` as Slicer exports tables.  The coordinate
               system is that of the column names, else of a line ``# coordinate_system: RAS``, else LPS.
               A row with ``defined`` 0 is absent; other columns are ignored.
=============  =================================================================================================
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trt_landmarks.errors import LandmarkFileError
from trt_landmarks.files import parse_json, read_text, write_text
from trt_landmarks.geometry import Floats
from trt_landmarks.task.task import normal_name

#: Known endings, in the order in which they are preferred.
SUFFIXES = (".mrk.json", ".fcsv", ".csv")

#: To LPS, by the name of a coordinate system; 0 and 1 are the numbers older Slicer versions wrote.
_TO_LPS = {
    "LPS": np.array([1.0, 1.0, 1.0]),
    "RAS": np.array([-1.0, -1.0, 1.0]),
    "1": np.array([1.0, 1.0, 1.0]),
    "0": np.array([-1.0, -1.0, 1.0]),
}

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)

#: A part of a JSON file.
Json = dict[str, Any]

#: What current Slicer versions write after the last named .fcsv column: the position status, 2 for "defined".
_FCSV_DEFINED = "2"


def read_landmarks(path: str | Path) -> dict[str, Floats]:
    """Read one annotation file.

    Returns:
        name -> ``(3,)`` float64 (x, y, z) in LPS mm, in the file's order; undefined points are absent.

    Raises:
        LandmarkFileError: naming the file and the line or point, if it cannot be read, a name occurs twice or
            a coordinate is not a finite number.
    """
    path = Path(path)
    readers = {".mrk.json": _read_mrk_json, ".fcsv": _read_fcsv, ".csv": _read_csv}
    for suffix, reader in readers.items():
        if path.name.lower().endswith(suffix):
            points: dict[str, Floats] = {}
            for where, name, point in reader(path, read_text(path, LandmarkFileError, "landmark file")):
                name = normal_name(name)
                if not name:
                    raise LandmarkFileError(f"{where}: a point has no name.", "Give it the landmark's name.")
                if name in points:
                    raise LandmarkFileError(f"{where}: '{name}' occurs twice.", "Each landmark needs its own name.")
                if not np.isfinite(point).all():
                    raise LandmarkFileError(f"{where}: '{name}' has a coordinate that is not a finite number.")
                points[name] = point
            return points
    raise LandmarkFileError(f"{path}: unknown kind of landmark file.", f"Known endings: {', '.join(SUFFIXES)}.")


def write_mrk_json(
    path: str | Path, points: Mapping[str, Floats], descriptions: Mapping[str, str] | None = None
) -> None:
    """Write a Slicer point list (markups schema 1.0.3) in LPS mm; the file appears whole or not at all.

    Args:
        path: file to write, ending in ``.mrk.json``.
        points: name -> ``(3,)`` LPS mm; a point with NaN is written as undefined.
        descriptions: name -> text shown beside the point in Slicer.

    Raises:
        LandmarkFileError: if the file cannot be written.
    """
    described = descriptions or {}
    control_points = []
    for number, (name, point) in enumerate(points.items(), start=1):
        position = np.asarray(point, dtype=np.float64).reshape(3)
        defined = bool(np.isfinite(position).all())
        control_points.append(
            control_point(number, name, position if defined else np.zeros(3), described.get(name, ""), defined)
        )
    write_markups(path, [markup("Fiducial", control_points)])


def control_point(number: int, name: str, position: Floats, description: str = "", defined: bool = True) -> Json:
    """A point of a Slicer markup.

    Args:
        number: from 1, its place in the markup.
        name: the landmark's, shown beside the point.
        position: ``(3,)`` LPS mm.
        description: shown in Slicer's table of points.
        defined: whether the point is there; Slicer neither shows nor measures one that is not.
    """
    return {
        "id": str(number),
        "label": name,
        "description": description,
        "associatedNodeID": "",
        "position": np.asarray(position, dtype=np.float64).tolist(),
        "orientation": [-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0],
        "selected": True,
        "locked": False,
        "visibility": True,
        "positionStatus": "defined" if defined else "undefined",
    }


def markup(type: str, control_points: list[Json], **more: Any) -> Json:
    """A Slicer markup in LPS mm.

    Args:
        type: ``Fiducial`` (a point list), ``Line`` or ``Angle``.
        control_points: see :func:`control_point`.
        more: further properties, such as ``name`` or ``display``.
    """
    return {
        "type": type,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": len(control_points),
        **more,
        "controlPoints": control_points,
    }


def write_markups(path: str | Path, markups: list[Json]) -> None:
    """Write a ``.mrk.json`` file of markups (schema 1.0.3); it appears whole or not at all.

    Raises:
        LandmarkFileError: if the file cannot be written.
    """
    write_text(path, markups_text(markups), LandmarkFileError)


def markups_text(markups: list[Json]) -> str:
    """The content of a ``.mrk.json`` file of markups (schema 1.0.3)."""
    return json.dumps({"@schema": _SCHEMA, "markups": markups}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def find_landmark_file(folder: str | Path, case_id: str) -> Path | None:
    """The annotation of a case, ``<case_id>.mrk.json``, ``.fcsv`` or ``.csv`` (in that order); None without one."""
    return next(iter(landmark_files_of(folder, case_id)), None)


def landmark_files_of(folder: str | Path, case_id: str) -> list[Path]:
    """All annotations of a case, the preferred one first."""
    paths = (Path(folder) / f"{case_id}{suffix}" for suffix in SUFFIXES)
    return [path for path in paths if path.is_file()]


def find_landmark_files(folder: str | Path) -> dict[str, Path]:
    """All annotations of a folder, case id -> file, sorted by id.

    Raises:
        LandmarkFileError: if the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise LandmarkFileError(f"{folder}: no such folder of landmark files.", "Check the path.")
    names = [path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    ids = {name[: -len(suffix)] for name in names for suffix in SUFFIXES if name.endswith(suffix)}
    found = {case_id: find_landmark_file(folder, case_id) for case_id in sorted(ids)}
    return {case_id: path for case_id, path in found.items() if path is not None}


def select(points: Mapping[str, Floats], names: Sequence[str], path: str | Path) -> Floats:
    """The points of a task in its order.

    Args:
        points: name -> ``(3,)``, as :func:`read_landmarks` gives them.
        names: the task's landmarks.
        path: the file they came from, for the error.

    Returns:
        ``[N, 3]`` LPS mm; rows of absent landmarks are NaN.

    Raises:
        LandmarkFileError: if the file has points but none of ``names``: it belongs to another task.
    """
    if points and not any(name in points for name in names):
        raise LandmarkFileError(
            f"{path}: has none of the task's landmarks ({_shorten(names)}); it has {_shorten(list(points))}.",
            "Use the names of the task file.",
        )
    return np.array([points.get(name, np.full(3, np.nan)) for name in names], dtype=np.float64).reshape(-1, 3)


# One reader per kind: (where, name, LPS point) of each defined point; `where` starts an error message.
_Rows = Iterable[tuple[str, str, Floats]]


def _read_mrk_json(path: Path, text: str) -> _Rows:
    content = parse_json(text, path, LandmarkFileError, "landmark file")
    markups = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(markups, list) or not all(isinstance(markup, dict) for markup in markups):
        raise LandmarkFileError(f"{path}: has no 'markups' list.", "Save the points from 3D Slicer as .mrk.json.")
    lists = [markup for markup in markups if markup.get("type") == "Fiducial"]
    if not lists:
        raise LandmarkFileError(f"{path}: holds no point list.", "Save a point list, not a line, curve or plane.")
    for markup in lists:
        to_lps = _system(path, markup.get("coordinateSystem", "LPS"))
        units = markup.get("coordinateUnits", "mm")
        if (units[0] if isinstance(units, list) and units else units) != "mm":
            raise LandmarkFileError(f"{path}: coordinateUnits is {units!r}.", "Save the points in mm.")
        for number, point in enumerate(_control_points(path, markup), start=1):
            if point.get("positionStatus", "defined") != "defined":
                continue
            position = point.get("position")
            where = f"{path}: point {number}"
            if not isinstance(position, list) or len(position) != 3 or not all(map(_is_number, position)):
                raise LandmarkFileError(f"{where}: position is not three numbers.")
            yield where, str(point.get("label", "")), np.array(position, dtype=np.float64) * to_lps


def _control_points(path: Path, markup: dict[str, Any]) -> list[dict[str, Any]]:
    points = markup.get("controlPoints", [])
    if not isinstance(points, list) or not all(isinstance(point, dict) for point in points):
        raise LandmarkFileError(f"{path}: controlPoints is not a list of points.")
    return points


def _read_fcsv(path: Path, text: str) -> _Rows:
    comments = _comments(text, "=")
    if "coordinatesystem" not in comments or "columns" not in comments:
        raise LandmarkFileError(
            f"{path}: has no '# CoordinateSystem = ' or no '# columns = ' line.",
            "Add them as 3D Slicer writes them: '# CoordinateSystem = LPS' (or RAS), '# columns = id,x,y,z,...'.",
        )
    to_lps = _system(path, comments["coordinatesystem"])
    columns = [column.strip() for column in comments["columns"].split(",")]
    if not {"x", "y", "z", "label"} <= set(columns):
        raise LandmarkFileError(f"{path}: '# columns' must name x, y, z and label.")
    x, y, z, label = (columns.index(column) for column in ("x", "y", "z", "label"))
    for line, row in _rows(text):
        where = f"{path}: line {line}"
        if len(row) <= max(x, y, z, label):
            raise LandmarkFileError(f"{where}: has {len(row)} columns where '# columns' names {len(columns)}.")
        status = row[len(columns)].strip() if len(row) > len(columns) else _FCSV_DEFINED
        if status == _FCSV_DEFINED:
            yield where, row[label], _numbers(where, [row[x], row[y], row[z]]) * to_lps


def _read_csv(path: Path, text: str) -> _Rows:
    rows = iter(_rows(text))
    line, header = next(rows, (0, []))
    columns = [column.strip().lower() for column in header]
    name = next((columns.index(column) for column in ("name", "label") if column in columns), None)
    coordinates = _csv_coordinates(columns)
    if name is None or coordinates is None:
        raise LandmarkFileError(
            f"{path}: line {line}: the header row must name one 'name' or 'label' column and x, y, z.",
            "For example: name,x_lps_mm,y_lps_mm,z_lps_mm.",
        )
    places, system = coordinates
    said = _comments(text, ":").get("coordinate_system")
    if said is not None and system is not None and not np.array_equal(_system(path, said), _TO_LPS[system]):
        raise LandmarkFileError(f"{path}: the columns say {system}, but coordinate_system says {said}.")
    to_lps = _system(path, said or system or "LPS")
    defined = columns.index("defined") if "defined" in columns else None
    for line, row in rows:
        where = f"{path}: line {line}"
        if len(row) != len(columns):
            raise LandmarkFileError(f"{where}: has {len(row)} columns where the header row has {len(columns)}.")
        if defined is None or row[defined].strip().lower() not in ("0", "false"):
            yield where, row[name], _numbers(where, [row[p] for p in places]) * to_lps


def _csv_coordinates(columns: list[str]) -> tuple[list[int], str | None] | None:
    """Places of the three coordinates in a .csv header and the system their names state; None if not found."""
    for letters, stated in (("xyz", None), ("lps", "LPS"), ("ras", "RAS")):
        for suffix, system in (("", None), ("_lps", "LPS"), ("_ras", "RAS")):
            for unit in ("", "_mm"):
                names = [f"{letter}{suffix}{unit}" for letter in letters]
                if all(name in columns for name in names) and (stated is None or suffix == ""):
                    return [columns.index(name) for name in names], stated or system
    return None


def _rows(text: str) -> Iterable[tuple[int, list[str]]]:
    """(line number, fields) of each line that is neither empty nor a comment."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, next(csv.reader([line]))


def _comments(text: str, separator: str) -> dict[str, str]:
    """``# key = value`` lines, keys in lower case; spreadsheets may have added commas at their ends."""
    pattern = re.compile(rf"^\s*#\s*([\w ]+?)\s*{re.escape(separator)}\s*(.*?)[\s,]*$")
    found = (pattern.match(line) for line in text.splitlines())
    return {match[1].lower(): match[2] for match in found if match}


def _system(path: Path, value: object) -> Floats:
    signs = _TO_LPS.get(str(value).strip().upper())
    if signs is None:
        raise LandmarkFileError(f"{path}: unknown coordinate system {value!r}.", "Known: LPS and RAS.")
    return signs


def _numbers(where: str, fields: list[str]) -> Floats:
    try:
        return np.array([float(field) for field in fields], dtype=np.float64)
    except ValueError:
        raise LandmarkFileError(f"{where}: {', '.join(map(repr, fields))} are not three numbers.") from None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shorten(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
