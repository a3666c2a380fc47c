"""The Triton executor in Triton's interpreter, which needs a process of its own, and on a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from quantsim.dualpath.executors.numpy_executor import NumpyExecutor
from quantsim.dualpath.executors.triton_executor import TritonExecutor
from quantsim.dualpath.integer_graph import IntegerGraph
from quantsim.errors import ConfigurationError

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def compare(graph: IntegerGraph, inputs: dict[str, np.ndarray]) -> None:
    truth = NumpyExecutor(graph).all_values(inputs)
    values = TritonExecutor(graph).all_values(inputs)
    assert list(values) == list(truth)
    for name, expected in truth.items():
        assert values[name].dtype == getattr(torch, str(expected.dtype))
        np.testing.assert_array_equal(values[name].cpu().numpy(), expected, err_msg=name)


if INTERPRETED:

    def test_products_equal_numpys_interpreted(
        integer_graphs: dict[str, Callable[[], IntegerGraph]], fill: Callable[..., dict[str, np.ndarray]]
    ) -> None:
        for name, make in integer_graphs.items():
            if name.startswith(("linear", "convolution", "matmul", "softmax", "residual")):
                graph = make()
                compare(graph, fill(graph))

else:

    def test_products_equal_numpys() -> None:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "interpreted", __file__],
            env={**os.environ, "TRITON_INTERPRET": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and "4 passed" in done.stdout, (done.stdout + done.stderr)[-4000:]

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_a_device_is_needed(integer_graphs: dict[str, Callable[[], IntegerGraph]]) -> None:
        with pytest.raises(ConfigurationError, match=r"got 'cuda'.*executor 'torch'.*TRITON_INTERPRET"):
            TritonExecutor(integer_graphs["linear uint8"]())
        with pytest.raises(ConfigurationError, match="got 'cpu'"):
            TritonExecutor(integer_graphs["linear uint8"](), "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_value_on_a_gpu_equals_numpys(
    integer_graph: IntegerGraph, fill: Callable[..., dict[str, np.ndarray]]
) -> None:
    compare(integer_graph, fill(integer_graph))
