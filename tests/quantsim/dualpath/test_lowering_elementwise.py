from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quantsim.dualpath.conversion import to_integer
from quantsim.dualpath.integer_model import IntegerModel
from quantsim.quantization import affine

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


class Between(nn.Module):
    """A function with nothing but one quantizer before it and one behind it."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.before, self.after = (affine.QuantizeDequantize((), bitwidth=8, symmetric=False) for _ in range(2))
        self.before.set_range(-3.0, 3.0)
        self.after.set_range(-4.0, 4.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.function(self.before(x)))


def between(function: Callable[[Tensor], Tensor]) -> IntegerModel:
    """The integer form, whose results are within one step of those of fake quantization."""
    torch.manual_seed(0)
    model, x = Between(function).eval(), torch.randn(2, 4, 8)
    integer = to_integer(model, x)
    with torch.no_grad():
        real = model(x)
    found = integer(x, executor="numpy")
    assert found.shape == real.shape
    assert (found - real).abs().max() < 1.01 * 8 / 255
    return integer


def root_mean_square(of: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: x * torch.rsqrt(of(x).pow(2).mean(-1, keepdim=True) + 1e-5)


def test_a_norm_by_the_root_mean_square_of_something_else_is_none() -> None:
    assert [node.op.value for node in between(root_mean_square(lambda x: x)).graph.nodes] == ["rms_norm"]
    for other in (torch.relu, lambda x: x + 1.0, lambda x: x * 2.0):
        assert not between(root_mean_square(other)).graph.nodes


def test_a_mean_square_that_is_no_norm_stays_float() -> None:
    integer = between(lambda x: x.pow(2).mean(-1, keepdim=True) + 0.5)
    assert "read by something else" in str(integer.coverage)


def test_a_factor_of_zero_counts() -> None:
    assert between(lambda x: torch.add(x, x * 0.5, alpha=0)).graph.nodes


@pytest.mark.parametrize("operation", [torch.add, torch.mul, torch.div])
def test_a_number_with_more_dimensions_gives_the_result_them(operation: Callable[..., Tensor]) -> None:
    between(lambda x: operation(x, torch.full((1, 1, 1, 1), 1.5)))


def test_a_division_by_zero_is_left_to_the_host() -> None:
    assert "divides by zero" in str(between(lambda x: x / 0.0).coverage)


def test_numbers_drawn_at_random_are_no_constants() -> None:
    class Noisy(Between):
        def forward(self, x: Tensor) -> Tensor:
            return self.after(self.before(x) + torch.rand(8))

    x = torch.zeros(2, 8)
    state = torch.get_rng_state()
    integer = to_integer(Noisy(lambda x: x).eval(), x)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(integer(x), integer(x))
