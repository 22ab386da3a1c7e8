"""Facts about this machine: processor, cores, memory, installed packages.  Imports nothing heavy."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path

#: Where Linux tells the limit of a container.
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def processor() -> str:
    """The processor's name (Linux), or its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def affinity() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cores() -> int:
    """How many cores this process may use."""
    return len(affinity())


def memory_bytes() -> int | None:
    """Memory that programs may use: the machine's, or less within a container; None where it is not told."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    try:
        return min(whole, int(CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):  # no such limit, or "max"
        return whole


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those distributions that are installed, without importing them."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
