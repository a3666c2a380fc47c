from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.dualpath.conversion import to_integer
from quantsim.dualpath.coverage import IntegerCoverage, OperationCoverage
from quantsim.errors import ConfigurationError
from quantsim.quantization import affine
from quantsim.sim import QuantizationSimModel


def test_counts_and_text() -> None:
    coverage = IntegerCoverage(
        (OperationCoverage("a", "linear", True, "", 30), OperationCoverage("b", "fft", False, "no form", 10)),
        (("b.output_quantizers.0", "blocks"),),
    )
    assert (coverage.integer, coverage.total, coverage.is_complete) == (1, 2, False)
    assert coverage.integer_multiplications == 30
    assert [each.module for each in coverage.floating] == ["b"]
    assert str(coverage).splitlines() == [
        "integer coverage: 1 of 2 operations, 75.0 % of 40 multiply-accumulates",
        "  float: fft of 'b': no form",
        "  quantizer without integers: b.output_quantizers.0: blocks",
    ]


def test_multiplications_are_those_of_the_model(converted: Callable[[str], Any]) -> None:
    coverage = converted("vgg").integer.coverage
    found = {each.operation: each.multiplications for each in coverage.operations if each.module == "0"}
    assert found == {"conv2d": 2 * 8 * 16 * 16 * 3 * 9}
    attention = [each for each in converted("bert").integer.coverage.operations if each.operation == "matmul"]
    assert [each.multiplications for each in attention] == [2 * 4 * 9 * 9 * 8] * 2


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv3d(2, 3, 3, padding=1), (2, 2, 5, 5, 5), 2 * 3 * 125 * 2 * 27),
        (nn.ConvTranspose2d(2, 3, 3, 2), (2, 2, 5, 5), 2 * 2 * 25 * 3 * 9),
        (nn.ConvTranspose1d(4, 6, 3, groups=2), (2, 4, 5), 2 * 4 * 5 * 3 * 3),
    ],
)
def test_products_that_stay_float_are_counted_too(layer: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    x = torch.randn(shape)
    sim = QuantizationSimModel(layer.eval(), x, config="integer_w8a8")
    sim.compute_encodings([x])
    coverage = to_integer(sim, x).coverage
    assert (coverage.multiplications, coverage.integer_multiplications) == (expected, 0)
    assert f"0.0 % of {expected} multiply-accumulates" in str(coverage)


class Grown(nn.Module):
    """Its batch is one longer than that of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = (affine.QuantizeDequantize((), bitwidth=8, symmetric=False) for _ in range(2))
        self.before.set_range(-3.0, 3.0)
        self.after.set_range(-4.0, 4.0)
        self.layer = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.layer(torch.cat([self.before(x), torch.ones(1, 8)])))


def test_lengths_that_are_no_multiple_of_the_batch_are_counted() -> None:
    joined, linear = to_integer(Grown().eval(), torch.randn(4, 8)).coverage.operations
    assert "no multiple of the batch" in joined.reason
    assert (linear.operation, linear.multiplications) == ("linear", 5 * 3 * 8)


def test_integers_that_are_moved_by_the_host_are_named() -> None:
    class Padded(Grown):
        def forward(self, x: Tensor) -> Tensor:
            return self.after(torch.nn.functional.pad(self.before(x), (1, 1), value=float("-inf")))

    x, model = torch.randn(4, 8), Padded().eval()
    integer = to_integer(model, x)
    assert [(each.operation, each.is_integer) for each in integer.coverage.operations] == [("pad", False)]
    assert torch.equal(integer(x), model(x))
    with pytest.raises(ConfigurationError, match="outside of the grid"):
        to_integer(model, x, strict=True)
