"""Files: reading and checking, writing whole or not at all, SHA-256, and the user's cache folder.

What is read may come from anywhere: texts have a largest size, JSON and YAML a largest depth, YAML no aliases.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from trt_landmarks.errors import TrtlmError

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Environment variable that names the cache folder.
CACHE_VARIABLE = "TRTLM_CACHE"
#: The largest text file that is read, bytes.
MAX_TEXT_BYTES = 64 << 20
#: The largest YAML file: the parser takes about a second for a megabyte.
MAX_YAML_BYTES = 1 << 20


def write_text(path: str | Path, text: str, error: type[TrtlmError]) -> None:
    """Write a UTF-8 file so that a reader sees the old or the new content, never half of it.

    Raises:
        error: as :func:`write_bytes`.
    """
    write_bytes(path, text.encode("utf-8"), error)


def write_bytes(path: str | Path, content: Buffer, error: type[TrtlmError]) -> None:
    """Write a file so that a reader sees the old or the new content, never half of it.

    Raises:
        error: as :func:`replacing`.
    """
    with replacing(path, error) as stream:
        stream.write(content)


@contextlib.contextmanager
def replacing(path: str | Path, error: type[TrtlmError]) -> Iterator[IO[bytes]]:
    """A stream whose content becomes the file's at the end, if nothing was raised: never half of it is seen.

    The content goes to a temporary file in the same folder, which then takes the name.  A symbolic link keeps
    pointing to its file.  Devices and pipes (``/dev/stdout``) are written to directly.

    Raises:
        error: naming the file, if the folder is missing or may not be written to, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as stream:
                yield stream
            return
        target = Path(os.path.realpath(path))
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError as problem:
        raise write_error(path, problem, error) from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):  # the folder itself may be the problem
                temporary.unlink(missing_ok=True)


def make_folder(path: str | Path, error: type[TrtlmError]) -> Path:
    """Make a folder, and those above it, if it is not there; gives its path.

    Raises:
        error: naming the folder, if it cannot be made.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        message = f"{path}: cannot be made a folder: {_reason(problem)}."
        raise error(message, "Name a folder at a place that you may write to.") from None
    return path


def write_error(path: Path, problem: OSError, error: type[TrtlmError]) -> TrtlmError:
    """The error for a file that cannot be written."""
    return error(f"{path}: cannot be written: {_reason(problem)}.", _write_remedy(path, problem))


def read_text(path: str | Path, error: type[TrtlmError], what: str, limit: int = MAX_TEXT_BYTES) -> str:
    """Read a UTF-8 file (a byte order mark is allowed); ``what`` names its kind in errors, e.g. "landmark file".

    Raises:
        error: naming the file, if it is missing, unreadable, not text or larger than ``limit`` bytes.
    """
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(limit + 1)
        if len(content) > limit:
            raise error(f"{path}: is larger than a {what} can be: more than {limit >> 20} MiB.", "Check the path.")
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        raise error(f"{path}: no such {what}.", "Check the path.") from None
    except UnicodeDecodeError:
        raise error(f"{path}: is not a {what}: it is not UTF-8 text.") from None
    except OSError as problem:
        raise error(f"{path}: cannot be read: {_reason(problem)}.") from None


def read_json(
    path: str | Path, error: type[TrtlmError], what: str, limit: int = MAX_TEXT_BYTES, remedy: str = ""
) -> Any:
    """The content of a JSON file; ``remedy`` says what to do if one that a program wrote is damaged.

    Raises:
        error: as :func:`read_text` and :func:`parse_json`.
    """
    return parse_json(read_text(path, error, what, limit), path, error, what, remedy)


def parse_json(text: str, path: str | Path, error: type[TrtlmError], what: str, remedy: str = "") -> Any:
    """The content of a JSON file of which ``text`` was read.

    Raises:
        error: naming the line, if it is not JSON; if it is nested too deeply.
    """
    where = f"{path}: is damaged" if remedy else path
    try:
        return json.loads(text)
    except json.JSONDecodeError as problem:
        raise error(f"{where}: line {problem.lineno}: is not valid JSON: {problem.msg}.", remedy) from None
    except ValueError as problem:  # a number of thousands of digits
        raise error(f"{where}: is not valid JSON: {problem}.", remedy) from None
    except RecursionError:
        raise error(f"{where}: is not a {what}: it is nested too deeply.", remedy) from None


def read_yaml(path: str | Path, error: type[TrtlmError], what: str) -> Any:
    """The content of a YAML file.

    Raises:
        error: as :func:`read_text`; naming the line, if it is not YAML or has an alias (``*name``), with which a few
            lines can stand for more data than memory holds; if it is nested too deeply.
    """
    import yaml

    class WithoutAliases(yaml.SafeLoader):
        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()
                message = f"{path}: line {event.start_mark.line + 1}: has the YAML alias *{event.anchor}."
                raise error(message, "Write out what it stands for.")
            return super().compose_node(parent, index)

    text = read_text(path, error, what, MAX_YAML_BYTES)
    try:
        return yaml.load(text, WithoutAliases)
    except (yaml.YAMLError, ValueError) as problem:  # a date or a number that does not exist
        raise error(f"{path}: is not valid YAML: {' '.join(str(problem).split())}.") from None
    except RecursionError:
        raise error(f"{path}: is not a {what}: it is nested too deeply.") from None


def explain(problems: Iterable[Any], content: Any = None, most: int = 3) -> str:
    """What pydantic found wrong, for people: ``cases.3.landmarks.0.confidence (of 'head-7', 'AC'): is missing``.

    Args:
        problems: ``ValidationError.errors()``.
        content: the plain data that was checked, whose ``id`` and ``name`` entries are told; None tells none.
        most: so many problems are told.
    """
    told = [_explain_one(problem, content) for problem in problems]
    return "; ".join(told[:most]) + (f"; and {len(told) - most} more" if len(told) > most else "")


def _explain_one(problem: Any, content: Any) -> str:
    names = []
    for key in (None, *problem["loc"]):
        if key is not None:
            try:
                content = content[key]
            except (TypeError, KeyError, IndexError):
                break
        if isinstance(content, dict):
            names += [repr(content[name]) for name in ("id", "name") if isinstance(content.get(name), str)]
    where = ".".join(map(str, problem["loc"])) + (f" (of {', '.join(names)})" if names else "")
    text, kind, value = problem["msg"].removeprefix("Value error, "), problem["type"], problem["input"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        text = "unknown key"
    elif kind == "missing":
        text = "is missing"
    elif kind == "dataclass_type":
        text = "is not an object with named fields"
    elif kind != "value_error" and isinstance(value, (str, int, float, type(None))):
        text = f"{text[:1].lower()}{text[1:]}, not {value!r:.80}"
    return f"{where}: {text}" if where else text


def cache_folder() -> Path:
    """The user's cache folder of this toolkit."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    above = os.environ.get("XDG_CACHE_HOME")
    if above:
        return Path(above) / "trt-landmarks"
    try:
        return Path.home() / ".cache" / "trt-landmarks"
    except RuntimeError:  # no variable HOME, and the user is not in the system's list, as in some containers
        return _own_temporary_folder()


@functools.cache
def _own_temporary_folder() -> Path:
    """A folder for temporary files that only this user may read and write, the same in every process if it can be."""
    folder = Path(tempfile.gettempdir(), f"trt-landmarks-{os.getuid()}")
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        own = folder.lstat()
        if stat.S_ISDIR(own.st_mode) and own.st_uid == os.getuid() and not own.st_mode & 0o077:
            return folder
    return Path(tempfile.mkdtemp(prefix="trt-landmarks-"))  # somebody else has that name


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _reason(problem: OSError) -> str:
    return (problem.strerror or str(problem)).lower()


def _write_remedy(path: Path, problem: OSError) -> str:
    if isinstance(problem, FileNotFoundError):
        return f"Create the folder {path.parent} first."
    if isinstance(problem, IsADirectoryError):
        return "Name a file, not a folder."
    return "Name a file in a folder that you may write to and that has room."
