"""Nothing that is left in floating point is hidden."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsim.sim import QuantizationSimModel, preset
from quantsim.sim.coverage import Coverage


class Model(nn.Module):
    """Two linears around functional attention, and one that is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)
        self.unused = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        y = F.scaled_dot_product_attention(y, y, y) + F.gelu(y)
        return self.last(y) @ self.last.weight


MODULES_ONLY = preset("w8a8").model_copy(update={"functional_operations": False})
HOLDER = "functional_operations"


def coverage(config: Any = MODULES_ONLY) -> Coverage:
    return QuantizationSimModel(Model(), torch.randn(1, 3, 8), config).coverage


def test_modules_are_sorted_into_quantized_and_not() -> None:
    found = coverage()
    assert found.quantized == ("first", "last", "unused")
    assert found.without_quantizers == ("norm",)
    assert found.uncalled == ("unused",)
    assert found.excluded == ()


def test_functional_arithmetic_is_listed() -> None:
    operations = {operation.operation: operation for operation in coverage().operations}
    assert set(operations) == {"scaled_dot_product_attention", "gelu", "add", "matmul"}
    assert {operation.module_type for operation in operations.values()} == {"Model"}
    assert {operation.operation for operation in coverage().unquantized_multiplications} == {
        "scaled_dot_product_attention",
        "matmul",
    }


def test_multiplications_are_counted() -> None:
    found = coverage()
    # called: first, last; functional: attention (2), matmul (1); the module that is not called counts as it stands
    assert found.multiplications is not None and found.quantized_multiplications is not None
    assert found.multiplications - found.quantized_multiplications == 3
    without = coverage({"weights": None})
    assert without.quantized_multiplications == 0
    assert without.multiplications == found.multiplications


def test_excluded_modules_are_named() -> None:
    found = coverage({"weights": {"kind": "int"}, "exclude": ["first"]})
    assert found.excluded == ("first",)
    assert "first" not in found.quantized


def test_without_example_inputs_nothing_is_claimed_of_functions() -> None:
    found = QuantizationSimModel(Model()).coverage
    assert (found.operations, found.multiplications, found.quantized_multiplications) == ((), None, None)
    assert found.uncalled == ()


def test_the_text_lists_the_largest_first() -> None:
    lines = str(coverage()).splitlines()
    assert lines[0] == "3 modules quantized, 1 without quantizers, 0 excluded"
    assert "matrix multiplications quantized" in lines[1]
    assert lines[2] == "not reached by the example inputs: unused"
    assert lines[3] == "unquantized multiplication: scaled_dot_product_attention ×1 in Model ((model))"
    assert lines[-1].startswith("unquantized operation: ")


def test_equal_operations_of_many_modules_are_one_line() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.fc(x)

    sim = QuantizationSimModel(nn.Sequential(*[Residual() for _ in range(5)]), torch.randn(1, 4))
    assert "unquantized operation: add ×5 in Residual (0, 1, 2, ... (5 modules))" in str(sim.coverage)


def test_functions_with_quantizers_count_as_quantized() -> None:
    found = coverage("w8a8")
    attention = f"{HOLDER}.scaled_dot_product_attention_0"
    assert found.quantized[3:] == (f"{attention}.qk_matmul", f"{attention}.pv_matmul", f"{HOLDER}.matmul_0")
    assert found.without_quantizers == ("norm",)
    # The softmax inside of attention is what is left of it.
    assert {operation.operation for operation in found.operations} == {"softmax", "gelu", "add"}
    assert found.quantized_multiplications == found.multiplications == 6
    bare = coverage({"weights": None})
    assert (bare.quantized_multiplications, bare.multiplications) == (0, 6)


def test_attention_of_a_transformer_is_reported(bert: Any) -> None:
    assert not QuantizationSimModel(bert.model, bert.example).coverage.unquantized_multiplications
    found = QuantizationSimModel(bert.model, bert.example, MODULES_ONLY).coverage
    assert sum(operation.multiplies * operation.count for operation in found.unquantized_multiplications) == 4
    assert {"SelfAttention" in operation.module_type for operation in found.unquantized_multiplications} == {True}
