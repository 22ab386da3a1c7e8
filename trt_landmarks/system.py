"""Facts about this machine: processor, cores, memory, installed packages.  Imports nothing heavy."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shlex
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

#: Where Linux describes the processor.
CPU_INFO = Path("/proc/cpuinfo")
#: Where Linux describes cores, tells the limits of groups of processes, and in which of them this process is.
CPU_FOLDERS = Path("/sys/devices/system/cpu")
GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


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
    """How many cores this process may use: those that it may run on, or less by the quota of its group."""
    return _within_quota(len(affinity()))


def physical_cores() -> int:
    """The same, with threads of one core (hyper-threading) counted once, where the system tells them apart."""
    siblings = set()
    for core in affinity():
        try:
            siblings.add((CPU_FOLDERS / f"cpu{core}" / "topology" / "thread_siblings_list").read_text())
        except OSError:
            siblings.add(str(core))
    return _within_quota(len(siblings))


def memory_bytes() -> int | None:
    """Memory that programs may use: the machine's, or less within a container; None where it is not told."""
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    limits = [words[0] for words in _group_settings("memory", "memory.max", "memory.limit_in_bytes")]
    return min([whole, *(int(limit) for limit in limits if limit.isdecimal() and int(limit))])


def _within_quota(count: int) -> int:
    """So many cores, or less by the quota of processor time."""
    for words in _group_settings("cpu", "cpu.max", "cpu.cfs_quota_us cpu.cfs_period_us"):
        if len(words) == 2 and all(word.isdecimal() and int(word) for word in words):  # else max, or -1
            count = min(count, -(-int(words[0]) // int(words[1])))
    return max(1, count)


def _group_settings(controller: str, second: str, first: str) -> Iterator[list[str]]:
    """The words of a setting in this process's group and in all above it, each of which limits it.

    Args:
        controller: what the setting is of.
        second: its file in version 2 of control groups.
        first: the same in version 1; of several files, a word each.
    """
    try:
        groups = [line.split(":", 2) for line in OWN_GROUPS.read_text().splitlines()]
    except OSError:
        groups = [["0", "", "/"]]
    for _, names, path in groups:
        if names and controller not in names.split(","):
            continue
        files = (first if names else second).split()
        for top in (GROUPS / names, GROUPS / controller) if names else (GROUPS, GROUPS / "unified"):
            folder = top / path.lstrip("/")
            # In a container the path may be the host's, and the folders its own: then the topmost is what counts.
            for here in [top] if ".." in folder.parts else [*folder.parents, folder]:
                if here.is_relative_to(top):
                    try:
                        yield " ".join((here / file).read_text() for file in files).split()
                    except OSError:
                        continue


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


@contextmanager
def terminable() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP do what Ctrl-C does; only the main thread can say so, and not what is ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    changed = [number for number in numbers if before[number] not in (signal.SIG_IGN, None)]  # nohup
    for number in changed:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])


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
