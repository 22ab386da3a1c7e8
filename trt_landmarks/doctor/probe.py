"""What the doctor's child processes do: load packages one after the other, and tell every result at once.

Loading a broken package can raise, end the process or never return, and loading a large one takes seconds.  Here that
hurts nobody: :mod:`trt_landmarks.doctor.children` reads what was told until then.
"""

from __future__ import annotations

import ctypes
import gzip
import importlib
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

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
    version = importlib.import_module("pycuda").VERSION_TEXT
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
