"""The journal of a run: one line for every finished case, so that a run that is killed loses nothing.

The journal lies beside the results file until the run is complete.  Its first line says what the run is (task, model,
engine).  Every further line holds a checksum, the state of a scan and its case, as the case stands in the results file
but with tabs for line breaks: the results file is made by copying.  Lines are handed to the operating system case by
case, which survives the end of the process, and forced onto the disk every few seconds, which survives a power cut.
A line that is damaged or was not finished is dropped when the run goes on, and its scan is computed anew.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from trt_landmarks.errors import PredictionsError
from trt_landmarks.files import write_error
from trt_landmarks.results.case import CaseResult, read_case
from trt_landmarks.results.predictions import Predictions, encode_case, read_predictions
from trt_landmarks.runs.report import Tally
from trt_landmarks.scan import ScanFile

FORMAT = 2
#: Added to the name of the results file.
SUFFIX = ".journal.jsonl"
#: Seconds after which new lines are forced onto the disk.
SYNC_SECONDS = 5.0
#: What must be the same in a run that goes on: keys of the results file's ``engine``.
SAME_ENGINE = ("name", "precision", "provider", "preprocessing")
#: Of a scan: bytes, nanoseconds of the last change, and files: one, or those of a folder.
State = tuple[int, int, int]


def scan_state(path: Path) -> State | None:
    """The state of a scan file, or of a folder with a DICOM series; None if it cannot be looked at.

    Contents are not read: a digest of 10,000 scans would take as long as reading them.  A file that is changed without
    changing its size, and given its old time back, goes unnoticed.  Files beside a header file (``.mhd``, ``.nhdr``)
    are not looked at.
    """
    try:
        own = os.stat(path)
        if not stat.S_ISDIR(own.st_mode):
            return own.st_size, own.st_mtime_ns, 1
        with os.scandir(path) as entries:
            files = [entry.stat() for entry in entries if entry.is_file()]
    except (OSError, ValueError):
        return None
    return sum(file.st_size for file in files), max((file.st_mtime_ns for file in files), default=0), len(files)


def journal_path(out: Path) -> Path:
    """Where the journal of a results file lies."""
    target = Path(os.path.realpath(out))
    return target.with_name(target.name + SUFFIX)


class Journal:
    """An open journal; only one process may have it.

    Args:
        path: the journal file, or what messages name if it has no name on the disk.
        stream: opened for reading and writing, unbuffered, empty.
        header: what the run is; its cases do not count.
        named: whether there is a file of that name, which is the journal's own.
    """

    def __init__(self, path: Path, stream: IO[bytes], header: Predictions, named: bool = True) -> None:
        self.path, self._named, self._stream = path, named, stream
        self._places: dict[str, tuple[int, int]] = {}  # case id -> where its case begins, and its bytes
        self._end = 0
        self._synced = time.monotonic()
        try:
            self._write(json.dumps({"journal": FORMAT, **_facts(header)}, allow_nan=False).encode() + b"\n")
        except (TypeError, ValueError) as error:
            raise PredictionsError(f"{path}: model or engine cannot be written as JSON: {error}.") from None

    def add(self, cases: Iterable[CaseResult], states: Mapping[str, State | None]) -> None:
        """Add cases; of a case that is added twice, the later counts.

        Args:
            cases: what is finished.
            states: a case's id to the state that its scan had before it was read.

        Raises:
            PredictionsError: if the disk is full or fails.
        """
        for case in cases:
            text = encode_case(case).replace(b"\n", b"\t")
            rest = b'"scan":%s,"case":%s}' % (json.dumps(states.get(case.id)).encode(), text)
            self._write(b'{"crc":"%08x",%s\n' % (zlib.crc32(rest), rest))
            self._places[case.id] = self._end - len(text) - 2, len(text)
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Force what was added onto the disk."""
        with suppress(OSError):  # not every file can be forced; what fails for good fails at the next line
            os.fsync(self._stream.fileno())
        self._synced = time.monotonic()

    def cases(self, order: Sequence[ScanFile]) -> Iterator[CaseResult]:
        """The cases of these scans, in their order, each read when it is asked for."""
        return (read_case(json.loads(self._text(file.id))) for file in order if file.id in self._places)

    def write_results(self, header: Predictions, out: Path, order: Sequence[ScanFile]) -> None:
        """Write the results file: the cases of ``order`` in its order, and after them all others.

        Raises:
            PredictionsError: if it cannot be written.
        """
        ids = dict.fromkeys(file.id for file in order if file.id in self._places) | dict.fromkeys(self._places)
        header.write_with(out, (self._text(id).replace(b"\t", b"\n") for id in ids))

    def close(self) -> None:
        """Close the journal; it stays on the disk."""
        self.sync()
        self._stream.close()

    def remove(self) -> None:
        """Close and delete the journal: its run is complete."""
        if self._named:
            with suppress(OSError):
                self.path.unlink()
        self._stream.close()

    def _text(self, id: str) -> bytes:
        start, size = self._places[id]
        self._stream.seek(start)
        text = b""
        while len(text) < size and (part := self._stream.read(size - len(text))):
            text += part
        return text

    def _write(self, line: bytes) -> None:
        try:
            self._stream.seek(self._end)
            rest = memoryview(line)
            while rest:
                rest = rest[self._stream.write(rest) :]
        except OSError as problem:
            with suppress(OSError):
                self._stream.truncate(self._end)
            raise write_error(self.path, problem, PredictionsError) from None
        self._end += len(line)


def start_journal(out: Path, header: Predictions, overwrite: bool = False) -> Journal:
    """Start the journal of a new run.

    Args:
        out: the results file.
        header: what the run is; its cases do not count.
        overwrite: whether the journal of an unfinished run may be replaced.

    Raises:
        PredictionsError: if there is such a journal and it may not, or if the folder cannot be written to.
    """
    if out.exists() and not out.is_file():  # a pipe or a device: nothing can lie beside it, and nothing goes on
        import tempfile

        return Journal(out, tempfile.TemporaryFile(buffering=0), header, named=False)
    path = journal_path(out)
    if path.exists():
        with _locked(path) as stream:
            count = sum(line.endswith(b"\n") for line in stream) - 1
        if count > 0 and not overwrite:
            raise PredictionsError(
                f"{path}: holds {count} case(s) of a run that was not finished.",
                "Continue with --resume, or replace them with --overwrite.",
                code="run_unfinished",
            )
    return _replaced(path, header, [])


def resume_journal(
    out: Path,
    header: Predictions,
    files: Sequence[ScanFile],
    states: Mapping[str, State | None],
    retry: bool,
    tally: Tally | None = None,
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
        tally: counts the cases of ``files`` that are kept.

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

    def same(case: CaseResult, state: State | None) -> bool:
        if case.path not in paths:
            if case.id in ids:
                raise PredictionsError(
                    f"{out}: case '{case.id}' is there already, of another scan: {case.path}.",
                    "Name that scan too, or write to another file.",
                    code="resume_mismatch",
                )
            return True
        unchanged = ids.get(case.id) == case.path and state is not None and state == states.get(case.id)
        return unchanged and not (retry and case.status == "failed")

    def wanted(entries: Iterable[tuple[CaseResult, State | None]]) -> Iterator[tuple[CaseResult, State | None]]:
        for case, state in entries:
            if case.id not in kept and same(case, state):  # else it was added twice, or is computed again
                kept.add(case.id)
                if tally is not None and case.id in ids:
                    tally.add(case, before=True)
                yield case, state

    if path.exists():
        with _locked(path) as stream:
            _same_run(path, header, _first_line(stream, path))
            journal = _replaced(path, header, wanted(_entries(stream, path)))
    else:
        journal = _replaced(path, header, wanted(_results(out, header, states) if out.exists() else []))
    return journal, kept & ids.keys()


def _results(out: Path, header: Predictions, states: Mapping[str, State | None]) -> Iterator[tuple[CaseResult, Any]]:
    """The cases of a results file; the state of a scan that was not changed since is the one it has now."""
    content = read_predictions(out)
    _same_run(out, header, _facts(content))
    written = out.stat().st_mtime_ns
    for case in content.cases:
        now = states.get(case.id)
        yield case, now if now is not None and now[1] <= written else None


def _facts(header: Predictions) -> dict[str, Any]:
    return {"task": header.task, "model": header.model, "engine": header.engine}


def _same_run(path: Path, header: Predictions, there: Mapping[str, Any]) -> None:
    """Refuse to go on with what another model or engine gave."""

    def facts(head: Mapping[str, Any]) -> dict[str, Any]:
        digest = str(head["model"].get("sha256"))
        engine = {f"engine's {key}": head["engine"].get(key) for key in SAME_ENGINE}
        return {"task": head["task"], "model": f"{head['model'].get('name')} ({digest[:12]})", "": digest, **engine}

    then, now = facts(there), facts(_facts(header))
    for key in then:
        if then[key] != now[key]:
            what = key or "model"
            raise PredictionsError(
                f"{path}: holds results of another run: its {what} is {then[what]}, and now it would be {now[what]}.",
                "Write to another file, or run as then.",
                code="resume_mismatch",
            )


def _replaced(path: Path, header: Predictions, entries: Iterable[tuple[CaseResult, State | None]]) -> Journal:
    """A journal with these entries in place of the one that is there; either of them is whole at any moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        stream = temporary.open("w+b", buffering=0)
        try:
            _lock(stream, path)
            journal = Journal(path, stream, header)
            for case, state in entries:
                journal.add([case], {case.id: state})
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
        stream = path.open("r+b")
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


def _first_line(stream: IO[bytes], path: Path) -> dict[str, Any]:
    try:
        head = json.loads(stream.readline())
        if head["journal"] == FORMAT and all(isinstance(head[key], dict) for key in ("model", "engine")):
            return {"task": head["task"], **head}
    except (ValueError, KeyError, TypeError):
        pass
    message = f"{path}: is damaged, or of another version: its first line does not say what the run is."
    raise PredictionsError(message, "Start again with --overwrite.")


def _entries(stream: IO[bytes], path: Path) -> Iterator[tuple[CaseResult, State | None]]:
    """What the further lines hold; those that are damaged are dropped, with a warning."""
    for number, line in enumerate(stream, 2):
        try:
            content = json.loads(line)
            if not line.endswith(b"}\n") or int(content["crc"], 16) != zlib.crc32(line[line.index(b'"scan":') : -1]):
                raise ValueError("checksum")
            case, state = read_case(content["case"]), content["scan"]
            entry = case, None if state is None else (int(state[0]), int(state[1]), int(state[2]))
        except (ValueError, KeyError, TypeError, IndexError, PredictionsError):
            logging.getLogger(__name__).warning("%s: line %d is damaged; its scan is computed anew.", path, number)
            continue
        yield entry
