"""The record of a plan: a JSON file beside the untouched plan that says what it is and where it may run.

``coarse.plan`` has its record in ``coarse.plan.json``::

    format           1
    graph, precision which graph of the model, and what it computes in
    plan_sha256      of the plan, checked before TensorRT sees the plan: a plan is native code
    source_sha256    of the ONNX graph the plan was built from
    flavour, version tensorrt or tensorrt-rtx, with its version
    target           what it runs on: compute_capability; for TensorRT also gpu, driver (CUDA version), platform
    settings         trt_landmarks.engines.tensorrt.settings
    profile          input to its smallest, usual and largest shape
    inputs, outputs  name, dtype, shape (-1 where it may vary), in the graph's order
    network          counts of layers: trt_landmarks.engines.tensorrt.network
    gate             how far the plan's graph is from FP32, as measured by whoever built it; {} if it was not
    command          the command that builds it again
    seconds          how long it took
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from trt_landmarks.engines.tensorrt.flavours import FLAVOURS, TENSORRT
from trt_landmarks.engines.tensorrt.network import NetworkFacts, Tensor
from trt_landmarks.engines.tensorrt.settings import PlanSettings
from trt_landmarks.errors import EngineError
from trt_landmarks.files import read_text, write_text
from trt_landmarks.task.graphs import Shapes

FORMAT = 1


@dataclass(frozen=True)
class PlanRecord:
    """What is recorded of a plan; see the module's description of the file."""

    graph: str
    precision: str
    plan_sha256: str
    source_sha256: str
    flavour: str
    version: str
    target: dict[str, str]
    settings: PlanSettings
    profile: dict[str, Shapes]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    network: NetworkFacts
    gate: dict[str, Any]
    command: str
    seconds: float

    # Of a file read: no unknown keys, no values of another type.  The dataclasses within inherit it.
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    @classmethod
    def read(cls, plan: Path, command: str = "trtlm build") -> PlanRecord:
        """Read the record of a plan.

        Args:
            plan: the plan file.
            command: what builds the plan again, as far as the caller knows it; for the message.

        Raises:
            EngineError: if there is none, or it is damaged, foreign or of another format.
        """
        path = record_path(plan)
        try:
            return _parse(read_text(path, EngineError, "record of this plan"))
        except EngineError as error:
            message = f"{path}: {error.message.removeprefix(f'{path}: ')}"
            raise EngineError(message, f"Build the plan again: {command}.", code="plan_unrecorded") from None

    def write(self, plan: Path) -> None:
        """Write the record of a plan beside it, whole or not at all.

        Raises:
            EngineError: if it cannot be written.
        """
        content = {"format": FORMAT, **self.as_data()}
        write_text(record_path(plan), json.dumps(content, indent=1) + "\n", EngineError)

    def as_data(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def record_path(plan: Path) -> Path:
    """The file beside a plan that holds its record."""
    return plan.with_name(f"{plan.name}.json")


def set_gate(plan: Path, gate: Mapping[str, Any]) -> PlanRecord:
    """Put a plan's gate figures, which are measured after the build, into its record, in place of earlier ones.

    Args:
        plan: the plan file.
        gate: plain data.

    Raises:
        EngineError: if the record cannot be read or written.
    """
    record = replace(PlanRecord.read(plan), gate=dict(gate))
    record.write(plan)
    return record


@cache
def _validator() -> TypeAdapter[PlanRecord]:
    return TypeAdapter(PlanRecord)


def _parse(text: str) -> PlanRecord:
    """The record in a file's text; what is wrong with it is an EngineError that does not name the file."""
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise EngineError(f"has format {content['format']!r}; this version reads {FORMAT}.")
        del content["format"]
        record = _validator().validate_json(json.dumps(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EngineError(f"is damaged: {where}: {first['msg']}.") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise EngineError("is damaged, or not the record of a plan.") from None
    problem = _contradiction(record)
    if problem:
        raise EngineError(f"is damaged: {problem}.")
    record.settings.check(record.flavour)
    return record


def _contradiction(record: PlanRecord) -> str:
    """What is wrong with a record whose types are right; empty if nothing is."""
    for name, digest in (("plan_sha256", record.plan_sha256), ("source_sha256", record.source_sha256)):
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            return f"{name} is no SHA-256"
    if record.flavour not in FLAVOURS:
        return f"flavour is {record.flavour!r}, which is none of {', '.join(FLAVOURS)}"
    needed = {"compute_capability", *(("gpu", "driver", "platform") if record.flavour == TENSORRT else ())}
    if set(record.target) != needed:
        return f"target must say {', '.join(sorted(needed))}"
    if not record.inputs or not record.outputs:
        return "it names no inputs or no outputs"
    if set(record.profile) != {tensor.name for tensor in record.inputs}:
        return "profile and inputs do not name the same inputs"
    for name, shapes in record.profile.items():
        if len({len(shape) for shape in shapes}) != 1:
            return f"the shapes of {name} in profile differ in their number of axes"
    return ""
