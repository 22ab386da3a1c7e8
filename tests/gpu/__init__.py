"""The GPU path on real modules, without a GPU.

:mod:`tests.gpu.build` makes, once and into a folder of its own:

- the **real PyCUDA**, compiled from its source package;
- an **emulated driver** (``libcuda.so.1``, from ``driver/``), on which the real PyCUDA and the real cuda-bindings run;
- three **stub libraries**, with which TensorRT's real Python bindings can be imported and asked for their names.

What runs on the emulated driver (:mod:`tests.gpu.engine_on_driver`) runs in a process of its own: a process with a
driver is no place for tests of a machine without one.
"""

from __future__ import annotations


def engine_on_driver_names() -> dict[str, set[str]]:
    """Names that the stand-in for TensorRT in :mod:`tests.gpu.engine_on_driver` offers, read from its source."""
    import ast
    from pathlib import Path

    tree = ast.parse((Path(__file__).parent / "engine_on_driver.py").read_text())
    kinds = {"Context": "IExecutionContext", "Engine": "ICudaEngine"}
    return {
        kinds[node.name]: {f.name for f in node.body if isinstance(f, ast.FunctionDef) and not f.name.startswith("_")}
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name in kinds
    }
