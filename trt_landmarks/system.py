"""Facts about this machine: processor, cores, memory, installed packages.  Imports nothing heavy."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

#: Where Linux describes the processor.
CPU_INFO = Path("/proc/cpuinfo")
#: Where Linux tells the limit of a container.
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def processor() -> str:
    """The processor's name (Linux), or its architecture."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def processor_bf16() -> str | None:
    """The processor's instructions for bfloat16: ``amx_bf16``, ``avx512_bf16`` or None (Linux on x86-64)."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return None
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return next((name for name in ("amx_bf16", "avx512_bf16") if name in flags), None)


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


def resident_bytes(peak: bool = False) -> int | None:
    """Resident memory of this process, or the most it had (Linux); None where it is not told.

    The peak is this program's own: ``getrusage`` would tell the parent's where that is larger.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    match = re.search(rf"^{'VmHWM' if peak else 'VmRSS'}:\s*(\d+) kB", status, re.MULTILINE)
    return int(match[1]) << 10 if match else None


def installed_version(name: str) -> str | None:
    """Version of an installed distribution, which is not imported.

    None if it is not installed; ``unknown`` if its metadata is damaged.
    """
    try:
        return importlib.metadata.version(name) or "unknown"
    except importlib.metadata.PackageNotFoundError:
        return None
    except Exception:  # metadata is files that anything may have happened to
        return "unknown"


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of those distributions that are installed."""
    versions = {name: installed_version(name) for name in names}
    return {name: version for name, version in versions.items() if version is not None}


def install_command(extra: str) -> str:
    """The command that installs an extra of this package, which is on no package registry.

    In a checkout it names the checkout; elsewhere the packages of the extra.
    """
    try:
        package = importlib.metadata.distribution("trt-landmarks")
    except importlib.metadata.PackageNotFoundError:
        return f"pip install -e '.[{extra}]' in the checkout of trt-landmarks"
    origin = json.loads(package.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        folder = origin["url"].removeprefix("file://")
        return "pip install -e " + shlex.quote(f"{folder}[{extra}]")
    from packaging.requirements import Requirement

    packages: list[str] = []
    extras = [extra]
    for name in extras:
        for line in package.requires or []:
            need = Requirement(line)
            if need.marker is None or not need.marker.evaluate({"extra": name}) or need.marker.evaluate({"extra": ""}):
                continue
            if need.name == package.name:
                extras += [inner for inner in need.extras if inner not in extras]
            else:
                packages.append(f"{need.name}{need.specifier}")
    return shlex.join(["pip", "install", *dict.fromkeys(packages)])
