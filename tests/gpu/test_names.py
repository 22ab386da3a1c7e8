"""Every name of TensorRT, PyCUDA and cuda-bindings that our code or a stand-in uses exists in the real module."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.engines.tensorrt import fake_gpu, plans
from tests.gpu import build, engine_on_driver_names
from trt_landmarks.engines import tensorrt

FOLDER = Path(tensorrt.__path__[0])
#: What a variable of that name is, in the files of engines/tensorrt; "" is the module itself.
TENSORRT = {
    "trt": "", "builder": "Builder", "config": "IBuilderConfig", "network": "INetworkDefinition",
    "parser": "OnnxParser", "runtime": "Runtime", "engine": "ICudaEngine", "_engine": "ICudaEngine",
    "_context": "IExecutionContext", "layer": "ILayer",
}  # fmt: skip
#: Names that only one of the two modules has; our code asks for them with hasattr or after asking which module it is.
ONLY_RTX = {
    "BuilderFlag.REQUIRE_USER_ALLOCATION", "ComputeCapability", "IExecutionContext.is_stream_capturable",
    "IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability",
    "DynamicShapesKernelSpecializationStrategy", "Runtime.get_engine_validity",
}  # fmt: skip
#: Where a variable means something else than the table says.
ELSEWHERE = {
    ("engine.py", "_context"),  # PyCUDA's
    ("context.py", "config"),  # IRuntimeConfig
}


def used(file: Path, variables: dict[str, str]) -> set[str]:
    """Dotted names under the variables, such as ``IExecutionContext.set_input_shape`` or ``BuilderFlag.TF32``."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Attribute):
            continue
        chain = [node.attr]
        value = node.value
        while isinstance(value, ast.Attribute) and value.attr not in variables:
            chain.append(value.attr)
            value = value.value
        root = value.attr if isinstance(value, ast.Attribute) else value.id if isinstance(value, ast.Name) else ""
        if root not in variables or (file.name, root) in ELSEWHERE:
            continue
        parts = [variables[root], *reversed(chain)] if variables[root] else list(reversed(chain))
        if not parts[-1].startswith("__"):
            names.add(".".join(parts[:2]))
    return names


def of_tensorrt() -> set[str]:
    return set().union(*(used(file, TENSORRT) for file in FOLDER.glob("*.py")))


def lacking(module: str, names: Iterable[str], before: str = "", **environment: str) -> list[str]:
    """Those dotted names that a module lacks, asked in a process of its own."""
    code = f"""
import functools, importlib, json, sys
{before}
module = importlib.import_module({module!r})
def there(name):
    value = module
    for part in name.split("."):
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True
print(json.dumps([name for name in json.load(sys.stdin) if not there(name)]))"""
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(sorted(names)), capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [str(name) for name in json.loads(done.stdout)]


def unavailable(reason: object) -> None:
    """Skip; in CI, where every module can be had, fail."""
    assert not os.environ.get("CI"), reason
    pytest.skip(str(reason))


def lacking_in_tensorrt(names: Iterable[str]) -> list[str]:
    try:
        libraries = [str(path) for path in build.tensorrt_libraries()]
    except (importlib.metadata.PackageNotFoundError, build.NotBuilt) as reason:
        unavailable(reason)
    before = f"import ctypes\nfor path in {libraries!r}: ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)"
    return lacking("tensorrt_bindings", names, before)


def lacking_in_rtx(names: Iterable[str]) -> list[str]:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        unavailable("tensorrt-rtx-cu13 is not installed")
    return lacking("tensorrt_rtx", names)


def lacking_in_pycuda(names: Iterable[str]) -> list[str]:
    try:
        environment = build.environment()
    except build.NotBuilt as reason:
        unavailable(reason)
    return lacking("pycuda.driver", names, **environment)


def test_the_code_was_read() -> None:
    names = of_tensorrt()
    assert {"Runtime", "ICudaEngine.get_tensor_name", "IExecutionContext.execute_async_v3", "Builder"} <= names
    assert len(names) > 40


def test_tensorrt_has_what_we_use() -> None:
    assert lacking_in_tensorrt(of_tensorrt() - ONLY_RTX) == []


def test_tensorrt_for_rtx_has_what_we_use() -> None:
    assert lacking_in_rtx(of_tensorrt() | ONLY_RTX) == []


def test_what_rtx_alone_has_is_still_rtx_alone() -> None:
    assert set(lacking_in_tensorrt(ONLY_RTX)) == ONLY_RTX


def members(value: object) -> set[str]:
    """Names that a class of a stand-in gives to the code: methods, not what the stand-in keeps for itself."""
    return {name for name, member in vars(value).items() if callable(member) and not name.startswith("_")}


def stand_ins() -> dict[str, set[str]]:
    device = fake_gpu.Device()
    module = device.tensorrt()
    names = {"ICudaEngine": members(fake_gpu.Engine), "IExecutionContext": members(fake_gpu.Context)}
    for name, value in vars(module).items():
        if not name.startswith("__"):
            names[name] = set(vars(value)) if isinstance(value, SimpleNamespace) else set()
    names["Builder"] = set()
    return names


@pytest.mark.parametrize("lacking_in", [lacking_in_tensorrt, lacking_in_rtx])
def test_a_stand_in_for_tensorrt_offers_nothing_that_the_real_module_lacks(lacking_in: Any) -> None:
    names = {f"{kind}.{member}" for kind, found in stand_ins().items() for member in found} | set(stand_ins())
    names |= {f"{kind}.{member}" for kind, found in engine_on_driver_names().items() for member in found}
    builder = plans.FakeTensorRT().Builder(None)
    names |= {f"Builder.{name}" for name in vars(builder)} | {f"IBuilderConfig.{n}" for n in members(plans.FakeConfig)}
    flavour = {name for name in names if name in ONLY_RTX or name.split(".")[0] in ONLY_RTX}
    flavour |= {"ICudaEngine.create_runtime_config"} if lacking_in is lacking_in_tensorrt else set()
    enumerators = {"TensorIOMode", "ExecutionContextAllocationStrategy"}
    assert lacking_in(names - (flavour if lacking_in is lacking_in_tensorrt else set())) == []
    assert enumerators <= set(stand_ins())


def test_pycuda_has_what_we_use() -> None:
    names = set().union(*(used(FOLDER / file, {"cuda": ""}) for file in ("engine.py", "context.py", "memory.py")))
    names |= {f"Context.{name}" for name in ("push", "pop")} | {"Device.retain_primary_context", "Stream.synchronize"}
    assert {"Device", "Stream", "memcpy_htod_async", "Error"} <= names
    assert lacking_in_pycuda(names - {"bindings"}) == []


def test_a_stand_in_for_pycuda_offers_nothing_that_the_real_module_lacks() -> None:
    module = fake_gpu.Device().pycuda()
    names = set(vars(module)) | {f"Device.{name}" for name in vars(module.Device(0))}
    names |= {f"Context.{name}" for name in vars(module.Device(0).retain_primary_context())}
    assert lacking_in_pycuda(names) == []
    assert lacking_in_pycuda({"Device.retainprimary_context"}) == ["Device.retainprimary_context"]  # it can fail


def test_cuda_bindings_have_what_we_use_and_what_the_stand_in_offers() -> None:
    try:
        importlib.metadata.version("cuda-bindings")
        environment = build.environment()
    except (build.NotBuilt, importlib.metadata.PackageNotFoundError) as reason:
        unavailable(reason)
    names = used(FOLDER / "cuda_graph.py", {"driver": "", "_driver": ""})
    offered = vars(fake_gpu.Device().driver())
    names |= set(offered)
    names |= {
        f"{kind}.{name}"
        for kind, value in offered.items()
        if isinstance(value, SimpleNamespace)
        for name in vars(value)
    }
    assert {"cuGraphLaunch", "cuStreamBeginCapture"} <= names
    assert lacking("cuda.bindings.driver", names, **environment) == []
