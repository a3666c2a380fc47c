"""Executors by name."""

from __future__ import annotations

import importlib
from typing import Any, Final

from quantsim.dualpath.executors.evaluation import GraphExecutor
from quantsim.dualpath.integer_graph import IntegerGraph
from quantsim.errors import ConfigurationError

__all__ = ["EXECUTORS", "create_executor"]

EXECUTORS: Final = {
    "numpy": "numpy_executor.NumpyExecutor",
    "torch": "torch_executor.TorchExecutor",
    "triton": "triton_executor.TritonExecutor",
    "onnxruntime": "onnx_executor.OnnxRuntimeExecutor",
}
"""Names of the executors, and where their classes are; only the one asked for is imported."""


def create_executor(graph: IntegerGraph, name: str = "numpy", **options: Any) -> GraphExecutor:
    """An executor of a graph; it prepares the constants once and may then be called many times.

    Args:
        graph: What it runs.
        name: ``"numpy"`` (the truth), ``"torch"``, ``"triton"`` or ``"onnxruntime"``.
        **options: Arguments of the executor's class, such as ``device="cuda"`` for torch.

    Raises:
        ConfigurationError: There is no executor of that name.

    Example:
        >>> graph = IntegerGraph(nodes=(), values={}, inputs=(), outputs=())
        >>> create_executor(graph, "numpy").name
        'numpy'
    """
    if name not in EXECUTORS:
        raise ConfigurationError(where="executor", got=f"'{name}'", expected=", ".join(EXECUTORS))
    module, class_name = EXECUTORS[name].split(".")
    executor = getattr(importlib.import_module(f"quantsim.dualpath.executors.{module}"), class_name)
    return executor(graph, **options)
