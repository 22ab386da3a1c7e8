"""Builds what the tests of the GPU path need: ``python -m tests.gpu.build``.  PyCUDA takes about a minute, once.

Everything goes into a folder of its own (:func:`folder`), never among the installed packages: a machine without a GPU
stays one on which PyCUDA is not installed.  Each result has a name of its own for what it was made of, so a changed
source is built again, and several checkouts may share a folder.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

#: Names another folder for the results, such as one that is kept between runs of CI.
VARIABLE = "TRTLM_GPU_TESTS"
PYCUDA = "2026.1"
#: What PyCUDA imports, besides NumPy.
PYCUDA_NEEDS = ("pytools", "siphash24", "platformdirs", "mako", "MarkupSafe")
#: Libraries of TensorRT that its bindings are linked to.
TENSORRT_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
SOURCES = Path(__file__).parent / "driver"
#: How PyCUDA is compiled: without cuRAND, which would need more headers, and quickly.
SITECONF = """USE_SHIPPED_BOOST = True
CUDA_ENABLE_CURAND = False
CUDADRV_LIBNAME = ['cuda']
CXXFLAGS = ['-O0', '-g0', '-w']
"""


class NotBuilt(Exception):  # noqa: N818
    """Something cannot be built here; the text says why."""


def folder() -> Path:
    """Where results are kept: within the virtual environment unless :data:`VARIABLE` names another folder."""
    return Path(os.environ.get(VARIABLE) or Path(sys.prefix) / "gpu-tests").absolute()


def pycuda(make: bool = False) -> Path:
    """The folder to import the real PyCUDA from.

    Args:
        make: compile it if it is not there; else it must have been made before.

    Raises:
        NotBuilt: if it is not there.
    """
    headers = _headers()
    out = folder() / f"pycuda-{_key(PYCUDA, SITECONF, str(headers.stat().st_size), sys.version)}"
    failure = out.with_suffix(".failed")
    if not out.is_dir() and not make:
        raise NotBuilt(failure.read_text() if failure.is_file() else "PyCUDA is not built: python -m tests.gpu.build")
    try:
        failure.unlink(missing_ok=True)
        return _made(out, lambda work: _compile_pycuda(work, headers.parent))
    except NotBuilt as error:
        folder().mkdir(parents=True, exist_ok=True)
        failure.write_text(str(error))
        raise


def environment() -> dict[str, str]:
    """Environment variables of a process in which the real PyCUDA finds the emulated driver.

    The driver is loaded first, since PyCUDA, compiled against an empty library, does not name it.
    """
    library = driver()
    return {
        "PYTHONPATH": str(pycuda()),
        "LD_LIBRARY_PATH": str(library),
        "LD_PRELOAD": str(library / "libcuda.so.1"),
    }


def driver() -> Path:
    """The folder of the emulated ``libcuda.so.1``, with every function that PyCUDA calls."""
    (extension,) = (pycuda() / "pycuda").glob("_driver*.so")
    source = SOURCES / "driver.c"
    wanted = {line.split()[-1] for line in _run(["nm", "-D", "--undefined-only", str(extension)]).splitlines()}
    wanted = {name for name in wanted if name.startswith("cu")}

    def compile_it(work: Path) -> None:
        emulated = work / "driver.o"
        _run(["gcc", "-c", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(emulated), str(source)])
        there = {line.split()[-1] for line in _run(["nm", "--defined-only", str(emulated)]).splitlines()}
        lacking = work / "lacking.c"  # 801: CUDA_ERROR_NOT_SUPPORTED
        lacking.write_text("".join(f"int {name}(void) {{ return 801; }}\n" for name in sorted(wanted - there)))
        _library(work / "libcuda.so.1", str(emulated), str(lacking), "-lpthread", "-ldl")

    return _made(folder() / f"driver-{_key(source.read_bytes(), *sorted(wanted))}", compile_it)


def tensorrt_libraries() -> list[Path]:
    """Stub libraries, to be loaded before TensorRT's bindings; in the order to load them."""
    source = SOURCES / "nvinfer.c"
    version = importlib.metadata.version("tensorrt-cu13-bindings").split(".")[0]

    def compile_them(work: Path) -> None:
        for name in TENSORRT_LIBRARIES:
            _library(work / f"lib{name}.so.{version}", *([str(source)] if name == "nvinfer" else ["-xc", os.devnull]))

    out = _made(folder() / f"nvinfer-{_key(source.read_bytes(), version)}", compile_them)
    return [out / f"lib{name}.so.{version}" for name in TENSORRT_LIBRARIES]


def _headers() -> Path:
    """CUDA's ``cuda.h`` of NVIDIA's package."""
    try:
        package = importlib.metadata.distribution("nvidia-cuda-runtime")
        importlib.metadata.distribution("nvidia-cuda-profiler-api")
    except importlib.metadata.PackageNotFoundError as error:
        raise NotBuilt(f"the package {error.name} is missing") from None
    header = Path(str(package.locate_file("nvidia/cu13/include/cuda.h")))
    if not header.is_file():
        raise NotBuilt(f"{header}: no such file")
    return header


def _compile_pycuda(work: Path, include: Path) -> None:
    """PyCUDA as it is installed on a GPU machine, but for cuRAND, which would need more headers."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        _run([*pip, "download", "--no-deps", "--no-binary", "pycuda", "--dest", name, f"pycuda=={PYCUDA}"])
        (archive,) = temporary.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            if hasattr(tarfile, "data_filter"):
                tar.extractall(temporary, filter="data")
            else:  # Python 3.10 before 3.10.12
                tar.extractall(temporary)
        source = temporary / archive.name.removesuffix(".tar.gz")
        _library(temporary / "libcuda.so.1", "-xc", os.devnull)
        (temporary / "libcuda.so").symlink_to("libcuda.so.1")
        (source / "siteconf.py").write_text(
            f"{SITECONF}CUDA_INC_DIR = [{str(include)!r}]\nCUDADRV_LIB_DIR = [{name!r}]\n"
        )
        _run([*pip, "wheel", "--no-deps", "--wheel-dir", name, str(source)])
        (wheel,) = temporary.glob("pycuda-*.whl")
        _run([*pip, "install", "--no-deps", "--target", str(work), str(wheel), *PYCUDA_NEEDS])


def _library(out: Path, *sources: str) -> None:
    _run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{out.name}", "-o", str(out), *sources])


def _made(out: Path, make: Callable[[Path], None]) -> Path:
    """A result: as it is, or made now, whole or not at all."""
    if out.is_dir():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".", dir=out.parent))
    try:
        make(work)
        try:
            work.rename(out)
        except OSError:
            if not out.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return out


def _key(*parts: bytes | str) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part.encode() if isinstance(part, str) else part)
    return whole.hexdigest()[:12]


def _run(command: list[str]) -> str:
    """What a command prints.

    Raises:
        NotBuilt: if it fails or is not there.
    """
    name = "pip" if command[0] == sys.executable else command[0]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotBuilt(f"{name}: {error.strerror}") from None
    if done.returncode:
        raise NotBuilt(f"{name} failed: {' '.join(done.stderr.split())[-500:]}")
    return done.stdout


def main() -> int:
    """Build PyCUDA; the rest takes no time and is built where it is used."""
    try:
        pycuda(make=True)
    except NotBuilt as error:
        print(f"The tests on the real PyCUDA are left out: {error}", file=sys.stderr)
        return int(bool(os.environ.get("CI")))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
