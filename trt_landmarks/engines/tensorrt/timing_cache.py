"""TensorRT's timing cache: measured times of kernels, shared by all builds on a GPU.

One file per flavour, version and GPU, in ``timing/`` of the user's cache folder.  It is TensorRT's own format with
nothing added, so that other tools read and edit it.  A build reads it at its start and merges what it has measured
into it at its end, under a lock, so that builds that run at the same time lose nothing.  It only makes builds faster:
whatever is wrong with it is told in a line and never stops one.

TensorRT for RTX has none: NVIDIA documents its timing cache as without effect, deprecated, and asking for a GPU
during a build.  **Not verified, for want of a GPU:** all of this with TensorRT itself; it follows the documentation
of TensorRT 11.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from trt_landmarks.bundles.bundle import cache_folder
from trt_landmarks.engines.tensorrt.flavours import Log
from trt_landmarks.errors import EngineError
from trt_landmarks.files import write_bytes


def timing_cache_path(flavour: str, version: str, gpu: str, compute_capability: str) -> Path:
    """The file for a flavour, its version and a GPU: measured times hold for these alone."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{flavour}-{version}-{gpu}-{compute_capability}")
    return cache_folder() / "timing" / f"{name}.cache"


class TimingCache:
    """The shared cache in one build: attached, editable, when it is made, and merged into the file afterwards.

    Args:
        trt: TensorRT.
        config: the builder's configuration.
        path: the shared file; missing or damaged, the build starts with an empty cache.
        log: the build's log, which tells what TensorRT thinks of the file.
        say: told in a line what is wrong with the file, if anything is.
    """

    def __init__(self, trt: ModuleType, config: Any, path: Path, log: Log, say: Callable[[str], None]) -> None:
        self._config, self._path, self._log, self._say = config, path, log, say
        config.set_flag(trt.BuilderFlag.EDITABLE_TIMING_CACHE)
        self._cache = self._read()
        if self._cache is None or not config.set_timing_cache(self._cache, ignore_mismatch=False):
            if self._cache is not None:
                self._tell_foreign()
            self._cache = config.create_timing_cache(b"")
            config.set_timing_cache(self._cache, ignore_mismatch=False)

    def merge(self) -> None:
        """Write the build's times to the file, with what other builds have put there meanwhile."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._path):
                others = self._read()
                if others is not None and not self._cache.combine(others, ignore_mismatch=False):
                    self._tell_foreign()
                write_bytes(self._path, self._cache.serialize(), EngineError)
        except OSError as error:
            self._say(f"{self._path}: the timing cache cannot be kept: {error.strerror}; the next build measures again")
        except EngineError as error:
            self._say(f"{error.message} The next build measures again.")

    def _read(self) -> Any:
        """The cache in the file; None if there is none or it cannot be read.

        Of a damaged file TensorRT may also make an empty cache, and say so in its log only.
        """
        before = len(self._log.warnings)
        cache, reasons = None, []
        try:
            blob = self._path.read_bytes() if self._path.is_file() else b""
            if not blob:
                return None
            cache = self._config.create_timing_cache(blob)
        except Exception as error:  # TensorRT's bindings raise RuntimeError and TypeError
            reasons.append(" ".join(str(error).split()))
        reasons += self._log.warnings[before:]
        if cache is None or reasons:
            reason = "; ".join(reasons).rstrip(".") or "TensorRT does not take it"
            self._say(f"{self._path}: this timing cache is damaged and is discarded: {reason}")
        return cache

    def _tell_foreign(self) -> None:
        self._say(f"{self._path}: this timing cache was made for another GPU or version; it is discarded")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for the file's lock and hold it.  It ends with its process, so none is left behind."""
    with path.with_name(f"{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
