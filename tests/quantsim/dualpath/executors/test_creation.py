from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from quantsim.dualpath.executors import EXECUTORS, create_executor
from quantsim.dualpath.integer_graph import IntegerGraph
from quantsim.errors import ConfigurationError


@pytest.mark.parametrize("name", ["numpy", "torch", "onnxruntime"])
def test_executors_are_found_by_name(integer_graphs: dict[str, Callable[[], IntegerGraph]], name: str) -> None:
    executor = create_executor(integer_graphs["negate"](), name)
    assert executor.name == name and name in EXECUTORS
    np.testing.assert_array_equal(executor([np.full((1, 9), 250, np.uint8)])["y"], np.full((1, 9), 5))


def test_options_reach_the_executor(integer_graphs: dict[str, Callable[[], IntegerGraph]]) -> None:
    executor = create_executor(integer_graphs["negate"](), "torch", device="cpu")
    assert vars(executor)["device"].type == "cpu"


def test_other_names_are_refused(integer_graphs: dict[str, Callable[[], IntegerGraph]]) -> None:
    with pytest.raises(ConfigurationError, match="got 'jax'; expected numpy, torch, triton, onnxruntime"):
        create_executor(integer_graphs["negate"](), "jax")
