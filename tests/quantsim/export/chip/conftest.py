"""Integer graphs with inputs, and a small folder of one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantsim.dualpath.integer_graph import BatchMultiple, IntegerGraph
from quantsim.export.chip import ChipFolder, MemoryTiling, nn2chip

_specification = importlib.util.spec_from_file_location(
    "integer_graph_cases",
    Path(__file__).parents[2] / "dualpath" / "executors" / "integer_graph_cases.py",
)
assert _specification is not None and _specification.loader is not None
_cases = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(_cases)

TILING = MemoryTiling(rows=4, columns=8)


def inputs_of(graph: IntegerGraph, batch: int = 3) -> dict[str, np.ndarray]:
    """Random integers of the whole range of each input."""
    generator = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for name in graph.inputs:
        value = graph.values[name]
        shape = [item.factor * batch if isinstance(item, BatchMultiple) else item for item in value.shape]
        low, high = (0, 1) if value.dtype == "bool" else (0, 9)
        if value.grid is not None:
            low, high = value.grid.low, value.grid.high
        arrays[name] = generator.integers(low, high + 1, shape).astype(value.dtype)
    return arrays


@pytest.fixture(scope="session")
def graphs() -> dict[str, Callable[[], IntegerGraph]]:
    """Graphs of every op, by name."""
    return _cases.CASES


@pytest.fixture
def random_inputs() -> Callable[..., dict[str, np.ndarray]]:
    """Makes inputs of a graph."""
    return inputs_of


@pytest.fixture
def block() -> IntegerGraph:
    """Convolution, sum, mean and a fully connected layer of 4-bit weights."""
    return _cases.CASES["residual block"]()


@pytest.fixture
def chip(block: IntegerGraph, tmp_path: Path) -> ChipFolder:
    """The folder of `block`."""
    return nn2chip(block, tmp_path / "chip", inputs_of(block), tiling=TILING, onnx=False)
