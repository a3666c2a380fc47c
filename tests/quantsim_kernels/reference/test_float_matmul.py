"""Accumulated products against an oracle that works on Python fractions, one element and one step at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import gfloat
import gfloat.formats
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, RoundingMode, float_format
from quantsim_kernels.reference.float_matmul import accumulated_matmul, convolution_patches

FORMATS = ("fp16", "bf16", "tf32", "fp32", "e5m2", "e4m3", "e6m9")
DETERMINISTIC = [mode for mode in RoundingMode if not mode.is_stochastic]


def rounded(value: Fraction, format: FloatFormat, mode: RoundingMode, saturate: bool) -> Fraction | float:
    """An exact number in an IEEE-like format; infinite results are floats."""
    if value == 0:
        return value
    magnitude, negative = abs(value), value < 0
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    exponent -= magnitude < Fraction(2) ** exponent
    exponent = min(max(exponent, format.min_exponent), format.max_exponent)
    quantum = Fraction(2) ** (exponent - format.mantissa_bits)
    steps = magnitude / quantum
    below = math.floor(steps)
    rest = steps - below
    half, odd, inexact = Fraction(1, 2), below % 2 == 1, rest > 0
    up = {
        RoundingMode.NEAREST_EVEN: rest > half or (rest == half and odd),
        RoundingMode.NEAREST_ODD: rest > half or (rest == half and not odd),
        RoundingMode.NEAREST_AWAY: rest >= half and inexact,
        RoundingMode.NEAREST_ZERO: rest > half,
        RoundingMode.UP: inexact and not negative,
        RoundingMode.DOWN: inexact and negative,
        RoundingMode.TOWARD_ZERO: False,
        RoundingMode.ODD: inexact and not odd,
    }[mode]
    result = (below + up) * quantum
    if result > Fraction(format.max):
        away = {RoundingMode.UP: not negative, RoundingMode.DOWN: negative}
        stays = mode in (RoundingMode.TOWARD_ZERO, RoundingMode.ODD) or not away.get(mode, True)
        if not (saturate or stays):
            return -math.inf if negative else math.inf
        result = Fraction(format.max)
    return -result if negative else result


def dot(
    a: Sequence[float],
    b: Sequence[float],
    bias: float | None,
    format: FloatFormat,
    mode: RoundingMode,
    chunk: int,
    inner: FloatFormat | None = None,
    saturate: bool = False,
) -> float:
    """One element of the product, by the definition."""
    accumulator: Fraction | float = Fraction(0)

    def add(addend: Fraction | float) -> None:
        nonlocal accumulator
        if isinstance(accumulator, float) or isinstance(addend, float):
            accumulator = float(accumulator) + float(addend)  # an infinity is in it
        else:
            accumulator = rounded(Fraction(accumulator + addend), format, mode, saturate)

    for start in range(0, len(a), chunk):
        products = [
            Fraction(x) * Fraction(y) for x, y in zip(a[start : start + chunk], b[start : start + chunk], strict=True)
        ]
        part: Fraction | float = Fraction(sum(products))
        if inner is not None:
            part = rounded(part, inner, mode, saturate)
        add(part)
    if bias is not None:
        add(Fraction(bias))
    return float(accumulator)


def product(a: Tensor, b: Tensor, bias: Tensor | None, *arguments: Any, **keywords: Any) -> Tensor:
    rows = [
        [
            dot(row.tolist(), column.tolist(), None if bias is None else bias[j].item(), *arguments, **keywords)
            for j, column in enumerate(b.T)
        ]
        for row in a
    ]
    return torch.tensor(rows, dtype=a.dtype)


@pytest.mark.parametrize(
    "mode", [RoundingMode.NEAREST_EVEN, RoundingMode.UP, RoundingMode.DOWN, RoundingMode.TOWARD_ZERO]
)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("fp16", "format_info_binary16"), ("bf16", "format_info_bfloat16"), ("e5m2", "format_info_ocp_e5m2")],
)
def test_the_oracle_itself_rounds_as_gfloat_does(mode: RoundingMode, ours: str, theirs: str) -> None:
    laws = {
        RoundingMode.NEAREST_EVEN: gfloat.RoundMode.TiesToEven,
        RoundingMode.UP: gfloat.RoundMode.TowardPositive,
        RoundingMode.DOWN: gfloat.RoundMode.TowardNegative,
        RoundingMode.TOWARD_ZERO: gfloat.RoundMode.TowardZero,
    }
    generator = np.random.default_rng(0)
    values = generator.standard_normal(300) * 2.0 ** generator.integers(-30, 20, 300)
    format, info = float_format(ours), getattr(gfloat.formats, theirs)
    for value in [*values.tolist(), 1e6, -1e39]:
        expected = gfloat.round_float(info, value, laws[mode], False)
        assert float(rounded(Fraction(value), format, mode, False)) == expected


@pytest.mark.parametrize("mode", DETERMINISTIC)
@pytest.mark.parametrize("name", FORMATS)
def test_each_step_rounds_the_exact_sum_once(name: str, mode: RoundingMode) -> None:
    generator = torch.Generator().manual_seed(0)
    # Float32 operands of many binades: their products have 48 bits, and sums need more than float64's.
    a = torch.randn(3, 11, generator=generator) * 2.0 ** torch.randint(-12, 8, (3, 11), generator=generator)
    b = torch.randn(11, 4, generator=generator)
    bias = torch.randn(4, generator=generator)
    format = float_format(name)
    for chunk in (1, 11):
        got = accumulated_matmul(a, b, bias, format=format, rounding=mode, chunk=chunk)
        assert torch.equal(got, product(a, b, bias, format, mode, chunk)), chunk


@pytest.mark.parametrize("chunk", [1, 3, 4, 10, 16, None])
@pytest.mark.parametrize("inner", [None, "bf16"])
def test_ragged_chunks_and_an_inner_format(chunk: int | None, inner: str | None) -> None:
    generator = torch.Generator().manual_seed(1)
    # Halves of small integers: sums of several products are exact, too.
    a = torch.randint(-99, 99, (3, 10), generator=generator) / 2.0
    b = torch.randint(-99, 99, (10, 4), generator=generator) / 2.0
    format, within = float_format("e6m5"), None if inner is None else float_format(inner)
    for mode in (RoundingMode.NEAREST_EVEN, RoundingMode.DOWN):
        got = accumulated_matmul(a, b, format=format, rounding=mode, chunk=chunk, inner=within)
        assert torch.equal(got, product(a, b, None, format, mode, chunk or 10, within))


def test_overflow_becomes_infinite_or_saturates() -> None:
    a = torch.tensor([[300.0, 300.0, -300.0, -300.0], [60000.0, 1.0, 1.0, 1.0]])
    b = torch.tensor([[300.0], [1.0], [300.0], [1.0]])
    format = float_format("fp16")
    arguments = (format, RoundingMode.NEAREST_EVEN, 1)
    for saturate in (False, True):
        got = accumulated_matmul(a, b, format=format, saturate=saturate)
        expected = product(a, b, None, *arguments, saturate=saturate)
        assert torch.equal(got.nan_to_num(nan=7.0, posinf=math.inf), expected.nan_to_num(nan=7.0, posinf=math.inf))
    infinite = accumulated_matmul(torch.tensor([[math.inf, 1.0]]), torch.tensor([[1.0], [-math.inf]]), format=format)
    assert infinite.isnan().all()
    finite_format = accumulated_matmul(a[1:], b, format=float_format("e4m3fn"), saturate=True)
    assert finite_format.item() == 448.0


def test_a_stochastic_law_gives_the_exact_sum_on_average() -> None:
    a = torch.full((20000, 4), 0.3)
    b = torch.ones(4, 1)
    seed = torch.tensor(7)
    format = float_format("e5m2")
    got = accumulated_matmul(a, b, format=format, rounding=RoundingMode.STOCHASTIC, seed=seed)
    exact = 4 * Fraction(0.3).limit_denominator(10**9)
    error = got.std() / math.sqrt(len(got))
    assert abs(got.mean().item() - float(exact)) < 5 * error.item()
    again = accumulated_matmul(a, b, format=format, rounding=RoundingMode.STOCHASTIC, seed=seed)
    assert torch.equal(got, again)
    other = accumulated_matmul(a, b, format=format, rounding=RoundingMode.STOCHASTIC, seed=seed + 1)
    assert not torch.equal(got, other)


def test_the_noise_of_the_steps_is_independent() -> None:
    """Four halves on 1024, where fp16 has integers: as many go up as heads in four tosses of a coin."""
    a = torch.full((20000, 5), 0.5)
    a[:, 0] = 1024.0
    arguments = {"format": float_format("fp16"), "rounding": RoundingMode.STOCHASTIC, "seed": torch.tensor(0)}
    got = accumulated_matmul(a, torch.ones(5, 1), **arguments) - 1024
    shares = torch.bincount(got.flatten().int(), minlength=5) / len(got)
    torch.testing.assert_close(shares, torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16, atol=0.018, rtol=0)


def test_batches_broadcast_and_empty_sizes() -> None:
    a, b = torch.randn(2, 1, 3, 5), torch.randn(4, 5, 2)
    got = accumulated_matmul(a, b, format=float_format("fp32"), chunk=None)
    torch.testing.assert_close(got, a @ b)
    assert accumulated_matmul(torch.ones(0, 5), b[0], format=float_format("fp16")).shape == (0, 2)
    empty = accumulated_matmul(torch.ones(3, 0), torch.ones(0, 2), torch.full((2,), 0.1), format=float_format("bf16"))
    assert torch.equal(empty, torch.full((3, 2), 0.1).bfloat16().float())


@pytest.mark.parametrize(
    ("function", "shape", "kernel", "settings"),
    [
        (F.conv1d, (2, 4, 9), (3,), {"stride": (2,), "padding": (1,), "dilation": (2,), "groups": 2}),
        (F.conv2d, (2, 4, 7, 8), (3, 2), {"stride": (1, 2), "padding": (2, 0), "dilation": (1, 3), "groups": 1}),
        (F.conv2d, (2, 4, 7, 8), (2, 3), {"stride": (1, 1), "padding": "same", "dilation": (1, 2), "groups": 4}),
        (F.conv2d, (1, 2, 5, 5), (3, 3), {"stride": (2, 2), "padding": "valid", "dilation": (1, 1), "groups": 1}),
        (
            F.conv3d,
            (1, 4, 4, 5, 6),
            (2, 1, 3),
            {"stride": (1, 2, 1), "padding": (1, 0, 1), "dilation": (2, 1, 1), "groups": 2},
        ),
    ],
)
def test_patches(
    function: Callable[..., Tensor], shape: tuple[int, ...], kernel: tuple[int, ...], settings: dict[str, Any]
) -> None:
    generator = torch.Generator().manual_seed(0)
    groups = settings["groups"]
    x = torch.randint(-9, 9, shape, generator=generator).float()
    weight = torch.randint(-9, 9, (8, shape[1] // groups, *kernel), generator=generator).float()
    patches, spatial = convolution_patches(x, kernel, **settings)
    got = weight.reshape(1, groups, 8 // groups, -1) @ patches
    assert torch.equal(got.reshape(shape[0], 8, *spatial), function(x, weight, **settings))
