"""Real plans for tests, and a stand-in for TensorRT itself, which cannot be installed without NVIDIA's index."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
from onnx import TensorProto, helper

from trt_landmarks.bundles.bundle import Bundle
from trt_landmarks.engines.tensorrt.build import build_plan
from trt_landmarks.engines.tensorrt.flavours import RTX
from trt_landmarks.engines.tensorrt.record import PlanRecord, record_path
from trt_landmarks.task.graphs import COARSE, Shapes, input_shapes

#: Profile of :func:`small_graph`.
SMALL: dict[str, Shapes] = {"volume": ((1, 3), (1, 3), (2, 3))}
COMMAND = "trtlm build tiny --engine tensorrt-rtx --precision fp32"


def small_graph(path: Path, nodes: list[onnx.NodeProto] | None = None, kind: int = TensorProto.FLOAT) -> Path:
    """A graph that adds a constant, or one of other nodes: volume [batch, 3] -> points [batch, 3]."""
    nodes = nodes or [helper.make_node("Add", ["volume", "half"], ["points"])]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("volume", "points")]
    half = helper.make_tensor("half", kind, [3], [1, 2, 3])
    graph = helper.make_graph(nodes, "net", value[:1], value[1:], [half])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def profile(bundle: Bundle, graph: str) -> dict[str, Shapes]:
    """A profile for one of a bundle's graphs: batches of 1 to 4."""
    shape = input_shapes(bundle.task)[graph]
    return {"volume" if graph == COARSE else "patches": ((1, *shape), (1, *shape), (4, *shape))}


def build(source: Path, out: Path, shapes: dict[str, Shapes] = SMALL, **options: Any) -> PlanRecord:
    """Build a plan with TensorRT for RTX."""
    facts = {"graph": COARSE, "precision": "fp32", "command": COMMAND, "flavour": RTX, **options}
    return build_plan(source, out, profile=shapes, **facts)


def change(plan: Path, **entries: Any) -> None:
    """Change entries of a plan's record."""
    path = record_path(plan)
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


class FakeConfig:
    """A builder's configuration: what is set is kept."""

    def __init__(self) -> None:
        self.flags: set[str] = set()
        self.progress_monitor: Any = None

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, shapes: Any) -> int:
        return 0


class FakeTensorRT(ModuleType):
    """Just enough of TensorRT 11 to see what a build asks of it; networks and parser are those of a fixed graph."""

    __version__ = "11.4.1.2"
    BuilderFlag = SimpleNamespace(TF32="tf32", VERSION_COMPATIBLE="version_compatible")
    HardwareCompatibilityLevel = SimpleNamespace(
        __members__={"NONE": 0, "AMPERE_PLUS": 1, "SAME_COMPUTE_CAPABILITY": 2}
    )
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    NetworkDefinitionCreationFlag = SimpleNamespace()

    class ILogger:
        Severity = SimpleNamespace(ERROR=1, WARNING=2)

    class IProgressMonitor:
        pass

    def __init__(self) -> None:
        super().__init__("tensorrt")
        self.configs: list[FakeConfig] = []

    def Builder(self, log: Any) -> Any:  # noqa: N802
        def config() -> FakeConfig:
            self.configs.append(FakeConfig())
            return self.configs[-1]

        def build(network: Any, config: FakeConfig) -> bytes:
            return b"plan"

        return SimpleNamespace(
            create_network=lambda flags: _NETWORK,
            create_builder_config=config,
            create_optimization_profile=lambda: SimpleNamespace(set_shape=lambda *shapes: None),
            build_serialized_network=build,
        )

    def OnnxParser(self, network: Any, log: Any) -> Any:  # noqa: N802
        return SimpleNamespace(parse=lambda blob: True)


def _tensor(name: str) -> Any:
    return SimpleNamespace(name=name, dtype=SimpleNamespace(name="FLOAT"), shape=(-1, 3))


_NETWORK = SimpleNamespace(
    num_inputs=1,
    num_outputs=1,
    num_layers=0,
    get_input=lambda n: _tensor("volume"),
    get_output=lambda n: _tensor("points"),
)
