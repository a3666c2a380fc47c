from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "layer_norm": (lambda x: torch.nn.functional.layer_norm(x, (8,)), ["layer_norm"]),
    "rms_norm": (lambda x: torch.nn.functional.rms_norm(x, (8,)), ["rms_norm"]),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_a_function_has_its_integer_form(name: str, ops_after_linear: Callable[..., list[str]]) -> None:
    function, expected = FUNCTIONS[name]
    assert ops_after_linear(function) == expected


def test_lengths_and_outliers_keep_their_precision(convert: Callable[..., Any]) -> None:
    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(8, 300), nn.LayerNorm(300)
            nn.init.normal_(self.norm.weight)
            nn.init.normal_(self.norm.bias, std=5.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.first(x))

    x = torch.randn(3, 8)
    x[0] *= 1e-3
    assert [node.op.value for node in convert(Norms(), x).graph.nodes] == ["linear", "layer_norm"]


def test_a_norm_written_out_is_one_node_only_without_quantizers_inside(
    ops_after_linear: Callable[..., list[str]],
) -> None:
    def written_out(x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)

    assert "rms_norm" not in ops_after_linear(written_out)
