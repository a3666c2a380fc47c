"""The definition of block formats: scales by hand and against exact fractions, and special blocks."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from quantsim_encodings.formats import (
    FloatFormat,
    IntFormat,
    MXFormat,
    MXScaleRule,
    NanEncoding,
    NVFP4Format,
    block_format,
    float_format,
    mx_format,
)
from quantsim_kernels.reference import mx
from quantsim_kernels.reference.float_cast import float_cast

ELEMENTS = [
    float_format("e4m3fn"),
    float_format("e5m2"),
    float_format("e2m1"),
    IntFormat(-128, 127),
    IntFormat(-7, 7),
    IntFormat(0, 255),
    FloatFormat(2, 1, bias=9, has_infinity=False, nan=NanEncoding.NONE),
]


def floor_log2(number: Fraction) -> int:
    """By comparison with powers of two, which are exact."""
    exponent = number.numerator.bit_length() - number.denominator.bit_length()
    return exponent if number >= Fraction(2) ** exponent else exponent - 1


def exponent_by_fractions(amax: float, format: MXFormat) -> int:
    """The rules as their names say them, in rational arithmetic."""
    element = format.element
    if isinstance(element, IntFormat):
        largest, fraction_bits = Fraction(element.qmax, 2 ** (element.bits - 2)), element.bits - 2
    else:
        largest, fraction_bits = Fraction(element.max), element.mantissa_bits
    if amax == 0:
        return -127
    number = Fraction(2**128) if math.isinf(amax) else Fraction(amax)
    emax, floor = floor_log2(largest), floor_log2(number)
    if format.scale_rule is MXScaleRule.FLOOR:
        exponent = floor - emax
    elif format.scale_rule is MXScaleRule.CEIL:
        exponent = floor + (number != Fraction(2) ** floor) - emax
    elif format.scale_rule is MXScaleRule.EVEN:
        quantum = Fraction(2) ** (floor - fraction_bits)
        steps = (number / quantum + Fraction(1, 2)).__floor__()
        exponent = floor_log2(steps * quantum) - emax
    else:
        exponent = floor - emax - 1
        while number > largest * Fraction(2) ** exponent:
            exponent += 1
    return max(-127, min(127, exponent))


@pytest.mark.parametrize("rule", list(MXScaleRule))
@pytest.mark.parametrize("element", ELEMENTS, ids=str)
def test_shared_exponents_of_every_binade(element: FloatFormat | IntFormat, rule: MXScaleRule) -> None:
    format = MXFormat(element, scale_rule=rule)
    significands = torch.tensor(
        [1.0, 1.0 + 2**-23, 1.25, 1.5, 1.75, 1.75 + 2**-22, 1.875, 1.984375, 1.9921875, 2 - 2**-23]
    )
    largest = float_format("fp32").max
    maximum = torch.cat([(significands.double() * 2.0**e).float() for e in range(-149, 128)])
    maximum = torch.cat([maximum.clamp(max=largest), torch.tensor([0.0, math.inf])])
    expected = [exponent_by_fractions(number, format) for number in maximum.tolist()]
    assert mx.shared_exponent(maximum, format).tolist() == expected
    assert mx.shared_exponent(maximum.double(), format).tolist() == expected


def test_float64_maxima_beyond_float32() -> None:
    exponents = mx.shared_exponent(torch.tensor([1e300, 5e-324, math.inf], dtype=torch.float64), mx_format("mxfp4"))
    assert exponents.tolist() == [127, -127, 126]


def test_integer_elements_are_the_numbers_of_a_float_format() -> None:
    for element in (IntFormat(-128, 127), IntFormat(-7, 7), IntFormat(0, 255), IntFormat(-8, 7), IntFormat(-2, 1)):
        grid = mx.element_grid(element)
        steps = torch.arange(element.qmin, element.qmax + 1, dtype=torch.float64) * 2.0 ** -(element.bits - 2)
        assert torch.equal(float_cast(steps, grid.format), steps)
        halves = steps[:-1] + 2.0 ** -(element.bits - 1)
        rounded = float_cast(halves, grid.format)
        assert torch.equal(rounded * 2.0 ** (element.bits - 2), (halves * 2.0 ** (element.bits - 2)).round())
        assert (grid.low, grid.high) == (steps[0].item(), steps[-1].item())


def test_special_blocks() -> None:
    format = MXFormat(float_format("e4m3fn"), 2)
    x = torch.tensor([0.0, -0.0, math.nan, 1.0, math.inf, 1.0, -math.inf, 3e38, 2.0**-149, -(2.0**-130)])
    y = mx.quantize_dequantize(x, format)
    assert y[:2].tolist() == [0.0, 0.0]
    assert y[:2].signbit().tolist() == [False, True]
    assert y[2:4].isnan().all()
    assert y[4:6].tolist() == [math.inf, 0.0]
    assert y[6].item() == -math.inf
    # An infinity counts as 2**128, so a number of the top binade keeps its top three bits.
    assert y[7].item() == 1.75 * 2.0**127
    assert y[8:].tolist() == [0.0, -(2.0**-130)]


def test_nvfp4_scales() -> None:
    two, one = NVFP4Format(), NVFP4Format(two_level=False)
    x = torch.tensor([[2688.0 * 4, 1.0], [math.nan, math.inf]])
    assert mx.nvfp4_tensor_scale(x, two).item() == 4.0
    assert mx.nvfp4_tensor_scale(torch.zeros(3), two).item() == 1.0
    assert mx.nvfp4_tensor_scale(torch.tensor([math.inf]), two).item() == 1.0
    assert mx.nvfp4_tensor_scale(torch.tensor([1e-42]), two).item() == 2.0**-126
    assert mx.nvfp4_tensor_scale(torch.tensor([1e300], dtype=torch.float64), two).isfinite()
    assert mx.nvfp4_tensor_scale(torch.empty(0), two).item() == 1.0
    maximum = torch.tensor([6.0, 6 * 448.0, 1e30, math.inf, 6 * 2.0**-11, 0.0, 6 * 2.0**-8])
    scales = mx.nvfp4_block_scale(maximum, one, None)
    assert scales.tolist() == [1.0, 448.0, 448.0, 448.0, 2.0**-9, 2.0**-9, 2.0**-8]
    assert mx.nvfp4_block_scale(torch.tensor([math.nan]), one, None).isnan().all()


def test_a_nan_stays_in_its_block_and_a_zero_tensor_is_zero() -> None:
    x = torch.ones(3, 16)
    x[1, 4] = math.nan
    y = mx.quantize_dequantize(x, block_format("nvfp4"))
    assert y[1].isnan().all()
    assert torch.equal(y[[0, 2]], torch.ones(2, 16))
    assert torch.equal(mx.quantize_dequantize(torch.zeros(2, 16), block_format("nvfp4")), torch.zeros(2, 16))


def test_blocks_are_found_and_spread_again() -> None:
    x = torch.arange(10.0).reshape(2, 5)
    maximum = mx.block_maximum(x, 2, 1)
    assert maximum.tolist() == [[1.0, 3.0, 4.0], [6.0, 8.0, 9.0]]
    assert mx.spread_over_blocks(maximum, 2, 1, 5).tolist()[0] == [1.0, 1.0, 3.0, 3.0, 4.0]
    assert mx.block_maximum(x, 3, 0).tolist() == [[5.0, 6.0, 7.0, 8.0, 9.0]]
