"""Packed ONNX files: how a compact bundle stores its graphs, and how they become plain files again.

A packed file is::

    8 bytes     length of the header, little-endian
    header      JSON: {"skeleton": bytes, "tensors": [{"offset", "rows", "columns", "low_bits", "shared"}, ...]}
    the rest    one zlib stream: the skeleton, then for each tensor its parts, all little-endian:
                  scale   FP32 [rows]
                  high    INT8 [rows, columns]
                  low     UINT8 [rows, columns], if low_bits > 0
                  shared_scale FP32 [rows], shared INT8 [shared, columns], if shared > 0

The skeleton is the plain ONNX file without the bytes of its large FP32 weights.  A weight is ``scale * integer``, its
integer ``high * 2**low_bits + low``; with a shared part ``shared_scale * shared[row % shared]`` is added: landmarks
whose nets began as copies of one net store their differences from what they have in common.  ``offset`` is the place
of the weight's bytes in the plain file.  Unpacking takes NumPy only and gives the same bytes on every machine: the
manifest names the SHA-256 of the plain file.

Engines read plain files: they are unpacked once, into the user's cache folder, and checked whenever they are used.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trt_landmarks.errors import BundleError
from trt_landmarks.files import CACHE_VARIABLE, cache_folder, file_sha256, make_folder, write_bytes

#: Ends the name of a packed file.
SUFFIX = ".packed"
REMEDY = "Export or copy the bundle again."


@dataclass(frozen=True)
class Integers:
    """A weight as integers and scales.

    Attributes:
        values: ``[rows, columns]``, a row per output channel.
        scale: FP32 ``[rows]``.
        shared: INT8 ``[rows of the shared part, columns]``; None without one.
        shared_scale: FP32 ``[rows]``; None without a shared part.
    """

    values: NDArray[np.int32]
    scale: NDArray[np.float32]
    shared: NDArray[np.int8] | None = None
    shared_scale: NDArray[np.float32] | None = None

    def array(self) -> NDArray[np.float32]:
        """The weight, ``[rows, columns]``: the same bits on every machine."""
        weight = self.values.astype(np.float32) * self.scale[:, None]
        if self.shared is not None and self.shared_scale is not None:
            shared = np.tile(self.shared.astype(np.float32), (len(weight) // len(self.shared), 1))
            weight += shared * self.shared_scale[:, None]
        return weight


def pack(plain: bytes, weights: Mapping[int, Integers]) -> bytes:
    """A packed file.

    Args:
        plain: content of the plain file.
        weights: offset in it to the weight whose FP32 bytes are there.

    Raises:
        ValueError: if other bytes are there.
    """
    skeleton, parts, rows, end = [], [], [], 0
    for offset, weight in sorted(weights.items()):
        array = weight.array().astype("<f4").tobytes()
        if offset < end or plain[offset : offset + len(array)] != array:
            raise ValueError(f"the weight at {offset} is not in the plain file")
        skeleton.append(plain[end:offset])
        end = offset + len(array)
        low_bits = max(0, int(np.abs(weight.values).max()).bit_length() - 7)
        shared = 0 if weight.shared is None else len(weight.shared)
        rows.append(
            {
                "offset": offset,
                "rows": weight.values.shape[0],
                "columns": weight.values.shape[1],
                "low_bits": low_bits,
                "shared": shared,
            }
        )
        parts += [weight.scale.astype("<f4").tobytes(), (weight.values >> low_bits).astype(np.int8).tobytes()]
        if low_bits:
            parts.append((weight.values & ((1 << low_bits) - 1)).astype(np.uint8).tobytes())
        if weight.shared is not None and weight.shared_scale is not None:
            parts += [weight.shared_scale.astype("<f4").tobytes(), weight.shared.tobytes()]
    skeleton.append(plain[end:])
    header = json.dumps({"skeleton": sum(map(len, skeleton)), "tensors": rows}, separators=(",", ":")).encode()
    stream = zlib.compress(b"".join([*skeleton, *parts]), 9)
    return len(header).to_bytes(8, "little") + header + stream


def read_packed(packed: bytes) -> tuple[bytes, dict[int, Integers]]:
    """Skeleton and weights, by their offset in the plain file, of a packed file.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        length = int.from_bytes(packed[:8], "little")
        header = json.loads(packed[8 : 8 + length])
        size, tensors = int(header["skeleton"]), [dict(row) for row in header["tensors"]]
        content = zlib.decompress(packed[8 + length :])
        weights, place = {}, size

        def take(kind: str, *shape: int) -> NDArray[np.generic]:
            nonlocal place
            array = np.frombuffer(content, kind, int(np.prod(shape)), place).reshape(shape)
            place += array.nbytes
            return array

        for row in tensors:
            rows, columns, low_bits, shared = (int(row[key]) for key in ("rows", "columns", "low_bits", "shared"))
            scale = take("<f4", rows)
            values = take("i1", rows, columns).astype(np.int32) << low_bits
            if low_bits:
                values |= take("u1", rows, columns).astype(np.int32)
            common = (take("<f4", rows), take("i1", shared, columns)) if shared else (None, None)
            weights[int(row["offset"])] = Integers(values, scale, common[1], common[0])  # type: ignore[arg-type]
        if place != len(content):
            raise ValueError("bytes are left over")
    except (zlib.error, KeyError, TypeError, OverflowError) as error:
        raise ValueError(str(error)) from None
    return content[:size], weights


def unpack(packed: bytes) -> bytes:
    """Content of the plain file.

    Raises:
        ValueError: if the packed one is damaged.
    """
    skeleton, weights = read_packed(packed)
    parts, end, taken = [], 0, 0
    for offset, weight in sorted(weights.items()):
        array = weight.array().astype("<f4").tobytes()
        parts += [skeleton[taken : taken + offset - end], array]
        taken += offset - end
        end = offset + len(array)
    return b"".join([*parts, skeleton[taken:]])


def unpacked(root: Path, packed: Mapping[str, Mapping[str, str]]) -> Path:
    """The folder with a compact bundle's plain files, which are made if they are not there or were changed.

    It lies in the user's cache folder; if that cannot be written to, it is a temporary one of this process.

    Args:
        root: the bundle's folder.
        packed: name of a plain file to ``file``, the packed one's name, and ``sha256``, the plain one's.

    Raises:
        BundleError: if a packed file is missing or damaged, or no folder can be written to.
    """
    key = hashlib.sha256(json.dumps({name: row["sha256"] for name, row in sorted(packed.items())}).encode())
    folder = cache_folder() / "unpacked" / key.hexdigest()[:16]
    try:
        _unpack_into(folder, root, packed)
    except _CacheError as error:
        logging.getLogger(__name__).warning(
            "%s The model is unpacked into a temporary folder, again by every process: set %s to a folder that you "
            "may write to.", error.message, CACHE_VARIABLE,
        )  # fmt: skip
        folder = _temporary_folder(key.hexdigest())
        _unpack_into(folder, root, packed)
    return folder


class _CacheError(BundleError):
    code = "cache_unwritable"


def _unpack_into(folder: Path, root: Path, packed: Mapping[str, Mapping[str, str]]) -> None:
    for name, row in packed.items():
        path, source = folder / name, root / row["file"]
        if path.is_file() and file_sha256(path) == row["sha256"]:
            continue
        try:
            content = unpack(source.read_bytes())
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise BundleError(f"{source}: cannot be read: {reason}.", REMEDY) from None
        except ValueError:
            content = b""
        if hashlib.sha256(content).hexdigest() != row["sha256"]:
            raise BundleError(
                f"{source}: is not the file the manifest describes (it unpacks to other bytes).",
                REMEDY,
                code="bundle_tampered",
            )
        make_folder(path.parent, _CacheError)
        write_bytes(path, content, _CacheError)


@cache
def _temporary_folder(key: str) -> Path:
    """A folder for the model with this key, removed when this process ends."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"trtlm-{key[:16]}-"))
    except OSError as error:
        message = f"{tempfile.gettempdir()}: cannot be written: {(error.strerror or str(error)).lower()}."
        raise _CacheError(message, f"Set {CACHE_VARIABLE} to a folder that you may write to.") from None
    owner = os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == owner else None)
    return folder
