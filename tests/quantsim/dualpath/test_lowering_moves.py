from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "reshaped": (lambda x: x.reshape(x.shape[0], -1)[:, 3:], ["reshape", "slice"]),
    "chunks": (lambda x: torch.cat(x.chunk(2, -1)[::-1], -1), ["slice", "slice", "concatenate"]),
    "selected": (lambda x: x[:, 1], ["take"]),
    "rolled": (lambda x: torch.roll(x, 1, 1), ["roll"]),
    "padded": (lambda x: torch.nn.functional.pad(x, (1, 2)), ["pad"]),
    "stacked": (lambda x: torch.stack([x, x], 1), ["reshape", "reshape", "concatenate"]),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_a_function_has_its_integer_form(name: str, ops_after_linear: Callable[..., list[str]]) -> None:
    function, expected = FUNCTIONS[name]
    assert ops_after_linear(function) == expected


def test_a_constant_tensor_is_a_table_of_rows(convert: Callable[..., Any]) -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.table = nn.Linear(8, 8), nn.Parameter(torch.randn(4, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.before(x) + self.table

    integer = convert(Positions(), torch.randn(2, 4, 8))
    assert [node.op.value for node in integer.graph.nodes] == ["linear", "embedding", "add"]
    assert integer.graph.values["rows"].shape == (4,)
