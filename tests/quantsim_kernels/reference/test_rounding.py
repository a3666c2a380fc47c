"""The laws of rounding to whole steps against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quantsim_encodings.formats import RoundingMode
from quantsim_kernels.reference.rounding import round_steps

HALF = Fraction(1, 2)


def expected(steps: float, mode: RoundingMode, negative: bool, noise: int) -> int:
    whole, fraction = int(steps), Fraction(steps) - int(steps)
    odd = whole % 2 == 1
    if fraction == 0:
        return whole
    up = {
        RoundingMode.NEAREST_ODD: fraction > HALF or (fraction == HALF and not odd),
        RoundingMode.NEAREST_EVEN: fraction > HALF or (fraction == HALF and odd),
        RoundingMode.UP: not negative,
        RoundingMode.DOWN: negative,
        RoundingMode.TOWARD_ZERO: False,
        RoundingMode.STOCHASTIC: Fraction(2 * noise + 1, 2**25) < fraction,
        RoundingMode.STOCHASTIC_EQUAL: noise >= 2**23,
        RoundingMode.NEAREST_ZERO: fraction > HALF,
        RoundingMode.NEAREST_AWAY: fraction >= HALF,
        RoundingMode.ODD: not odd,
    }[mode]
    return whole + up


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", RoundingMode)
@given(
    values=st.lists(st.one_of(st.integers(0, 2**20).map(lambda n: n / 4), st.floats(0, 300, width=32)), min_size=1),
    negative=st.booleans(),
    noise=st.integers(0, 2**24 - 1),
)
def test_laws(mode: RoundingMode, dtype: torch.dtype, values: list[float], negative: bool, noise: int) -> None:
    steps = torch.tensor(values, dtype=dtype)
    signs = torch.full(steps.shape, negative)
    bits = torch.full(steps.shape, noise, dtype=torch.int32)
    result = round_steps(steps, mode, negative=signs, noise=bits)
    assert result.dtype is dtype
    assert result.tolist() == [expected(value, mode, negative, noise) for value in steps.tolist()]


def test_parity_may_be_that_of_a_code() -> None:
    steps = torch.tensor([1.5, 1.5])
    odd = torch.tensor([True, False])
    assert round_steps(steps, RoundingMode.NEAREST_EVEN, odd=odd).tolist() == [2.0, 1.0]
    assert round_steps(steps, RoundingMode.NEAREST_ODD, odd=odd).tolist() == [1.0, 2.0]
    assert round_steps(steps, RoundingMode.ODD, odd=odd).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("mode", "message"),
    [(RoundingMode.UP, "negative.*'up'"), (RoundingMode.STOCHASTIC, "noise.*'stochastic'")],
)
def test_missing_operands(mode: RoundingMode, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        round_steps(torch.ones(1), mode)
