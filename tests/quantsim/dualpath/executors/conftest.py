"""Graphs from `integer_graph_cases`, and inputs that reach the ends of their grids."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantsim.dualpath.integer_graph import BatchMultiple, IntegerGraph

_specification = importlib.util.spec_from_file_location(
    "integer_graph_cases", Path(__file__).with_name("integer_graph_cases.py")
)
assert _specification is not None and _specification.loader is not None
_cases = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(_cases)
CASES: dict[str, Callable[[], IntegerGraph]] = _cases.CASES


@pytest.fixture(params=list(CASES), scope="session")
def integer_graph(request: pytest.FixtureRequest) -> IntegerGraph:
    """Each graph in turn; together they hold every op."""
    return CASES[request.param]()


@pytest.fixture(scope="session")
def integer_graphs() -> dict[str, Callable[[], IntegerGraph]]:
    """All graphs by name."""
    return CASES


@pytest.fixture(params=["random", "lowest", "highest", "ends"])
def fill(request: pytest.FixtureRequest) -> Callable[..., dict[str, np.ndarray]]:
    """Makes inputs of a graph: random ones, all at one end of the grid, or at either end."""

    def filled(graph: IntegerGraph, batch: int = 3) -> dict[str, np.ndarray]:
        generator = np.random.default_rng(0)
        arrays: dict[str, np.ndarray] = {}
        for name in graph.inputs:
            value = graph.values[name]
            shape = [item.factor * batch if isinstance(item, BatchMultiple) else item for item in value.shape]
            low, high = (0, 1 if value.dtype == "bool" else 9)
            if value.grid is not None:
                low, high = value.grid.low, value.grid.high
            drawn = {
                "random": lambda low=low, high=high, shape=shape: generator.integers(low, high + 1, shape),
                "lowest": lambda low=low, shape=shape: np.full(shape, low),
                "highest": lambda high=high, shape=shape: np.full(shape, high),
                "ends": lambda low=low, high=high, shape=shape: generator.choice([low, high], shape),
            }[request.param]()
            arrays[name] = drawn.astype(value.dtype)
        return arrays

    return filled
