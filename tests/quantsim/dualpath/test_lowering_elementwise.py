from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "gelu": (torch.nn.functional.gelu, ["table"]),
    "silu_of_scaled": (lambda x: torch.nn.functional.silu(x * 0.5), ["table", "table"]),
    "sigmoid": (torch.sigmoid, ["table"]),
    "relu": (torch.relu, []),
    "abs": (torch.abs, ["table"]),
    "product_of_two": (lambda x: x * torch.sigmoid(x), ["table", "multiply"]),
    "sum_of_two": (lambda x: x + torch.tanh(x), ["table", "add"]),
    "difference": (lambda x: x - torch.tanh(x), ["table", "add"]),
    "channels": (lambda x: x * torch.linspace(-1, 2, 8), ["scale_shift"]),
    "divided": (lambda x: x / 3.0, ["table"]),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_a_function_has_its_integer_form(name: str, ops_after_linear: Callable[..., list[str]]) -> None:
    function, expected = FUNCTIONS[name]
    assert ops_after_linear(function) == expected
