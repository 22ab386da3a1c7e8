"""Loading packages in processes of their own, all at once, each with its own time limit.

Loading a broken package can raise, end the process or never return, and loading a large one takes seconds.  In a child
that hurts nobody: :func:`main` runs there and prints each result at once; :func:`ask` reads what came until the limit.
To ask a package or the driver for more, add a step to :data:`STEPS`; :mod:`trt_landmarks.doctor.checks` judges it.
"""

from __future__ import annotations

import ctypes
import gzip
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

#: The child looks for modules where this process does, whatever its working folder.
_CODE = """
import sys
sys.path[:] = sys.argv.pop(1).split("\\n")
from trt_landmarks.doctor.probe import main
main(sys.argv[1:])
"""


@dataclass(frozen=True)
class Answer:
    """What came of one step.

    Attributes:
        state: ``loaded``; ``missing`` (not installed); ``failed`` (raises or ends the process); ``late`` (did not
            finish in time); ``untried`` (an earlier step of the same process did not finish).
        facts: what the step found out.
        problem: why it is not loaded, one line.
    """

    state: str
    facts: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def loaded(self) -> bool:
        """Whether it works."""
        return self.state == "loaded"


@dataclass(frozen=True)
class Group:
    """Steps for one process.

    Attributes:
        steps: keys of :data:`trt_landmarks.doctor.probe.STEPS`, taken in order.
        seconds: time for all of them.
    """

    steps: tuple[str, ...]
    seconds: float


def ask(groups: Sequence[Group]) -> dict[str, Answer]:
    """Take all groups' steps, every group in its own process, all at once.

    Returns:
        Step to its answer: every step has one, whatever the packages do.
    """
    with ThreadPoolExecutor(max_workers=max(1, len(groups))) as pool:
        answers: dict[str, Answer] = {}
        for found in pool.map(_ask, groups):
            answers.update(found)
    return answers


def _ask(group: Group) -> dict[str, Answer]:
    command = [sys.executable, "-c", _CODE, "\n".join(sys.path), *group.steps]
    start = time.monotonic()
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return {step: Answer("failed", problem=f"no process can be started: {plain(error)}") for step in group.steps}
    late = False
    try:
        output, _ = child.communicate(timeout=max(0.0, group.seconds - (time.monotonic() - start)))
    except subprocess.TimeoutExpired:
        late = True
        output = _kill(child)
    except BaseException:
        _kill(child)
        raise
    return _read(group, output, child.returncode, late)


def _kill(child: subprocess.Popen[str]) -> str:
    """End a child and what it started; returns what it had told."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except OSError:
        child.kill()
    try:
        return child.communicate(timeout=1)[0]
    except subprocess.TimeoutExpired:  # something that left the child's group holds the pipe
        return ""


def _read(group: Group, output: str, code: int | None, late: bool) -> dict[str, Answer]:
    """The answers among the lines of a child."""
    answers: dict[str, Answer] = {}
    last = ""
    for line in output.splitlines():
        try:
            told = json.loads(line)
            last = told["step"]
            if told["state"] != "started":
                answers[last] = Answer(told["state"], told["facts"], told["problem"])
        except (ValueError, TypeError, KeyError):  # half a line, or not the child's
            continue
    for step in group.steps:
        if step in answers:
            continue
        if step == last or not last:
            answers[step] = (
                Answer("late", problem=f"did not load within {group.seconds:g} s")
                if late
                else Answer("failed", problem=f"loading it ends the process ({_ending(code)})")
            )
        else:
            answers[step] = Answer("untried", problem=f"not tried, because of {last}")
    return answers


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


# --- in the child -----------------------------------------------------------------------------------------

Facts = dict[str, Any]
#: Longest reason that is passed on, in characters.
LONGEST = 240


def main(steps: Sequence[str]) -> None:
    """Take steps (keys of :data:`STEPS`) in order; tell the start and the result of each as a line of JSON.

    The lines go to what was the standard output; whatever a package prints goes to the standard error.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as told:
        os.dup2(2, 1)
        for step in steps:
            for line in ({"state": "started"}, None):
                told.write(json.dumps({"step": step, **(line or take(step))}) + "\n")
                told.flush()


def take(step: str) -> Facts:
    """The result of a step: ``state`` (``loaded``, ``missing`` or ``failed``), ``facts`` and ``problem``."""
    module, action = STEPS[step]
    try:
        return {"state": "loaded", "facts": action(importlib.import_module(module)), "problem": ""}
    except BaseException as error:  # an import may also end in SystemExit
        absent = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        return {"state": "missing" if absent else "failed", "facts": {}, "problem": plain(error)}


def plain(error: BaseException | str) -> str:
    """An error as one line, without this machine's folders."""
    text = " ".join(str(error).split()) or type(error).__name__
    package = Path(__file__).resolve().parents[2]
    for folder in sorted({*sys.path, str(package), sys.prefix, sys.base_prefix}, key=len, reverse=True):
        if len(folder) > 1:
            text = text.replace(f"{folder}{os.sep}", "")
    text = tilde(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def tilde(text: str) -> str:
    """Text with the user's home folder written as ``~``."""
    home = os.path.expanduser("~")
    return text.replace(f"{home}{os.sep}", f"~{os.sep}") if len(home) > 1 else text


def _version(module: ModuleType) -> Facts:
    return {"version": str(module.__version__)}


def _simpleitk(module: Any) -> Facts:
    return {"version": str(module.Version.VersionString()), "reader": module.ImageFileReader.__name__}


def _isal(module: Any) -> Facts:
    return {"opener": module.open.__name__}


def _onnxruntime(module: Any) -> Facts:
    module.InferenceSession  # noqa: B018 - after one of two packages in the same folder is removed, it is gone
    info = importlib.import_module("onnxruntime.capi.build_and_package_info")
    return {
        **_version(module),
        "providers": [str(name) for name in module.get_available_providers()],
        "package": str(getattr(info, "package_name", "")),
        "cuda": str(getattr(info, "cuda_version", "")),
    }


def _onnxruntime_cuda(module: Any) -> Facts:
    """Load the library of the CUDA provider as ONNX Runtime does; fails naming what is missing."""
    folder = Path(module.__file__).parent / "capi"
    if hasattr(module, "preload_dlls"):
        module.preload_dlls()
    for name in ("shared", "cuda"):
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{name}.so"), mode=ctypes.RTLD_GLOBAL)
    return {}


def _tensorrt(module: Any) -> Facts:
    module.Builder, module.OnnxParser  # noqa: B018 - a stub package has none of these
    known = sorted(int(name[2:]) for name in dir(getattr(module, "ComputeCapability", None)) if name.startswith("SM"))
    return {**_version(module), "targets": [f"{number // 10}.{number % 10}" for number in known]}


def _pycuda(module: Any) -> Facts:
    """Retain the first GPU's primary context and use it, as the engine does: what fails there is told here."""
    version = importlib.import_module("pycuda").VERSION_TEXT
    context = importlib.import_module("trt_landmarks.engines.tensorrt.engine").primary_context(0)
    context.push()
    try:
        module.Stream(1)
    finally:
        context.pop()
    return {"version": str(version), "cuda": ".".join(map(str, module.get_version()))}


def _torch(module: Any) -> Facts:
    return {**_version(module), "cuda": module.version.cuda or "", "gpu": bool(module.cuda.is_available())}


def _modelopt(module: Any) -> Facts:
    """Load what FP16 and INT8 need of it."""
    for name in ("autocast", "quantization"):
        importlib.import_module(f"modelopt.onnx.{name}")
    return _version(module)


def _driver(module: Any) -> Facts:
    found = module.find_gpus()
    if isinstance(found, module.NoGpu):
        return {"gpus": [], "none": asdict(found)}
    return {"gpus": [asdict(gpu) for gpu in found], "none": None}


def _model(module: Any) -> Facts:
    """Begin as ``trtlm infer`` does: all its imports, decompression, the default model's files and sessions."""
    importlib.import_module("trt_landmarks.runs.batch")
    from trt_landmarks.bundles.bundle import SHIPPED, open_bundle
    from trt_landmarks.engines.onnxruntime import OnnxRuntimeEngine
    from trt_landmarks.scan.limits import gzip_fill, read_start

    with gzip_fill(Path("probe"), io.BytesIO(gzip.compress(b"voxels"))) as fill:
        read_start(fill, 6)
    bundle = open_bundle()
    OnnxRuntimeEngine(bundle.graphs, threads=1)
    return {
        "name": bundle.name,
        "shipped": bundle.shipped,
        "graphs": len(bundle.graphs),
        "landmarks": len(bundle.task.landmarks),
        "ships": list(SHIPPED),
    }


def _builds(module: Any) -> Facts:
    from trt_landmarks.bundles.bundle import open_bundle

    warnings: list[str] = []
    found = module.list_builds(open_bundle(verify=False), lambda text: warnings.append(plain(text)))
    return {
        "builds": [f"{build.engine}-{build.precision}" for build in found],
        "warnings": warnings,
        "precisions": list(module.PRECISIONS),
    }


def _cache(module: Any) -> Facts:
    folder: Path = module.cache_folder()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    files = [Path(root) / name for root, _, names in os.walk(folder) for name in names]
    return {
        "folder": str(folder) if os.environ.get(module.CACHE_VARIABLE) else tilde(str(folder)),
        "exists": folder.is_dir(),
        "writable": there.is_dir() and os.access(there, os.W_OK | os.X_OK),
        "bytes": sum(file.lstat().st_size for file in files),
        "free_bytes": shutil.disk_usage(there).free,
    }


#: Step to the module it imports and to what it then finds out.
STEPS: dict[str, tuple[str, Callable[[Any], Facts]]] = {
    "driver": ("trt_landmarks.engines.tensorrt.gpu", _driver),
    "numpy": ("numpy", _version),
    "SimpleITK": ("SimpleITK", _simpleitk),
    "onnxruntime": ("onnxruntime", _onnxruntime),
    "isal": ("isal.igzip", _isal),
    "model": ("trt_landmarks.cli", _model),
    "builds": ("trt_landmarks.bundles.builds", _builds),
    "cache": ("trt_landmarks.bundles.bundle", _cache),
    "onnxruntime-cuda": ("onnxruntime", _onnxruntime_cuda),
    "onnx": ("onnx", _version),
    "torch": ("torch", _torch),
    "modelopt": ("modelopt", _modelopt),
    "tensorrt": ("tensorrt", _tensorrt),
    "tensorrt-rtx": ("tensorrt_rtx", _tensorrt),
    "pycuda": ("pycuda.driver", _pycuda),
    "dali": ("nvidia.dali", _version),
}
