"""The doctor's report: plain data for programs, and text for people."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from trt_landmarks import __version__
from trt_landmarks.doctor.checks import Ability, Can, dali_abilities, default_job, engine_abilities, find_conflicts
from trt_landmarks.doctor.facts import Facts, gather
from trt_landmarks.doctor.packages import PACKAGES, cuda_of
from trt_landmarks.engines.tensorrt.flavours import FLAVOURS

FORMAT = 1


def doctor(as_json: bool = False, deep: bool = False) -> int:
    """Print the report; returns the exit code: 0 if inference on the CPU works here, 2 if not.

    Args:
        as_json: print JSON (its keys: :mod:`trt_landmarks.doctor`) instead of text.
        deep: load the slow packages too, and give every package a minute.
    """
    start = time.perf_counter()
    facts = gather(deep)
    report = make_report(facts, time.perf_counter() - start)
    text = json.dumps(report, indent=1) if as_json else render(report)
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))  # settings may hold any bytes
    return 0 if report["verdict"]["ok"] else 2


def make_report(facts: Facts, seconds: float = 0.0) -> dict[str, Any]:
    """The report as plain data; its keys are described in :mod:`trt_landmarks.doctor`."""
    none, job = facts.no_gpu, default_job(facts)
    abilities, conflicts = engine_abilities(facts), find_conflicts(facts)
    return {
        "format": FORMAT,
        "trtlm": __version__,
        "verdict": {"ok": bool(job.possible), "summary": _summary(job, abilities)},
        "machine": dict(facts.machine),
        "driver": {
            "cuda": facts.driver_cuda or None,
            "kernel": facts.kernel_driver or None,
            "problem": none.reason if none else None,
        },
        "gpus": [
            {"name": gpu.name, "compute_capability": gpu.compute_capability, "memory_bytes": gpu.memory}
            for gpu in facts.gpus
        ],
        "packages": {package.name: _package(facts, package.name) for package in PACKAGES},
        "settings": dict(facts.settings),
        "model": _step(facts, "model") | _step(facts, "builds", ("builds", "warnings")),
        "cache": _step(facts, "cache"),
        "conflicts": [asdict(conflict) for conflict in conflicts],
        "engines": [asdict(ability) for ability in abilities],
        "dali": {backend: asdict(can) for backend, can in dali_abilities(facts).items()},
        "faults": list(facts.faults),
        "seconds": round(seconds, 2),
    }


def _package(facts: Facts, name: str) -> dict[str, Any]:
    answer, there = facts.answer(name), facts.distributions(name)
    details = {key: value for key, value in answer.facts.items() if key not in ("version", "reader", "opener")}
    if name == "torch" and facts.torch_cuda is not None:
        details["cuda"] = facts.torch_cuda
    state = "failed" if answer.state == "missing" and there else answer.state
    return {
        "state": state,
        "version": answer.facts.get("version") or next(iter(there.values()), None),
        "distributions": there,
        "details": details,
        "problem": answer.problem if state not in ("loaded", "missing", "found") else None,
    }


def _step(facts: Facts, step: str, keys: tuple[str, ...] | None = None) -> dict[str, Any]:
    """A step's own facts, with its problem if it did not succeed."""
    answer = facts.answer(step)
    if keys is not None:
        return {key: answer.facts.get(key, []) for key in keys}
    return {**answer.facts, "problem": None if answer.loaded else answer.problem or "not looked at"}


def _summary(job: Can, abilities: list[Ability]) -> str:
    if not job.possible:
        return f"inference on the CPU does not work: {job.reason}"
    on_gpu = [ability for ability in abilities if ability.engine in FLAVOURS]
    running = [ability.engine for ability in on_gpu if ability.run.possible]
    if running:
        return f"inference works on the CPU and on the GPU ({', '.join(running)})"
    for ability in on_gpu:
        if ability.run.possible is None:
            return f"inference works on the CPU; on the GPU it is not known ({ability.engine}: {ability.run.reason})"
    return "inference works on the CPU; GPU engines cannot run here"


def render(report: dict[str, Any]) -> str:
    """The report as text: one line per item, then conflicts, abilities and the verdict."""
    lines = [f"trtlm {report['trtlm']}", *(f"  {name:<14}{text}" for name, text in _items(report)), ""]
    problems = [conflict for conflict in report["conflicts"] if conflict["severity"] == "problem"]
    lines.append(f"Conflicts: {len(problems) or 'none'}")
    for conflict in report["conflicts"]:
        sign = "!" if conflict["severity"] == "problem" else "-"
        lines += [f"  {sign} {conflict['message']}", f"      -> {conflict['remedy']}"]
    lines += ["", f"{'Engines':<20}{'build':<8}run"]
    for engine in report["engines"]:
        name = f"{engine['engine']} {engine['precision']}".strip()
        build, run = engine["build"], engine["run"]
        why = [f"{what}: {can['reason']}" for what, can in (("build", build), ("run", run)) if can["reason"]]
        if len(why) == 2 and build["reason"] == run["reason"]:
            why = [build["reason"]]
        lines.append(f"  {name:<18}{_word(build):<8}{_word(run):<8}{'; '.join(why)}".rstrip())
    for backend, can in report["dali"].items():
        lines.append(f"  {f'dali {backend}':<18}{'':<8}{_word(can):<8}{can['reason']}".rstrip())
    verdict = report["verdict"]
    lines += ["", f"Verdict: {'ok' if verdict['ok'] else 'NOT OK'}, {verdict['summary'].rstrip('.')}."]
    return "\n".join(lines)


def _items(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    machine = report["machine"]
    if machine:
        names = (machine["python"], f"{machine['system']} {machine['machine']}", machine["libc"])
        yield "python", ", ".join(name for name in names if name)
        memory = machine["memory_bytes"]
        yield "computer", f"{machine['cores']} cores" + (f", {_size(memory)} memory" if memory else "")
    driver = report["driver"]
    version = f"NVIDIA {driver['kernel'] or '(version unknown)'}, CUDA {driver['cuda'] or '?'}"
    yield "driver", version if not driver["problem"] else f"none to use: {driver['problem']}"
    for gpu in report["gpus"]:
        yield "gpu", f"{gpu['name']}, compute capability {gpu['compute_capability']}, {_size(gpu['memory_bytes'])}"
    for name, package in report["packages"].items():
        yield name, _package_text(name, package)
    for name, value in report["settings"].items():
        yield name, value or "(set, empty)"
    yield "model", _model_text(report["model"])
    yield "cache", _cache_text(report["cache"])
    for fault in report["faults"]:
        yield "fault", fault


def _package_text(name: str, package: dict[str, Any]) -> str:
    if package["state"] == "missing":
        return "not installed"
    there, details = package["distributions"], package["details"]
    usual = next(package.distributions[0] for package in PACKAGES if package.name == name)
    text = [f"{key} {version}" for key, version in there.items()]
    if not text or (list(there) == [usual] and cuda_of(usual) is None):  # its name goes without saying
        text = [str(package["version"])]
    text += [", ".join(details["providers"])] if "providers" in details else []
    text += [f"builds for {', '.join(details['targets'])}"] if details.get("targets") else []
    if details.get("cuda") or (name == "torch" and "cuda" in details):
        text.append(f"CUDA {details['cuda']}" if details["cuda"] else "CPU build")
    if package["state"] == "found":
        text.append("found, not loaded")
    elif package["problem"]:
        label = {"failed": "FAILED", "late": "found, not loaded", "untried": "found"}[package["state"]]
        text.append(f"{label}: {package['problem']}")
    return "; ".join(text)


def _model_text(model: dict[str, Any]) -> str:
    if model["problem"]:
        return f"FAILED: {model['problem']}"
    origin = "shipped" if model["shipped"] else "a bundle"
    builds = f"builds: {', '.join(model['builds']) or 'none'}"
    text = f"{model['name']} ({origin}), {model['landmarks']} landmarks, {model['graphs']} graphs opened; {builds}"
    return "; ".join([text, *model["warnings"]])


def _cache_text(cache: dict[str, Any]) -> str:
    if cache["problem"]:
        return f"not known: {cache['problem']}"
    writable = "writable" if cache["writable"] else "NOT writable"
    size = f"holds {_size(cache['bytes'])}" if cache["exists"] else "not there yet"
    return f"{cache['folder']}: {writable}, {size}, {_size(cache['free_bytes'])} free"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _word(can: dict[str, Any]) -> str:
    return {True: "yes", False: "no", None: "unknown"}[can["possible"]]
