from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from quantsim.dualpath.executors.evaluation import as_numpy, checked_cast, checked_tensor_cast, with_lengths
from quantsim.dualpath.executors.numpy_executor import NumpyExecutor
from quantsim.dualpath.integer_graph import BatchMultiple, Grid, IntegerGraph, Value
from quantsim.errors import ConfigurationError, QuantsimError, ShapeError

Graphs = dict[str, Callable[[], IntegerGraph]]


def test_inputs_come_by_name_or_in_order(integer_graphs: Graphs) -> None:
    executor = NumpyExecutor(integer_graphs["add uint8 int8"]())
    a = np.arange(40, dtype=np.uint8).reshape(2, 4, 5)
    b = np.array([[-128], [0], [5], [127]], np.int8)
    by_name = executor({"x1": torch.from_numpy(b), "x0": a})["y"]
    np.testing.assert_array_equal(executor([a, b])["y"], by_name)
    np.testing.assert_array_equal(executor((a.astype(np.int64), b.astype(np.int32)))["y"], by_name)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x0": np.zeros((2, 4, 5), np.uint8)}, "got x0; expected x0, x1"),
        ([np.zeros((2, 4, 5), np.uint8)], "got 1 arrays; expected x0, x1"),
        (np.zeros(3), "got ndarray; expected a mapping"),
        (
            [np.zeros((2, 4, 5), np.float32), np.zeros((4, 1), np.int8)],
            r"'x0'.*got type float32; expected integers \(uint8\); to fix: quantize",
        ),
        (
            [np.full((2, 4, 5), 256), np.zeros((4, 1), np.int8)],
            r"'x0' of the numpy executor: got integers from 256 to 256; expected 0 to 255",
        ),
        ([np.zeros((2, 4, 5), np.uint8), np.zeros((4, 1), bool)], "'x1'.*got type bool; expected int8"),
        ([np.zeros((2, 4, 5), np.uint8), [[1], [2], [3], [4]]], "'x1': got list; expected integers in an array"),
        (
            [torch.full((2, 4, 5), 256, dtype=torch.uint16), np.zeros((4, 1), np.int8)],
            "'x0' of the numpy executor: got integers from 256 to 256; expected 0 to 255",
        ),
    ],
)
def test_wrong_inputs_are_named(integer_graphs: Graphs, inputs: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        NumpyExecutor(integer_graphs["add uint8 int8"]())(inputs)


def test_wrong_shapes_are_named(integer_graphs: Graphs) -> None:
    graph = integer_graphs["softmax mask bias"]()
    x, mask = np.zeros((5, 3, 4, 11), np.int8), np.ones((5, 1, 1, 11), bool)
    NumpyExecutor(graph)([x, mask])
    with pytest.raises(ShapeError, match=r"'x1'.*got shape \(4, 1, 1, 11\); expected \(5, 1, 1, 11\)"):
        NumpyExecutor(graph)([x, mask[:4]])
    with pytest.raises(ShapeError, match=r"'x0'.*got shape \(5, 3, 4\)"):
        NumpyExecutor(graph)([x[..., 0], mask])


def test_codes_outside_the_grid_are_refused(integer_graphs: Graphs) -> None:
    graph = integer_graphs["clamp"]()
    narrow = replace(graph, values={**graph.values, "x0": Value("x0", (2, 9), "int8", Grid(1.0, 0, -7, 7))})
    NumpyExecutor(narrow)([np.full((2, 9), 7)])
    with pytest.raises(ConfigurationError, match="from 8 to 8; expected -7 to 7"):
        NumpyExecutor(narrow)([np.full((2, 9), 8)])


def test_the_batch_is_read_off_a_multiple(integer_graphs: Graphs) -> None:
    graph = integer_graphs["reshape int8"]()
    windows = replace(
        graph, values={**graph.values, "x0": Value("x0", (BatchMultiple(4), 4, 6), "int8", graph.values["y"].grid)}
    )
    with pytest.raises(QuantsimError, match=r"node 'layer.reshape' \(reshape\)"):
        NumpyExecutor(windows)([np.zeros((8, 4, 6), np.int8)])  # a batch of 2, whose result would have 8 rows
    assert NumpyExecutor(graph)([np.zeros((7, 4, 6), np.int8)])["y"].shape == (28, 6)


def test_a_result_of_another_shape_than_described_is_refused(integer_graphs: Graphs) -> None:
    graph = integer_graphs["mean"]()
    wrong = replace(graph, values={**graph.values, "y": replace(graph.values["y"], shape=(BatchMultiple(), 4))})
    with pytest.raises(ShapeError, match=r"node 'layer.mean' \(mean\): got a result of shape \(2, 4, 1, 1\)"):
        NumpyExecutor(wrong)([np.zeros((2, 4, 3, 5), np.int16)])


def test_graphs_out_of_order_are_refused(integer_graphs: Graphs) -> None:
    graph = integer_graphs["residual block"]()
    with pytest.raises(ConfigurationError, match=r"node 'head' \(linear\): the value 'mean' is read before it is made"):
        NumpyExecutor(replace(graph, nodes=graph.nodes[::-1]))
    with pytest.raises(ConfigurationError, match="'conv' is made twice"):
        NumpyExecutor(replace(graph, nodes=(*graph.nodes[:1], *graph.nodes)))
    # Constants are kept by the name of the node.
    same = tuple(replace(node, name="head") for node in graph.nodes)
    with pytest.raises(ConfigurationError, match=r"node 'head' \(.*\): two nodes have one name"):
        NumpyExecutor(replace(graph, nodes=same))
    with pytest.raises(ConfigurationError, match="'other' is never made"):
        NumpyExecutor(replace(graph, outputs=("other",), values={**graph.values, "other": graph.values["conv"]}))
    with pytest.raises(ConfigurationError, match="'sum' is not described"):
        NumpyExecutor(replace(graph, values={k: v for k, v in graph.values.items() if k != "sum"}))


def test_outputs_alone_equal_those_among_all_values(integer_graphs: Graphs) -> None:
    graph = integer_graphs["residual block"]()
    image = np.random.default_rng(1).integers(0, 256, (2, 4, 6, 6)).astype(np.uint8)
    executor = NumpyExecutor(graph)
    outputs, values = executor([image]), executor.all_values([image])
    assert list(outputs) == ["relu", "logits"]
    assert list(values) == ["image", "conv", "relu", "sum", "mean", "logits"]
    for name, output in outputs.items():
        np.testing.assert_array_equal(output, values[name])
    assert 0 < np.abs(values["logits"]).max() < 127, "the example should not saturate"


def test_casts_are_checked() -> None:
    assert checked_cast(np.array([0, 1]), "bool").dtype == bool
    assert checked_cast(np.empty(0, np.int64), "int8").dtype == np.int8
    with pytest.raises(OverflowError, match="from -129 to 4 do not fit int8"):
        checked_cast(np.array([-129, 4]), "int8")
    assert checked_tensor_cast(torch.empty(0, dtype=torch.int64), torch.int8).dtype == torch.int8
    with pytest.raises(OverflowError, match="from 0 to 2 do not fit"):
        checked_tensor_cast(torch.tensor([0, 2]), torch.bool)
    with pytest.raises(OverflowError, match="from 3 to 40000 do not fit"):
        checked_tensor_cast(torch.tensor([3, 40000], dtype=torch.uint16), torch.int16)


def test_lengths_are_replaced_deeply() -> None:
    assert with_lengths([((BatchMultiple(3), 2),), None, True], 4) == (((12, 2),), None, True)
    assert as_numpy(np.ones(2)).sum() == 2
