"""The machine: what it is, and what else it does while something is timed.  No host name and no folder is told."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import trt_landmarks
from trt_landmarks.engines.tensorrt.gpu import NoGpu, find_gpus, nvidia_smi
from trt_landmarks.system import affinity, cores, installed_versions, memory_bytes, processor, resident_bytes

#: Distributions whose versions a report names.
DISTRIBUTIONS = (
    "numpy", "onnxruntime", "onnxruntime-gpu", "torch", "SimpleITK", "isal", "nvidia-dali-cuda130", "tensorrt-cu13",
    "tensorrt-rtx-cu13", "scipy",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """What the machine is, as far as it can be read; None where it cannot."""
    found, memory = find_gpus(), memory_bytes()
    return {
        "processor": processor(),
        "cores": cores(),
        "affinity": affinity(),
        "governor": _line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clock_mhz": _clock(),
        "memory_gib": memory and round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "gpus": [] if isinstance(found, NoGpu) else [f"{gpu.name} ({gpu.compute_capability})" for gpu in found],
        "no_gpu": found.reason if isinstance(found, NoGpu) else None,
        "driver": nvidia_smi("driver_version"),
        "gpu_clock_mhz": nvidia_smi("clocks.sm"),
    }


def versions() -> dict[str, str]:
    """Versions of what is timed, without what is not installed."""
    return {"trt-landmarks": trt_landmarks.__version__, **installed_versions(DISTRIBUTIONS)}


def commit() -> str | None:
    """The git commit of the code, with ``+`` if files differ from it: of the checkout, or as pip recorded it."""
    checkout = Path(trt_landmarks.__file__).resolve().parent.parent
    if (checkout / ".git").exists():
        try:
            answers = [
                subprocess.run(["git", "-C", checkout, *words], capture_output=True, text=True, check=True, timeout=10)
                for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
            ]
        except (OSError, subprocess.SubprocessError):
            return None
        return answers[0].stdout.strip() + "+" * bool(answers[1].stdout.strip())
    try:
        text = importlib.metadata.distribution("trt-landmarks").read_text("direct_url.json")
        return str(json.loads(text or "")["vcs_info"]["commit_id"])
    except (importlib.metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        return None


def gpu_memory_used() -> float | None:
    """MiB in use on the first GPU, by all processes; None without ``nvidia-smi``."""
    text = nvidia_smi("memory.used")
    return None if text is None or not re.match(r"[\d.]+", text) else float(re.split(r"[^\d.]", text)[0])


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def others(action: Callable[[], object], pids: Iterable[int] = ()) -> float:
    """Share of all cores that other processes, and other guests of the machine, had during an action (Linux).

    Args:
        action: what is done meanwhile.
        pids: processes that belong to this one; they must outlive the action.
    """
    own = [os.getpid(), *pids]

    def clocks() -> tuple[float, float]:
        user, nice, system, _idle, _wait, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
        return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK"), sum(map(_cpu_seconds, own))

    start, (busy, ours) = time.perf_counter(), clocks()
    action()
    busy_after, ours_after = clocks()
    cores = os.cpu_count() or 1
    return max(0.0, (busy_after - busy - ours_after + ours) / cores / (time.perf_counter() - start))


def undisturbed(action: Callable[[], object]) -> tuple[float, float]:
    """Seconds that an action takes, and the share of the cores that other processes had meanwhile.

    It begins when they leave the cores alone, and is repeated if they took more than 5 % of them meanwhile (up to 5
    times; the least disturbed counts).
    """
    tries: list[tuple[float, float]] = []
    while len(tries) < 5:
        for _ in range(600):
            if others(lambda: time.sleep(1)) < 0.02:
                break
        taken = 0.0

        def timed() -> None:
            nonlocal taken
            taken = seconds(action)

        share = others(timed)
        tries.append((share, taken))
        if share < 0.05:
            break
    share, taken = min(tries)
    return taken, share


def resident(peak: bool = False) -> float | None:
    """Resident memory of this process, or the most it had, MiB; None where it is not told."""
    size = resident_bytes(peak)
    return None if size is None else round(size / 2**20, 1)


def scrubbed(value: Any) -> Any:
    """Plain data without folders and host names: a path becomes its last part."""
    if isinstance(value, dict):
        return {scrubbed(key): scrubbed(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [scrubbed(entry) for entry in value]
    if not isinstance(value, str):
        return value
    text = re.sub(r"(?<![\w.:/])~?/(?:[^\s/'\",;:()]+/)*([^\s/'\",;:()]*)", r"\1", value)
    return text.replace(platform.node(), "this machine") if len(platform.node()) > 2 else text


def _cpu_seconds(pid: int) -> float:
    """Processor time that a process had (its threads, not its children)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _line(path: str) -> str | None:
    try:
        return Path(path).read_text().strip() or None
    except OSError:
        return None


def _clock() -> float | None:
    found = re.search(r"cpu MHz\s*:\s*([\d.]+)", _line("/proc/cpuinfo") or "")
    return float(found[1]) if found else None
