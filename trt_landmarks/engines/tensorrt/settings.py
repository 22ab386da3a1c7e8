"""How a plan is to be built: the settings of NVIDIA's two builders under one name each, and which flavour has which.

TensorRT for RTX has neither of TensorRT's two compatibility settings (NVIDIA's guides to both, "Engine
Compatibility"): its plans run on many GPUs as they are, and with no other release at all.  In version 1.7 the builder
takes ``hardware_compatibility_level`` with no more than a warning, and fails for the lack of a library when asked for
``VERSION_COMPATIBLE``; here both are refused before anything is built.  TensorRT on the other hand builds for the GPU
at hand and knows no list of compute capabilities.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any

from trt_landmarks.engines.tensorrt.flavours import RTX, TENSORRT
from trt_landmarks.errors import EngineError

#: What TensorRT for RTX builds for unless told otherwise.
PORTABLE = "8.0, 8.6, 8.9, 12.0 and later (portable)"
#: TensorRT's levels of hardware compatibility: the GPU model built on; all of its compute capability; 8.0 and later.
HARDWARE = ("none", "same_compute_capability", "ampere_plus")


@dataclass(frozen=True)
class PlanSettings:
    """Settings of a build.  None leaves a value to TensorRT.

    Attributes:
        workspace_bytes: most scratch memory of the GPU, bytes.
        optimization_level: 0 (fastest build) to 5 (longest search).
        version_compatible: the plan also runs with later versions of TensorRT (TensorRT only; can be slower).
        hardware_compatibility: on which other GPUs the plan runs, one of :data:`HARDWARE` (TensorRT only).
        compute_capabilities: what to build for, e.g. ``("8.6", "8.9")``, kept in order (TensorRT for RTX only);
            none gives a plan for :data:`PORTABLE`.

    Raises:
        EngineError: if a value is none that any flavour takes.
    """

    workspace_bytes: int | None = None
    optimization_level: int | None = None
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    compute_capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise EngineError(f"workspace: {self.workspace_bytes} bytes is none.", "Give a number of bytes above 0.")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise EngineError(f"optimization level: {self.optimization_level} is none.", "Levels are 0 to 5.")
        if self.hardware_compatibility not in HARDWARE:
            raise EngineError(
                f"hardware compatibility: {self.hardware_compatibility} is none.",
                f"It is one of {', '.join(HARDWARE)}.",
            )
        for text in self.compute_capabilities:
            if not re.fullmatch(r"\d+\.\d", text):
                raise EngineError(f"compute capability: {text!r} is none.", "They are written as 8.6 or 12.0.")
        ordered = sorted(set(self.compute_capabilities), key=capability)
        object.__setattr__(self, "compute_capabilities", tuple(ordered))

    def as_data(self) -> dict[str, Any]:
        """Plain data, for a cache key."""
        return {**asdict(self), "compute_capabilities": list(self.compute_capabilities)}

    def check(self, flavour: str) -> None:
        """Refuse settings that a flavour does not have.

        Raises:
            EngineError: naming the setting, with what to do instead.
        """
        if flavour == RTX and self.version_compatible:
            raise EngineError(
                "tensorrt-rtx has no version compatibility: its plans run with the release that built them only.",
                "Leave it out, and build again after an upgrade.",
                code="setting_unknown",
            )
        if flavour == RTX and self.hardware_compatibility != "none":
            raise EngineError(
                f"tensorrt-rtx has no hardware compatibility ({self.hardware_compatibility}).",
                f"Leave it out: plans run on compute capability {PORTABLE}. Or name compute capabilities.",
                code="setting_unknown",
            )
        if flavour == TENSORRT and self.compute_capabilities:
            raise EngineError(
                "tensorrt builds for the GPU of the machine it runs on; "
                f"it takes no other target ({', '.join(self.compute_capabilities)}).",
                "Build on the GPU machine, with hardware compatibility same_compute_capability or ampere_plus "
                "if others of its kind are to run the plan, or take --engine tensorrt-rtx.",
                code="setting_unknown",
            )

    def apply(self, trt: ModuleType, config: Any) -> None:
        """Give the settings to a builder's configuration.

        Raises:
            EngineError: if this version of TensorRT does not have one.
        """
        if self.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self.workspace_bytes)
        if self.optimization_level is not None:
            config.builder_optimization_level = self.optimization_level
        if self.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if self.hardware_compatibility != "none":
            known = {name.lower(): level for name, level in _members(trt.HardwareCompatibilityLevel).items()}
            if self.hardware_compatibility not in known:
                raise EngineError(
                    f"{trt.__name__} {trt.__version__} has no hardware compatibility {self.hardware_compatibility}.",
                    f"It has {', '.join(sorted(known))}.",
                    code="setting_unknown",
                )
            config.hardware_compatibility_level = known[self.hardware_compatibility]
        if self.compute_capabilities:
            self._set_targets(trt, config)

    def _set_targets(self, trt: ModuleType, config: Any) -> None:
        known = {
            f"{name[2:-1]}.{name[-1]}": member
            for name, member in _members(trt.ComputeCapability).items()
            if re.fullmatch(r"SM\d+", name)
        }
        config.num_compute_capabilities = len(self.compute_capabilities)
        for n, text in enumerate(self.compute_capabilities):
            if text not in known or not config.set_compute_capability(known[text], n):
                raise EngineError(
                    f"{trt.__name__} {trt.__version__} cannot build for compute capability {text}.",
                    f"It knows {', '.join(sorted(known, key=capability))}.",
                    code="setting_unknown",
                )


def capability(text: str) -> tuple[int, int]:
    """A compute capability in numbers: ``"12.0"`` is (12, 0)."""
    major, minor = text.split(".")
    return int(major), int(minor)


def _members(enumeration: Any) -> Mapping[str, Any]:
    """Name to value of one of TensorRT's enumerations."""
    return {str(name): member for name, member in enumeration.__members__.items()}
