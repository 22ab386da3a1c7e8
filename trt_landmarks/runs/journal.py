"""The journal of a run: one line for every finished case, so that a run that is killed loses nothing.

The journal lies beside the results file until the run is complete.  Its first line says what the run is (task, model,
engine, versions, settings).  Every further line holds a checksum and one of

    begun   the id of a scan that is going to be read
    suspect the id of a scan that may have killed an earlier run
    case    a case, as it stands in the results file but with tabs for line breaks: that file is made by copying
    ended   the run ended in order: what it had begun did not kill it

Lines are handed to the operating system one by one, which survives the end of the process, and forced onto the disk
every few seconds, which survives a power cut.  A line that is damaged or was not finished is dropped when the run goes
on, and its scan is computed anew.

A run holds a lock on its journal, which the system drops when it ends, however it ends.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from trt_landmarks.errors import PredictionsError
from trt_landmarks.files import write_error
from trt_landmarks.results.case import CaseResult, read_case
from trt_landmarks.results.predictions import Predictions, encode_case
from trt_landmarks.scan import ScanFile

FORMAT = 3
#: Added to the name of the results file.
SUFFIX = ".journal.jsonl"
#: Seconds after which new lines are forced onto the disk.
SYNC_SECONDS = 5.0


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
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}  # case id -> where its case begins, and its bytes
        self._end = 0
        self._synced = time.monotonic()
        try:
            self._write(json.dumps({"journal": FORMAT, **facts(header)}, allow_nan=False).encode() + b"\n")
        except (TypeError, ValueError) as error:
            raise PredictionsError(f"{path}: model or engine cannot be written as JSON: {error}.") from None

    def suspect(self, ids: Iterable[str]) -> None:
        """These may have killed an earlier run, until they have cases.

        Raises:
            PredictionsError: if the disk is full or fails.
        """
        for id in ids:
            self._write(_line(b"suspect", json.dumps(id).encode()))

    def begin(self, file: ScanFile) -> None:
        """A scan is going to be read; any thread may say so.

        Raises:
            PredictionsError: if the disk is full or fails.
        """
        with self._lock:
            self._write(_line(b"begun", json.dumps(file.id).encode()))

    def add(self, cases: Iterable[CaseResult]) -> None:
        """Add cases that are finished; of a case that is added twice, the later counts.

        Raises:
            PredictionsError: if the disk is full or fails.
        """
        for case in cases:
            text = encode_case(case).replace(b"\n", b"\t")
            with self._lock:
                self._write(_line(b"case", text))
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
        """Close the journal of a run that ended in order; it stays on the disk."""
        with suppress(PredictionsError):
            self._write(_line(b"ended", b"true"))
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
        text = b""
        with self._lock:
            self._stream.seek(start)
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
    with locked(journal_path(out)) as (path, stream):
        count = sum(b'"case":' in line and line.endswith(b"\n") for line in stream)  # also of another version
        if count > 0 and not overwrite:
            raise PredictionsError(
                f"{path}: holds {count} case(s) of a run that was not finished.",
                "Continue with --resume, or replace them with --overwrite.",
                code="run_unfinished",
            )
        return replaced(path, header, [])


def facts(header: Predictions) -> dict[str, Any]:
    """What the first line says of the run."""
    return {"task": header.task, "model": header.model, "engine": header.engine, "run": header.run}


def replaced(path: Path, header: Predictions, cases: Iterable[CaseResult]) -> Journal:
    """A journal with these cases in place of the one that is there; either of them is whole at any moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        stream = temporary.open("w+b", buffering=0)
        try:
            _lock(stream, path)
            journal = Journal(path, stream, header)
            for case in cases:
                journal.add([case])
            journal.sync()
            os.replace(temporary, path)
        except BaseException:
            stream.close()
            temporary.unlink()
            raise
    except OSError as problem:
        raise write_error(path, problem, PredictionsError) from None
    return journal


@contextmanager
def locked(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """The journal that is there, made if there is none, and no other process has or gets meanwhile.

    An empty one that was made here is removed if nothing comes of it.
    """
    while True:
        try:
            stream = path.open("a+b")
        except OSError as problem:
            raise write_error(path, problem, PredictionsError) from None
        try:
            _lock(stream, path)
            own = os.fstat(stream.fileno())
            try:
                current = os.path.samestat(own, os.stat(path))
            except FileNotFoundError:
                current = False
            if current:
                break
        except BaseException:
            stream.close()
            raise
        stream.close()  # its run ended, or replaced it, between opening and locking
    with stream:
        stream.seek(0)
        try:
            yield path, stream
        except BaseException:
            if own.st_size == 0:
                with suppress(OSError):
                    path.unlink()
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


def _line(kind: bytes, value: bytes) -> bytes:
    rest = b'"%s":%s}' % (kind, value)
    return b'{"crc":"%08x",%s\n' % (zlib.crc32(rest), rest)


def first_line(stream: IO[bytes], path: Path) -> dict[str, Any] | None:
    """What the run is; None of an empty journal."""
    line = stream.readline()
    if not line:
        return None
    try:
        head = json.loads(line)
        if head["journal"] == FORMAT and all(isinstance(head[key], dict) for key in ("model", "engine", "run")):
            return {"task": head["task"], **head}
    except (ValueError, KeyError, TypeError):
        pass
    message = f"{path}: is damaged, or of another version: its first line does not say what the run is."
    raise PredictionsError(message, "Start again with --overwrite.")


def entries(stream: IO[bytes], path: Path, quiet: bool = False) -> Iterator[tuple[str, Any]]:
    """What further lines hold: their kind, and a case or an id; damaged ones are dropped, with a warning."""
    for number, line in enumerate(stream, 2):
        try:
            content = json.loads(line)
            if not line.endswith(b"}\n") or int(content["crc"], 16) != zlib.crc32(line[line.index(b",") + 1 : -1]):
                raise ValueError("checksum")
            (kind,) = content.keys() - {"crc"}
            value = read_case(content[kind]) if kind == "case" else content[kind]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, PredictionsError):
            if not quiet:
                logging.getLogger(__name__).warning("%s: line %d is damaged; its scan is computed anew.", path, number)
            continue
        yield kind, value
