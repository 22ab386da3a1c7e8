"""Results that name nobody: scans under a hash in place of their names.

File and folder names often hold a patient's name or number.  Here every case gets the name ``case-`` and the first 12
hexadecimal digits of HMAC-SHA-256 of its id, under a key.  With the key of a file, the same id has the same hash in
every run, and who has both key and ids can tell who is who; without one, the key is made for the run and stored
nowhere, so that nobody can.

Errors of such scans give their code and the remedy, not the message: that may quote names of files, or what is in them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from trt_landmarks.errors import ScanError, TrtlmError
from trt_landmarks.scan.volume import ScanFile

#: Bytes that a key must have: shorter ones can be found by trying.
SHORTEST_KEY = 16
_DIGITS = 12


def read_key(path: str | Path) -> bytes:
    """The key in a file: all of it but white space at its ends.

    Raises:
        ScanError: if it cannot be read or is shorter than 16 bytes.
    """
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise ScanError(f"{path}: the key cannot be read: {error.strerror}.", code="key_invalid") from None
    if len(key) < SHORTEST_KEY:
        message = f"{path}: the key is {len(key)} bytes long, too short."
        raise ScanError(message, "Make one, for example with 'openssl rand -hex 32'.", code="key_invalid")
    return key


def anonymize(files: Iterable[ScanFile], key: bytes | None = None) -> list[ScanFile]:
    """The same files under hashes, for results; they are still read from where they are.

    Args:
        files: found together, so that their ids differ.
        key: secret; None for a random one that is not kept.
    """
    key = secrets.token_bytes(32) if key is None else key
    hidden = []
    for file in files:
        name = "case-" + hmac.new(key, file.id.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:_DIGITS]
        hidden.append(replace(file, id=name, label=name))
    return hidden


def reason(file: ScanFile, error: TrtlmError) -> str:
    """What may be said of an error of a scan: all of it, unless the scan's name must not be."""
    if file.label is None:
        return str(error)
    return f"{file.label}: cannot be used: {error.code}. {error.remedy}".strip()


@contextmanager
def nameless() -> Iterator[None]:
    """Errors raised within, before there are cases, keep their code and remedy only."""
    try:
        yield
    except TrtlmError as error:
        raise ScanError(f"the scans cannot be listed: {error.code}.", error.remedy, code=error.code) from None
