"""Files: reading, writing whole or not at all, SHA-256, and the user's cache folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from trt_landmarks.errors import TrtlmError

if TYPE_CHECKING:
    from typing_extensions import Buffer

#: Environment variable that names the cache folder.
CACHE_VARIABLE = "TRTLM_CACHE"


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


def read_text(path: str | Path, error: type[TrtlmError], what: str) -> str:
    """Read a UTF-8 file (a byte order mark is allowed); ``what`` names its kind in errors, e.g. "landmark file".

    Raises:
        error: naming the file, if it is missing, unreadable or not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise error(f"{path}: no such {what}.", "Check the path.") from None
    except UnicodeDecodeError:
        raise error(f"{path}: is not a {what}: it is not UTF-8 text.") from None
    except OSError as problem:
        raise error(f"{path}: cannot be read: {_reason(problem)}.") from None


def cache_folder() -> Path:
    """The user's cache folder of this toolkit."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trt-landmarks"


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
