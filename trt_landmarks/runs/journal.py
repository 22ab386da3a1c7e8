"""The journal of a run: one line for every finished case, so that a run that is killed loses nothing.

The journal lies beside the results file until the run is complete, and becomes the results file then.  Its first line
says what the run is (task, model, engine), every further one holds a case and the state of its scan.  Lines are handed
to the operating system case by case, which survives the end of the process, and forced onto the disk every few
seconds, which survives a power cut.  A line that was not finished is cut off when the run goes on.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from trt_landmarks.errors import PredictionsError
from trt_landmarks.files import write_error
from trt_landmarks.results.case import CaseResult, read_case
from trt_landmarks.results.predictions import Predictions, read_predictions
from trt_landmarks.runs.scan_state import State
from trt_landmarks.scan import ScanFile

FORMAT = 1
#: Added to the name of the results file.
SUFFIX = ".journal.jsonl"
#: Seconds after which new lines are forced onto the disk.
SYNC_SECONDS = 5.0
#: What must be the same in a run that goes on: keys of the results file's ``engine``.
SAME_ENGINE = ("name", "precision", "provider", "preprocessing")


@dataclass(frozen=True)
class Entry:
    """A line of the journal: a case as in the results file, and its scan's state (None: unknown)."""

    state: State | None
    case: dict[str, Any]


def journal_path(out: Path) -> Path:
    """Where the journal of a results file lies."""
    target = Path(os.path.realpath(out))
    return target.with_name(target.name + SUFFIX)


class Journal:
    """An open journal; only one process may have it.

    Args:
        path: the journal file, or what messages name if it has no name on the disk.
        stream: opened for reading and appending, unbuffered, at its end.
        named: whether there is a file of that name, which is the journal's own.
    """

    def __init__(self, path: Path, stream: IO[bytes], named: bool = True) -> None:
        self.path, self._named = path, named
        self._stream = stream
        self._synced = time.monotonic()

    def add(self, cases: Sequence[CaseResult], states: Mapping[str, State | None]) -> None:
        """Add cases; a case that is added twice counts once.

        Args:
            cases: what is finished.
            states: a case's id to the state that its scan had before it was read.

        Raises:
            PredictionsError: if the disk is full or fails.
        """
        self._write(b"".join(_line({"scan": states.get(case.id), "case": case.to_dict()}) for case in cases))
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Force what was added onto the disk."""
        with suppress(OSError):  # not every file can be forced; what fails for good fails at the next line
            os.fsync(self._stream.fileno())
        self._synced = time.monotonic()

    def cases(self) -> Iterator[dict[str, Any]]:
        """All cases as in the results file, each read when it is asked for."""
        places = {json.loads(line)["case"]["id"]: place for place, line in _lines(self._stream)}
        return (json.loads(_whole_line(self._stream, place))["case"] for place in places.values())

    def write_results(self, header: Predictions, out: Path, order: Sequence[ScanFile]) -> None:
        """Write the results file: the cases of ``order`` in its order, and after them all others.

        Raises:
            PredictionsError: if it cannot be written.
        """
        places = {json.loads(line)["case"]["id"]: place for place, line in _lines(self._stream)}
        wanted = [file.id for file in order if file.id in places]
        ordered = set(wanted)
        wanted += [id for id in places if id not in ordered]
        cases = (json.loads(_whole_line(self._stream, places[id]))["case"] for id in wanted)
        header.write_with(out, cases)

    def close(self) -> None:
        """Give the journal free; it stays on the disk."""
        self.sync()
        self._stream.close()

    def remove(self) -> None:
        """Close and delete the journal: its run is complete."""
        if self._named:
            with suppress(OSError):
                self.path.unlink()
        self._stream.close()

    def _write(self, lines: bytes) -> None:
        end = self._stream.seek(0, os.SEEK_END)
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[self._stream.write(rest) :]
        except OSError as problem:
            with suppress(OSError):
                self._stream.truncate(end)
            raise write_error(self.path, problem, PredictionsError) from None


def start_journal(out: Path, header: Predictions, overwrite: bool = False) -> Journal:
    """Start the journal of a new run.

    Args:
        out: the results file.
        header: what the run is; its cases do not count.
        overwrite: whether the journal of an unfinished run may be thrown away.

    Raises:
        PredictionsError: if there is such a journal and it may not, or if the folder cannot be written to.
    """
    if out.exists() and not out.is_file():  # a pipe or a device: nothing can lie beside it, and nothing goes on
        import tempfile

        journal = Journal(out, tempfile.TemporaryFile(buffering=0), named=False)  # noqa: SIM115
        journal._write(_line(_head(header)))
        return journal
    path = journal_path(out)
    if path.exists():
        with _locked(path) as stream:
            count = sum(1 for _ in _lines(stream))
        if count and not overwrite:
            raise PredictionsError(
                f"{path}: holds {count} case(s) of a run that was not finished.",
                "Continue with --resume, or throw them away with --overwrite.",
                code="run_unfinished",
            )
    return _replaced(path, header, [])


def resume_journal(
    out: Path, header: Predictions, files: Sequence[ScanFile], states: Mapping[str, State | None], retry: bool
) -> tuple[Journal, set[str]]:
    """Go on with a run that was cut off, or add to a results file.

    A case is kept if its scan has the same name and path as then, and the size and the time of its last change that it
    had; in a results file without a journal: if it was not changed after that file was written.  Cases of scans that
    are not named any more are kept too.

    Args:
        out: the results file.
        header: what the run is.
        files: the scans.
        states: id of a scan to its state now.
        retry: whether failed cases are computed again.

    Returns:
        The journal, and the ids of ``files`` whose cases it holds.

    Raises:
        PredictionsError: if what is there is of another task, model or engine, damaged, or used by another process.
    """
    path = journal_path(out)
    if out.exists() and not out.is_file():
        raise PredictionsError(f"{out}: is not a file, so that no run can go on there.", "Leave --resume out.")
    ids = {file.id: file.shown for file in files}
    paths = set(ids.values())
    kept: set[str] = set()

    def keep(entry: Entry) -> bool:
        id, named = entry.case["id"], entry.case["path"]
        if id in kept:  # added twice
            return False
        if named not in paths:
            if id in ids:
                raise PredictionsError(
                    f"{out}: case '{id}' is there already, of another scan: {named}.",
                    "Name that scan too, or write to another file.",
                    code="resume_mismatch",
                )
        else:
            same = ids.get(id) == named and entry.state is not None and entry.state == states.get(id)
            if not same or (retry and entry.case["status"] == "failed"):
                return False
        kept.add(id)
        return True

    if not path.exists():
        found = _results(out, header, states) if out.exists() else []
        journal = _replaced(path, header, filter(keep, found))
    else:
        with _locked(path) as stream:
            _same_run(path, header, _first_line(stream, path))
            journal = _replaced(path, header, filter(keep, _entries(stream, path)))
    return journal, kept & ids.keys()


def _results(out: Path, header: Predictions, states: Mapping[str, State | None]) -> list[Entry]:
    """The cases of a results file; the state of a scan that was not changed since is the one it has now."""
    found = read_predictions(out)
    _same_run(out, header, _head(found))
    written = out.stat().st_mtime_ns

    def state(id: str) -> State | None:
        now = states.get(id)
        return now if now is not None and now[1] <= written else None

    return [Entry(state(case.id), case.to_dict()) for case in found.cases]


def _head(header: Predictions) -> dict[str, Any]:
    return {"journal": FORMAT, "task": header.task, "model": header.model, "engine": header.engine}


def _same_run(path: Path, header: Predictions, there: Mapping[str, Any]) -> None:
    """Refuse to go on with what another model or engine gave."""

    def facts(head: Mapping[str, Any]) -> dict[str, Any]:
        digest = str(head["model"].get("sha256"))
        engine = {f"engine's {key}": head["engine"].get(key) for key in SAME_ENGINE}
        return {"task": head["task"], "model": f"{head['model'].get('name')} ({digest[:12]})", "": digest, **engine}

    then, now = facts(there), facts(_head(header))
    for key in then:
        if then[key] != now[key]:
            what = key or "model"
            raise PredictionsError(
                f"{path}: holds results of another run: its {what} is {then[what]}, and now it would be {now[what]}.",
                "Write to another file, or run as then.",
                code="resume_mismatch",
            )


def _replaced(path: Path, header: Predictions, entries: Iterable[Entry]) -> Journal:
    """A journal with these entries in place of the one that is there; either of them is whole at any moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        stream = temporary.open("w+b", buffering=0)
        try:
            _lock(stream, path)
            journal = Journal(path, stream)
            journal._write(_line(_head(header)))
            for entry in entries:
                journal._write(_line({"scan": entry.state, "case": entry.case}))
            journal.sync()
            os.replace(temporary, path)
        except BaseException:
            stream.close()
            temporary.unlink()
            raise
    except OSError as problem:
        raise write_error(path, problem, PredictionsError) from None
    return journal


def _locked(path: Path) -> IO[bytes]:
    """A journal that is there, if no other process has it."""
    try:
        stream = path.open("r+b", buffering=0)
    except OSError as problem:
        raise write_error(path, problem, PredictionsError) from None
    try:
        _lock(stream, path)
        return stream
    except BaseException:
        stream.close()
        raise


def _lock(stream: IO[bytes], path: Path) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:  # not every system has it
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PredictionsError(
            f"{path}: another run is writing to it.", "Wait for that run, or write to another file.", code="run_in_use"
        ) from None
    except OSError:  # some network file systems have no locks
        return


def _line(content: dict[str, Any]) -> bytes:
    try:
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise PredictionsError(f"a case, model or engine cannot be written as JSON: {error}.") from None


def _first_line(stream: IO[bytes], path: Path) -> dict[str, Any]:
    stream.seek(0)
    try:
        head = json.loads(_whole_line(stream, 0))
        if head["journal"] == FORMAT and all(isinstance(head[key], dict) for key in ("model", "engine")):
            return {"task": head["task"], **head}
    except (ValueError, KeyError, TypeError):
        pass
    raise _damaged(path, "its first line does not say what the run is")


def _entries(stream: IO[bytes], path: Path) -> Iterator[Entry]:
    """What the lines hold, checked."""
    for number, (_, line) in enumerate(_lines(stream), 2):
        try:
            content = json.loads(line)
            case = read_case(content["case"]).to_dict()
            state = content["scan"]
            entry = Entry(None if state is None else (int(state[0]), int(state[1]), int(state[2])), case)
        except (ValueError, KeyError, TypeError, IndexError, PredictionsError) as error:
            raise _damaged(path, f"line {number} is not a case ({error})") from None
        yield entry


def _lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Where a line begins, and the line, for all whole lines but the first."""
    place = len(_whole_line(stream, 0))
    while line := _whole_line(stream, place):
        yield place, line
        place += len(line)


def _whole_line(stream: IO[bytes], place: int) -> bytes:
    """The line that begins at a place; empty if none does, or if it was not finished."""
    parts: list[bytes] = []
    while part := os.pread(stream.fileno(), 1 << 16, place):
        end = part.find(b"\n")
        if end >= 0:
            return b"".join([*parts, part[: end + 1]])
        parts.append(part)
        place += len(part)
    return b""


def _damaged(path: Path, why: str) -> PredictionsError:
    return PredictionsError(f"{path}: is damaged: {why}.", "Delete that line, or start again with --overwrite.")
