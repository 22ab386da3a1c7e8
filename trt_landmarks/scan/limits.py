"""How much a scan may promise, and data that may not give more than was promised.

A few bytes of header can promise any number of voxels, and a few bytes of compressed data can become any number of
bytes.  So the promise is checked before memory is taken for it, and decompression ends where the promise does.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.errors import ScanError
from trt_landmarks.scan.problems import COPY_AGAIN, truncated

#: Setting: the voxels that a scan may have, at most (all frames and components).
SETTING = "TRTLM_MAX_VOXELS"
#: Its default, 4 GiB of 16-bit voxels: 512 x 512 x 8192.
MAX_VOXELS = 2**31

#: Bytes that may follow the voxels in compressed data; some writers pad.
SLACK = 1 << 20
_CHUNK = 1 << 20

#: Fills a buffer with what comes next, and says how many bytes that were; 0 at the end.
Fill = Callable[[memoryview], int]


def max_voxels() -> int:
    """The bound on a scan's voxels: the setting ``TRTLM_MAX_VOXELS``, else :data:`MAX_VOXELS`.

    Raises:
        ScanError: if the setting is not a positive whole number.
    """
    text = os.environ.get(SETTING, "").strip()
    if not text:
        return MAX_VOXELS
    if not text.isdecimal() or int(text) < 1:
        raise ScanError(f"the setting {SETTING} is '{text}'.", "Set it to a number of voxels.", code="setting_invalid")
    return int(text)


def check_count(path: Path, sizes: Iterable[int]) -> int:
    """The number of voxels that ``sizes`` promise.

    Raises:
        ScanError: if it is above :func:`max_voxels`.
    """
    count, limit = math.prod(sizes), max_voxels()
    if count > limit:
        message = f"{path}: its header promises {count:.4g} voxels; at most {limit:.4g} are read."
        raise ScanError(message, f"Crop it, or raise the limit with the setting {SETTING}.", code="scan_too_large")
    return count


@contextmanager
def gzip_fill(path: Path, file: BinaryIO) -> Iterator[Fill]:
    """Decompress what follows in a gzip file, as it is read; its checksum is looked at where the data ends.

    Raises:
        ScanError: if the data ends too early or is damaged.
    """
    unpack: Any = gzip.GzipFile
    damage: tuple[type[Exception], ...] = (gzip.BadGzipFile, zlib.error)
    try:
        from isal import igzip
        from isal.igzip_lib import IsalError

        unpack = igzip.IGzipFile  # several times faster
        damage = (*damage, IsalError)  # type: ignore[arg-type]  # its stub says instance, it is a class
    except ImportError:
        pass
    try:
        with unpack(fileobj=file, mode="rb") as stream:
            yield stream.readinto
    except EOFError:
        raise truncated(path, "the compressed data ends too early") from None
    except damage:
        raise _damaged(path) from None


def zlib_fill(path: Path, file: BinaryIO) -> Fill:
    """Decompress what follows in a file of zlib data, whose checksum ITK does not look at.

    The function returned raises ScanError where the data ends too early or is damaged.
    """
    stream = zlib.decompressobj(wbits=47)
    waiting = b""

    def fill(view: memoryview) -> int:
        nonlocal waiting
        while not stream.eof:
            fed = waiting or file.read(_CHUNK)
            if not fed:
                raise truncated(path, "the compressed data ends too early")
            try:
                plain = stream.decompress(fed, len(view))
            except zlib.error:
                raise _damaged(path) from None
            waiting = stream.unconsumed_tail
            if plain:
                view[: len(plain)] = plain
                return len(plain)
        return 0

    return fill


def read_start(fill: Fill, count: int) -> bytes:
    """The next ``count`` bytes, or what there is of them."""
    content, done = bytearray(count), 0
    while done < count and (got := fill(memoryview(content)[done:])):
        done += got
    return bytes(content[:done])


def read_promised(path: Path, fill: Fill, count: int) -> NDArray[np.uint8]:
    """Read ``count`` bytes; memory is taken as they come, not as they are promised.

    Raises:
        ScanError: if there are fewer.
    """
    content = np.empty(count, np.uint8)  # the system gives memory when it is written to
    _read(path, fill, count, content.data)
    return content


def pass_over(path: Path, fill: Fill, count: int) -> None:
    """Read ``count`` bytes and keep none of them.

    Raises:
        ScanError: if there are fewer.
    """
    _read(path, fill, count, None)


def check_end(path: Path, fill: Fill) -> None:
    """See compressed data to its end and its checksum, if the end is near.

    Raises:
        ScanError: if more than :data:`SLACK` bytes follow, of which no more are decompressed.
    """
    view = memoryview(bytearray(1 << 16))
    more = 0
    while count := fill(view):
        more += count
        if more > SLACK:
            message = f"{path}: is damaged: its data decompresses to more than its header promises."
            raise ScanError(message, COPY_AGAIN, code="scan_too_large")


def _read(path: Path, fill: Fill, count: int, into: memoryview | None) -> None:
    done = 0
    scratch = memoryview(bytearray(min(count, _CHUNK))) if into is None else into
    while done < count:
        step = min(_CHUNK, count - done)
        view = scratch[:step] if into is None else into[done : done + step]
        got = fill(view)
        if not got:
            raise truncated(path, f"{done} of {count} bytes of voxels are there")
        done += got


def _damaged(path: Path) -> ScanError:
    return ScanError(f"{path}: is damaged: the compressed data has errors.", COPY_AGAIN)
