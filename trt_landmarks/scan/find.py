"""Find scans: in files, folders, lists and DICOM series, each under a name of its own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from trt_landmarks.errors import ScanError
from trt_landmarks.scan import arrays
from trt_landmarks.scan.archive import holds_scan
from trt_landmarks.scan.dicom import chosen
from trt_landmarks.scan.dicom_objects import DicomFolder, counted, dicom_files, list_series
from trt_landmarks.scan.formats import KNOWN, case_id, extension
from trt_landmarks.scan.lists import is_list, read_list
from trt_landmarks.scan.volume import ScanFile

Names = tuple[str, str, str]
#: Lists the DICOM series of a folder; None if it has none.
Lister = Callable[[Path], DicomFolder | None]


@dataclass(frozen=True)
class _Found:
    """A scan, its names from short to long, and which series of a folder it is."""

    path: Path
    names: Names
    series: str | None = None


@dataclass(frozen=True)
class _Rules:
    """What is taken of a folder."""

    series: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    lister: Lister


@dataclass(frozen=True)
class _Part:
    """Slices of a series in one folder: their entry among the scans, and where they lie."""

    series: str | None
    places: set[tuple[float, ...]]


@dataclass
class _PassedOver:
    """What is not taken of a folder."""

    others: Counter[str] = field(default_factory=Counter)  # DICOM objects that are no volume
    folders: dict[str, dict[Path, _Part]] = field(default_factory=dict)  # series UID -> folder -> what is there
    unmatched: int = 0  # scans that the patterns leave out, and volumes of other series than those asked for


def find_scans(
    paths: Iterable[str | Path],
    *,
    series: str = "all",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    lister: Lister = list_series,
) -> list[ScanFile]:
    """List the scans that files, folders and lists name.

    A folder stands for every scan file in it and below, in order of path, and for every DICOM series of a volume in
    each of its folders (known by content, whatever the files are called).  Localizers, secondary captures, reports
    and other objects that are no volume are passed over.  A ``.txt`` or ``.csv`` file, or ``-`` for standard input, is
    a list (:mod:`trt_landmarks.scan.lists`); what it names and is not there is listed too, and fails when it is read.

    Hidden files are skipped.  Links to folders are followed only where the folder itself holds a DICOM series.  What
    is named twice, or by a link, counts once.

    Args:
        paths: files, folders, lists.
        series: which DICOM series of a folder or archive: ``all``, ``largest``, a series number or a
            SeriesInstanceUID.
        include: patterns (``*``, ``?``, ``[]``) of scans in folders; without any, all are taken.  A pattern is compared
            with the scan's file or folder name, and with its path below the named folder; ``*`` also stands for ``/``.
        exclude: patterns of scans and folders that are left out.
        lister: lists the DICOM series of a folder.

    Raises:
        ScanError: if a path does not exist, a list cannot be used, or nothing is found in a folder.
    """
    rules = _Rules(series, tuple(include), tuple(exclude), lister)
    found: dict[tuple[str, str | None], _Found] = {}
    for one in _named(paths, rules):
        found.setdefault((os.path.realpath(one.path), one.series), one)
    ids = _unique([one.names for one in found.values()])
    return [ScanFile(id, one.path, one.series) for id, one in zip(ids, found.values(), strict=True)]


def _named(paths: Iterable[str | Path], rules: _Rules) -> list[_Found]:
    found: list[_Found] = []
    for root in map(Path, paths):
        if is_list(root):
            for path, id in read_list(root):
                here = _listed(path, rules)
                if id is not None:
                    here = [_renamed(one, id, alone=len(here) == 1) for one in here]
                found += here
        elif not root.exists():
            raise ScanError(f"{root}: no such file or folder.", KNOWN, code="scan_missing")
        else:
            found += _below(root, rules) if root.is_dir() else [_file(root, rules)]
    return found


def _listed(path: Path, rules: _Rules) -> list[_Found]:
    """What a line of a list names; if that is nothing, one scan that fails when it is read."""
    try:
        return _below(path, rules) if path.is_dir() else [_file(path, rules)]
    except ScanError:
        return [_file(path, rules)]


def _renamed(one: _Found, id: str, *, alone: bool) -> _Found:
    name = id if alone else f"{id}_{one.names[0]}"
    return _Found(one.path, (name, name, name), one.series)


def _file(path: Path, rules: _Rules) -> _Found:
    """A scan that was named itself."""
    name = case_id(path)
    long = f"{Path(os.path.abspath(path)).parent.name}_{name}"
    rule = rules.series if extension(path) == ".zip" and rules.series != "all" else None
    return _Found(path, (name, name, long), rule)


def _below(root: Path, rules: _Rules) -> list[_Found]:
    """The scans in a folder and below."""
    passed = _PassedOver()
    scans: list[tuple[Path, str, str | None]] = []  # path, what its name gets, series
    for name, folders, files in os.walk(root):
        here = Path(name)
        folders[:] = [one for one in folders if not one.startswith(".") and not _excluded(here / one, root, rules)]
        inside = [Path(name, one) for one in files if not one.startswith(".") and _is_scan(here / one)]
        wanted = [path for path in inside if _wanted(path, root, rules)]
        passed.unmatched += len(inside) - len(wanted)
        rule = None if rules.series == "all" else rules.series
        scans += [(path, "", rule if extension(path) == ".zip" else None) for path in wanted]
        for folder in (here, *(here / one for one in folders if (here / one).is_symlink())):
            scans += [(folder, suffix, series) for suffix, series in _series(folder, root, rules, passed)]
    scans = _joined(scans, passed.folders)
    if not scans:
        raise _nothing(root, passed)
    top = Path(os.path.abspath(root)).name
    found = []
    for path, suffix, series in sorted(scans, key=lambda scan: scan[0]):
        inner = path.relative_to(root).parent.parts if path != root else ()
        name = case_id(path) + suffix
        found.append(_Found(path, (name, "_".join((*inner, name)), "_".join((top, *inner, name))), series))
    return found


def _joined(
    scans: list[tuple[Path, str, str | None]], folders: dict[str, dict[Path, _Part]]
) -> list[tuple[Path, str, str | None]]:
    """The scans, with those DICOM series whose slices lie in several folders as one each, of the folder above."""
    joined = []
    for uid, places in folders.items():
        parts = [part.places for part in places.values()]
        if len(places) < 2 or sum(map(len, parts)) != len(set().union(*parts)):
            continue  # one folder, or copies: each is a scan
        split = {(folder, part.series) for folder, part in places.items()}
        scans = [scan for scan in scans if (scan[0], scan[2]) not in split]
        above = Path(os.path.commonpath(places))
        joined.append((above, uid))
    same = Counter(above for above, _ in joined)
    taken: Counter[Path] = Counter()
    for above, uid in joined:
        taken[above] += 1
        scans.append((above, f"_s{taken[above]}" if same[above] > 1 else "", uid))
    return scans


def _is_scan(path: Path) -> bool:
    """Whether a file in a folder is a scan by itself."""
    known = extension(path)
    if known in (".npz", ".zip"):
        return path.is_file() and (arrays.is_scan(path) if known == ".npz" else holds_scan(path))
    return known not in ("", ".dcm")


def _series(folder: Path, root: Path, rules: _Rules, passed: _PassedOver) -> list[tuple[str, str | None]]:
    """The DICOM series in a folder: what they add to its name, and which they are; the only one needs neither."""
    if not _wanted(folder, root, rules):
        passed.unmatched += bool(dicom_files(folder))
        return []
    found = rules.lister(folder)
    if found is None:
        return []
    passed.others += found.others
    for single in found.singles:
        passed.folders.setdefault(single.uid, {})[folder] = _Part(single.uid, single.places)
    if not found.volumes:
        return [("", None)] if found.damaged else []
    alone = len(found.volumes) == 1 and rules.series in ("all", "largest")
    for volume in found.volumes:
        if volume.slices[0].size[2] == 1:
            passed.folders.setdefault(volume.slices[0].series, {})[folder] = _Part(
                None if alone else volume.uid, volume.places
            )
    if alone:
        return [("", None)]
    taken = {one.uid for one in chosen(found.volumes, rules.series)}
    passed.unmatched += len(found.volumes) - len(taken)
    if len(found.volumes) == 1:
        return [("", uid) for uid in taken]
    # Whichever are taken, each has the same name in every run.
    return [(f"_s{one.number or n + 1}", one.uid) for n, one in enumerate(found.volumes) if one.uid in taken]


def _wanted(path: Path, root: Path, rules: _Rules) -> bool:
    included = not rules.include or _matches(path, root, rules.include)
    return included and not _excluded(path, root, rules)


def _excluded(path: Path, root: Path, rules: _Rules) -> bool:
    return path != root and _matches(path, root, rules.exclude)


def _matches(path: Path, root: Path, patterns: Sequence[str]) -> bool:
    texts = path.name, path.relative_to(root).as_posix()
    return any(fnmatchcase(text, pattern.removesuffix("/")) for text in texts for pattern in patterns)


def _nothing(root: Path, passed: _PassedOver) -> ScanError:
    """Why a folder gives no scans."""
    parts = []
    if passed.others:
        parts.append(f"DICOM objects that are no volume: {counted(passed.others)}")
    if passed.unmatched:
        parts.append(f"{passed.unmatched} scans are left out by the choice of series or patterns")
    message = f"{root}: no scans in this folder" + (f"; {'; '.join(parts)}." if parts else ".")
    return ScanError(message, KNOWN, code="scans_none")


def _unique(choices: list[tuple[str, str, str]]) -> list[str]:
    """For each scan the shortest of its names that no other scan has; numbered where even the longest clashes."""
    level = [0] * len(choices)
    for _ in range(2):
        # Case is ignored, because files named by these ids may land on a disk that ignores it too.
        count = Counter(names[n].casefold() for names, n in zip(choices, level, strict=True))
        clash = [count[names[n].casefold()] > 1 for names, n in zip(choices, level, strict=True)]
        level = [min(n + c, 2) for n, c in zip(level, clash, strict=True)]
    taken: set[str] = set()
    ids: list[str] = []
    for names, n in zip(choices, level, strict=True):
        id, number = names[n], 1
        while id.casefold() in taken:
            number += 1
            id = f"{names[n]}_{number}"
        taken.add(id.casefold())
        ids.append(id)
    return ids
