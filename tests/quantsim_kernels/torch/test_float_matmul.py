"""The fast accumulated products have the reference's bits."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from quantsim_kernels import float_cast
from quantsim_kernels.accumulation import Accumulation
from quantsim_kernels.reference import float_matmul as reference
from quantsim_kernels.torch import float_matmul as fast

SameBits = Callable[[Tensor, Tensor], None]
SEED = torch.tensor(5)


def check(a: Tensor, b: Tensor, bias: Tensor | None, accumulation: Accumulation, same: SameBits) -> None:
    seed = SEED if accumulation.is_stochastic else None
    arguments = {**accumulation.arguments, "seed": seed}
    same(fast.accumulated_matmul(a, b, bias, **arguments), reference.accumulated_matmul(a, b, bias, **arguments))


@pytest.mark.parametrize("rounding", range(10))
@pytest.mark.parametrize("name", ["fp16", "bf16", "fp32", "e4m3fn", "e4m3", "e5m2", "e2m1", "e8m1", "e3m0"])
def test_formats_and_laws(name: str, rounding: int, assert_same_bits: SameBits) -> None:
    generator = torch.Generator().manual_seed(rounding)
    a, b = torch.randn(9, 13, generator=generator), torch.randn(13, 7, generator=generator)
    bias = torch.randn(7, generator=generator)
    for chunk, inner, scale in ((1, None, 1.0), (4, None, 1e3), (1, "e5m2", 1e-5), (None, "bf16", 1.0)):
        accumulation = Accumulation(name, rounding, chunk=chunk, inner=inner, seed=1)
        check(a * scale, b, bias, accumulation, assert_same_bits)
        check(float_cast(a * scale, "e4m3fn"), float_cast(b, "e4m3fn"), bias, accumulation, assert_same_bits)


@pytest.mark.parametrize("saturate", [None, True, False])
@pytest.mark.parametrize("subnormal", [True, False])
def test_ends_of_the_range(saturate: bool | None, subnormal: bool, assert_same_bits: SameBits) -> None:
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 6e4, -6e4, 1e-7, -1e-8, 3e-5, 1.0, -1.0])
    a, b = special[:, None].repeat(1, 2), special[None].repeat(2, 1)
    for name in ("fp16", "e4m3fn", "bf16"):
        accumulation = Accumulation(name, saturate=saturate, subnormal=subnormal)
        check(a, b, None, accumulation, assert_same_bits)
        check(a[:, :1], b[:1] * 1e-4, special, accumulation, assert_same_bits)


@pytest.mark.parametrize("shape", [(700, 150), (3, 90000), (1, 1)])
def test_pieces_join_up(shape: tuple[int, int], assert_same_bits: SameBits) -> None:
    rows, columns = shape
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(rows, 5, generator=generator), torch.randn(5, columns, generator=generator)
    bias = torch.randn(columns, generator=generator)
    check(a, b, bias, Accumulation("bf16", chunk=2), assert_same_bits)
    check(a, b, bias, Accumulation("bf16", "stochastic", chunk=2, seed=1), assert_same_bits)


def test_batches(assert_same_bits: SameBits) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 1, 40, 6, generator=generator), torch.randn(3, 6, 500, generator=generator)
    row = torch.randn(3, 1, 500, generator=generator)
    for accumulation in (Accumulation("fp16"), Accumulation("fp16", "stochastic", seed=1)):
        check(a, b, row, accumulation, assert_same_bits)
        check(a, b[0], row[0], accumulation, assert_same_bits)
        check(a[0, 0], b, row, accumulation, assert_same_bits)
    check(a.bfloat16(), b.bfloat16(), None, Accumulation("fp16"), assert_same_bits)
    check(a.double(), b.double(), None, Accumulation("fp16"), assert_same_bits)


def test_exactness_is_only_claimed_where_it_holds() -> None:
    from quantsim_encodings.formats import float_format

    fp16, bf16 = float_format("fp16"), float_format("bf16")
    small = float_cast(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), "e4m3fn")
    assert fast._is_exact_in_float64(small, small.T, [fp16], 16, 1)
    assert fast._is_exact_in_float64(torch.zeros(2, 2), torch.zeros(2, 2), [fp16], 2, 1)
    far = torch.tensor([[2.0**30, 2.0**-30]])
    assert not fast._is_exact_in_float64(far, far.T, [bf16], 2, 1)
    assert not fast._is_exact_in_float64(torch.tensor([[math.inf]]), torch.ones(1, 1), [fp16], 1, 1)
    assert fast._last_bit(torch.tensor([0.75, 6.0, 0.0, -(2.0**-140)])) == 2.0**-140
    assert fast._last_bit(torch.tensor([0.75, 6.0])) == 0.25
    assert fast._last_bit(torch.ones(2, dtype=torch.float64)) == 0.0  # not looked into
