"""One step of an accumulator: the sum rounded to odd, and its cast."""

from __future__ import annotations

from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st

from quantsim_encodings.formats import RoundingMode, float_format
from quantsim_kernels.reference.accumulation import chunk_sum, rounded_sum, step_seed, sum_to_odd

NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def wide(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


@given(a=NUMBERS, b=NUMBERS, c=NUMBERS)
def test_sums_are_rounded_to_odd(a: float, b: float, c: float) -> None:
    product = b * c  # exact: 48 bits
    total = sum_to_odd(wide(a), wide(product)).item()
    exact = Fraction(a) + Fraction(product)
    if exact == Fraction(a + product):
        assert total == a + product
        return
    bits = torch.tensor(total, dtype=torch.float64).view(torch.int64).item()
    assert bits % 2 == 1
    neighbours = [torch.nextafter(wide(total), wide(end)).item() for end in (float("-inf"), float("inf"))]
    assert Fraction(neighbours[0]) < exact < Fraction(neighbours[1])


def test_what_is_not_finite_stays() -> None:
    inf = float("inf")
    assert sum_to_odd(wide(inf), wide(1.0)).item() == inf
    assert sum_to_odd(wide(inf), wide(-inf)).isnan().all()
    assert sum_to_odd(wide(float("nan")), wide(1.0)).isnan().all()


def test_a_trace_far_below_decides() -> None:
    """1 + 2**-11 lies half way between two numbers of fp16; anything more goes up, anything less down."""
    format, half, trace = float_format("fp16"), 2.0**-11, 2.0**-90
    one = wide(1.0 + half)
    nearest = RoundingMode.NEAREST_EVEN
    assert rounded_sum(one, wide(0.0), format, nearest, False, None).item() == 1.0
    assert rounded_sum(one, wide(trace), format, nearest, False, None).item() == 1.0 + 2 * half
    assert rounded_sum(one + 2 * half, wide(-trace), format, nearest, False, None).item() == 1.0 + 2 * half
    assert rounded_sum(wide(1.0), wide(trace), format, RoundingMode.UP, False, None).item() == 1.0 + 2 * half
    assert rounded_sum(wide(1.0), wide(-trace), format, RoundingMode.DOWN, False, None).item() == 1.0 - half


def test_a_lone_product_keeps_the_sign_of_its_zero() -> None:
    product = chunk_sum(torch.tensor([[-1.0]], dtype=torch.float64), torch.tensor([[0.0]], dtype=torch.float64))
    assert product.signbit().all()
    pair = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    assert chunk_sum(pair, pair.mT).item() == 5.0


def test_each_step_has_a_seed_of_its_own() -> None:
    seeds = [step_seed(torch.tensor(3), step) for step in range(1000)]
    assert len({int(seed) for seed in seeds if seed is not None}) == 1000
    assert all(seed is not None and seed.dtype is torch.int64 for seed in seeds)
    assert step_seed(None, 5) is None
