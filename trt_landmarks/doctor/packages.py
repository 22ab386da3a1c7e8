"""Which packages are installed, by their metadata alone, and which of their requirements are not met."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder

from trt_landmarks.system import installed_version, installed_versions

#: Name of this toolkit's own distribution.
OWN = "trt-landmarks"


@dataclass(frozen=True)
class Package:
    """A package that the toolkit uses.

    Attributes:
        name: as people and :data:`trt_landmarks.doctor.probe.STEPS` call it.
        distributions: what installs it, in the order of preference; all install into the same folder.
        extra: the toolkit's extra that brings it; empty if every installation has it.
        umbrellas: distributions that install nothing themselves but one of the others.
    """

    name: str
    distributions: tuple[str, ...]
    extra: str = ""
    umbrellas: tuple[str, ...] = ()


PACKAGES = (
    Package("numpy", ("numpy",)),
    Package("SimpleITK", ("simpleitk", "simpleitk-simpleelastix")),
    Package("isal", ("isal",)),
    Package(
        "onnxruntime",
        (
            "onnxruntime",
            "onnxruntime-gpu",
            "onnxruntime-openvino",
            "onnxruntime-directml",
            "onnxruntime-migraphx",
            "onnxruntime-rocm",
            "onnxruntime-cann",
            "onnxruntime-qnn",
            "onnxruntime-training",
        ),
    ),
    Package("onnx", ("onnx",), "export"),
    Package("torch", ("torch",), "train"),
    Package("modelopt", ("nvidia-modelopt",), "calibrate"),
    Package("tensorrt", ("tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"), "gpu", ("tensorrt",)),
    Package("tensorrt-rtx", ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12"), "rtx", ("tensorrt-rtx",)),
    Package("pycuda", ("pycuda",), "gpu"),
    Package("dali", ("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-dali-cuda110"), "dali"),
)


@dataclass(frozen=True)
class Need:
    """A requirement of an installed distribution that is not met.

    Attributes:
        requirer: the distribution that requires it.
        extra: the toolkit's extra it belongs to; empty if it is always required.
        name: the distribution required.
        wanted: versions that would do, e.g. ``~=1.24.2``; empty if any would.
        found: the version installed; None if there is none.
    """

    requirer: str
    extra: str
    name: str
    wanted: str
    found: str | None


def normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def cuda_of(distribution: str) -> int | None:
    """CUDA's major version that a distribution is built for, by its name; None if the name does not say."""
    match = re.search(r"-cu(?:da)?(\d\d)0?$", distribution)
    return int(match[1]) if match else None


def major(version: str) -> int | None:
    """The first number of a version; None if there is none."""
    match = re.search(r"\d+", version)
    return int(match[0]) if match else None


def built_for(distribution: str, cuda: int) -> str | None:
    """The distribution of the same package for another major version of CUDA; None if there is none."""
    for package in PACKAGES:
        if distribution in package.distributions:
            return next((name for name in package.distributions if cuda_of(name) == cuda), None)
    return None


def installed() -> dict[str, str]:
    """Distribution to version, of all that install one of :data:`PACKAGES`."""
    return installed_versions(name for package in PACKAGES for name in (*package.distributions, *package.umbrellas))


def findable(module: str) -> bool:
    """Whether a module's files are where Python looks; nothing is imported, not even the packages it is in."""
    name, path = "", None
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        try:
            spec = PathFinder.find_spec(name, path)
            if spec is None or (name != module and spec.submodule_search_locations is None):
                return False
            path = list(spec.submodule_search_locations or ())
        except Exception:  # an odd path; whoever imports it will see
            return True
    return True


def requirements(names: Iterable[str]) -> tuple[list[Need], dict[str, list[str]]]:
    """Compare what distributions require with what is installed.

    The toolkit's own requirements and those of the distributions ``names``.  Of the toolkit's extras only what is
    there is compared: an extra that was not installed is no fault.

    Returns:
        Requirements that are not met, and the toolkit's extras, each with its distributions that are not installed.

    Raises:
        ImportError: if the package ``packaging`` is missing.
    """
    needs: dict[Need, None] = {}
    lacking: dict[str, list[str]] = {}
    for extra in ("", *_extras()):
        lacking[extra] = []
        for need, met in _compare(OWN, extra):
            if need.found is None and need.name not in lacking[extra]:
                lacking[extra].append(need.name)
            if not met and (need.found is not None or not extra):
                needs[need] = None
    for name in names:
        for need, met in _compare(name, ""):
            if not met:
                needs[need] = None
    return list(needs), lacking


def _extras() -> list[str]:
    """The toolkit's extras, but for those of its developers."""
    try:
        found = importlib.metadata.metadata(OWN).get_all("Provides-Extra") or []
    except Exception:
        return []
    return [extra for extra in found if extra not in ("test", "bench")]


def _compare(requirer: str, extra: str) -> Iterator[tuple[Need, bool]]:
    """What a distribution requires (with an extra: only what the extra adds), and whether it is met."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    try:
        lines = importlib.metadata.requires(requirer) or []
    except Exception:  # not installed, or its metadata is damaged
        return
    for line in lines:
        try:
            requirement = Requirement(line)
            marker = requirement.marker
            always, here = (marker is None or marker.evaluate({"extra": which}) for which in ("", extra))
            if not here or (extra and always):
                continue
            name, found = _stand_in(normal(requirement.name))
            need = Need(requirer, extra, name, str(requirement.specifier), found)
            if found is None or found == "unknown":
                yield need, found is not None
            else:
                yield need, requirement.specifier.contains(Version(found), prereleases=True)
        except ValueError:  # what packaging's errors are: a requirement, marker or version that nobody can read
            continue


def _stand_in(name: str) -> tuple[str, str | None]:
    """A required distribution, or the one that is installed in its place (onnxruntime-gpu for onnxruntime)."""
    found = installed_version(name)
    if found is None:
        for package in PACKAGES:
            if name in package.distributions:
                for other in package.distributions:
                    number = installed_version(other)
                    if number is not None:
                        return other, number
    return name, found
