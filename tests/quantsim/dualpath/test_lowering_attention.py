from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantsim.dualpath.conversion import to_integer
from quantsim.dualpath.lowering_attention import score_units
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
