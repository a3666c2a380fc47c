from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest

from quantsim.dualpath.executors.numpy_executor import NumpyExecutor
from quantsim.dualpath.executors.onnx_executor import OnnxRuntimeExecutor
from quantsim.dualpath.integer_graph import IntegerGraph
from quantsim.dualpath.integer_onnx import integer_onnx_model
from quantsim.errors import ConfigurationError

pytest.importorskip("onnxruntime")


def test_every_value_equals_numpys(integer_graph: IntegerGraph, fill: Callable[..., dict[str, np.ndarray]]) -> None:
    inputs = fill(integer_graph)
    truth = NumpyExecutor(integer_graph).all_values(inputs)
    executor = OnnxRuntimeExecutor(integer_graph, threads=1)
    values, outputs = executor.all_values(inputs), executor(inputs)
    assert list(values) == list(truth)
    for name, expected in truth.items():
        assert values[name].dtype == expected.dtype
        np.testing.assert_array_equal(values[name], expected, err_msg=name)
    assert list(outputs) == list(integer_graph.outputs)
    for name, output in outputs.items():
        np.testing.assert_array_equal(output, truth[name], err_msg=name)


def test_models_are_valid(integer_graph: IntegerGraph) -> None:
    onnx = pytest.importorskip("onnx")
    onnx.checker.check_model(integer_onnx_model(integer_graph, all_values=True), full_check=True)


def test_an_output_may_be_an_input(integer_graphs: dict[str, Callable[[], IntegerGraph]]) -> None:
    graph = integer_graphs["clamp"]()
    through = IntegerGraph(graph.nodes, graph.values, graph.inputs, ("x0", "y"), graph.batch)
    x = np.arange(-9, 9, dtype=np.int8).reshape(2, 9)
    outputs = OnnxRuntimeExecutor(through)([x])
    np.testing.assert_array_equal(outputs["x0"], x)
    np.testing.assert_array_equal(outputs["y"], np.clip(x, -3, 90))


def test_says_what_is_missing(
    integer_graphs: dict[str, Callable[[], IntegerGraph]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigurationError, match=r"onnxruntime is not installed.*quantsim\[onnx\]"):
        OnnxRuntimeExecutor(integer_graphs["clamp"]())


@pytest.mark.parametrize("row", [-1, 10])
def test_an_id_without_a_row_is_refused(integer_graphs: dict[str, Callable[[], IntegerGraph]], row: int) -> None:
    with pytest.raises(Exception, match="out of data bounds"):
        OnnxRuntimeExecutor(integer_graphs["embedding"]())([np.full((1, 7), row)])
