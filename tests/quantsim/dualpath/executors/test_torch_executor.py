from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from quantsim.dualpath.executors.numpy_executor import NumpyExecutor
from quantsim.dualpath.executors.torch_executor import TorchExecutor
from quantsim.dualpath.integer_graph import IntegerGraph
from quantsim.errors import ConfigurationError


def test_every_value_equals_numpys(integer_graph: IntegerGraph, fill: Callable[..., dict[str, np.ndarray]]) -> None:
    inputs = fill(integer_graph)
    truth = NumpyExecutor(integer_graph).all_values(inputs)
    executor = TorchExecutor(integer_graph)
    values, outputs = executor.all_values(inputs), executor(inputs)
    assert list(values) == list(truth)
    for name, expected in truth.items():
        assert values[name].dtype == getattr(torch, str(expected.dtype))
        np.testing.assert_array_equal(values[name].numpy(), expected, err_msg=name)
    assert list(outputs) == list(integer_graph.outputs)
    for name, output in outputs.items():
        np.testing.assert_array_equal(output.numpy(), truth[name], err_msg=name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_value_on_cuda_equals_numpys(
    integer_graph: IntegerGraph, fill: Callable[..., dict[str, np.ndarray]]
) -> None:
    inputs = fill(integer_graph)
    truth = NumpyExecutor(integer_graph).all_values(inputs)
    for name, value in TorchExecutor(integer_graph, "cuda").all_values(inputs).items():
        assert value.is_cuda
        np.testing.assert_array_equal(value.cpu().numpy(), truth[name], err_msg=name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_named(integer_graphs: dict[str, Callable[[], IntegerGraph]]) -> None:
    with pytest.raises(ConfigurationError, match=r"TorchExecutor.device.*'cuda'.*device='cpu'"):
        TorchExecutor(integer_graphs["clamp"](), "cuda")


def test_tensors_are_taken_as_they_are(integer_graphs: dict[str, Callable[[], IntegerGraph]]) -> None:
    x = torch.tensor([[-9] * 9, [120] * 9], dtype=torch.int8)
    result = TorchExecutor(integer_graphs["clamp"]())({"x0": x})["y"]
    assert torch.equal(result, x.clamp(-3, 90)) and result.dtype == torch.int8
    assert not result.requires_grad
