from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantsim.dualpath.conversion import to_integer
from quantsim.dualpath.lowering_attention import score_units
from quantsim.quantization import affine
from quantsim.sim import QuantizationSimModel
from quantsim_kernels.fixed_point import exponential_tables


class Attention(nn.Module):
    """One head in plain operations."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-1, -2) / 8**0.5
        scores = scores.masked_fill(~mask[:, None, :], -1e9)
        return torch.softmax(scores, -1) @ self.v(x)


def test_probabilities_may_have_a_grid_of_their_own(ops_after_linear: Callable[..., list[str]]) -> None:
    assert ops_after_linear(lambda x: torch.softmax(x, -1)) == ["softmax"]


def test_masked_attention_written_in_plain_operations() -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(2, 5, 8), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    sim = QuantizationSimModel(Attention().eval(), (x, mask), config="integer_w8a8")
    sim.compute_encodings([(x, mask)])
    integer = to_integer(sim, (x, mask), strict=True)
    (name,) = [name for name in integer.graph.inputs if integer.graph.values[name].dtype == "bool"]
    values = integer.run_integers((x, mask))
    assert np.array_equal(values[name][:, 0], mask.numpy())
    assert torch.allclose(integer(x, mask), sim(x, mask), atol=0.05)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_the_farthest_numerator_is_zero_and_units_are_as_fine_as_can_be(bits: int) -> None:
    units = score_units(bits)
    for each, farthest_is_zero in ((units, True), (2 * units, False)):
        tables = exponential_tables(bits, each)
        product = int(tables.exponential_high[-1]) * int(tables.exponential_low[-1])
        assert ((product >> (tables.exponential_shift - 1)) == 0) is farthest_is_zero


class MaskedSoftmax(nn.Module):
    """A softmax between two quantizers, of scores and something that changes them."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.before, self.after = (affine.QuantizeDequantize((), bitwidth=8, symmetric=False) for _ in range(2))
        self.before.set_range(-3.0, 3.0)
        self.after.set_range(0.0, 1.0)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        return self.after(torch.softmax(self.function(self.before(x), ids), -1))


SLOPES = torch.linspace(-3, 3, 8)
ON_SCORES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
    "bias_taken_away": (lambda x, ids: x - SLOPES, True),
    "bias_twice": (lambda x, ids: torch.add(x, SLOPES, alpha=2), True),
    "constant_mask_taken_away": (lambda x, ids: x - (SLOPES > 0) * 1e9, True),
    "mask_of_minus_ten_thousand": (lambda x, ids: x + (1.0 - (ids > 3).float()) * -10000.0, True),
    "mask_taken_away": (lambda x, ids: x - (ids > 3).float() * 1e9, True),
    "mask_less_scores": (lambda x, ids: (ids > 3).float() * -1e9 - x, False),
    "bias_with_more_rows": (lambda x, ids: x[:, :1] + SLOPES.reshape(1, 1, 8) * torch.ones(4, 1), False),
    "mask_with_more_rows": (lambda x, ids: x[:, :1].masked_fill(ids.expand(-1, 4, -1) > 3, -1e9), False),
}


@pytest.mark.parametrize("name", list(ON_SCORES))
def test_what_changes_scores_has_its_sign_factor_and_shape(name: str) -> None:
    function, is_integer = ON_SCORES[name]
    torch.manual_seed(0)
    x, ids = torch.randn(2, 4, 8), torch.arange(8).expand(2, 1, 8)
    model = MaskedSoftmax(function).eval()
    integer = to_integer(model, (x, ids))
    with torch.no_grad():
        real = model(x, ids)
    found = integer(x, ids, executor="numpy")
    assert integer.coverage.is_complete == is_integer
    assert found.shape == real.shape
    assert (found - real).abs().max() < 1.01 / 255


def test_a_mask_that_no_softmax_reads_is_none() -> None:
    class Sum(MaskedSoftmax):
        def forward(self, x: Tensor, ids: Tensor) -> Tensor:
            return self.after(self.before(x) + (ids > 30).float())

    x, ids = torch.rand(2, 4, 8), torch.arange(8).expand(2, 1, 8)
    model = Sum(lambda x, ids: x).eval()
    integer = to_integer(model, (x, ids))
    assert torch.equal(integer(x, 8 * ids), model(x, 8 * ids))
