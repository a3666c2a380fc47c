from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from quantsim.dualpath.executors.numpy_executor import NumpyExecutor
from quantsim.dualpath.integer_graph import IntegerGraph, IntegerNode, IntegerOp, Value
from quantsim.errors import QuantsimError


def test_values_have_the_types_and_shapes_of_the_graph(
    integer_graph: IntegerGraph, fill: Callable[..., dict[str, np.ndarray]]
) -> None:
    values = NumpyExecutor(integer_graph).all_values(fill(integer_graph, batch=integer_graph.batch))
    for name, array in values.items():
        assert array.dtype == integer_graph.values[name].dtype
        assert array.ndim == len(integer_graph.values[name].shape)


def test_cases_hold_every_op(integer_graphs: dict[str, Callable[[], IntegerGraph]]) -> None:
    assert {node.op for make in integer_graphs.values() for node in make().nodes} == set(IntegerOp)


def test_a_result_that_does_not_fit_names_the_node(integer_graphs: dict[str, Callable[[], IntegerGraph]]) -> None:
    graph = integer_graphs["clamp int16"]()
    narrow = IntegerGraph(
        graph.nodes, {**graph.values, "y": Value("y", graph.values["y"].shape, "int8")}, ("x0",), ("y",)
    )
    with pytest.raises(QuantsimError, match=r"node 'layer.clamp' \(clamp\): integers from 0 to 200 do not fit int8"):
        NumpyExecutor(narrow)([np.array([[-5, 200] + [0] * 7], np.int16)])


def test_an_id_without_a_row_names_the_node(integer_graphs: dict[str, Callable[[], IntegerGraph]]) -> None:
    with pytest.raises(QuantsimError, match=r"node 'layer.embedding' \(embedding\).*got 0 to 10"):
        NumpyExecutor(integer_graphs["embedding"]())([np.array([[0, 10, 0, 0, 0, 0, 0]])])


def test_numbers_that_leave_int64_are_refused() -> None:
    node = IntegerNode(
        "wide",
        IntegerOp.REQUANTIZE,
        ("x",),
        "y",
        constants={"multiplier": np.array(2**31 - 1), "shift": np.array(40)},
        attributes={"zero_point_in": 0, "zero_point": 0, "low": -128, "high": 127},
    )
    graph = IntegerGraph((node,), {"x": Value("x", (1,), "int64"), "y": Value("y", (1,), "int8")}, ("x",), ("y",))
    with pytest.raises(QuantsimError, match=r"node 'wide' \(requantize\).*2\^63"):
        NumpyExecutor(graph)([np.array([2**40])])
