"""Integer softmax times values: its error at many tokens, its masks, its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from quantsim.dualpath import IntMatMul, MulShift, SoftmaxRule, dequantize
from quantsim.dualpath.integer_graph import Grid
from quantsim.dualpath.integer_softmax import SCORE_STEP, IntegerSoftmaxMatMul, split_mask
from quantsim.errors import ConfigurationError

VALUES = Grid(0.01, 0, -128, 127)
FINE = Grid(0.01 / 256, 0, -(2**15), 2**15 - 1)


def product(output: Grid = FINE, rule: SoftmaxRule = SoftmaxRule.UNNORMALIZED, values: Grid = VALUES):
    return IntegerSoftmaxMatMul(values, output, MulShift(), IntMatMul(), rule)


def operands(tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 16, tokens, generator=generator)
    steps = (scores / SCORE_STEP).round().to(torch.int32)
    return steps, torch.randint(-128, 128, (2, tokens, 8), generator=generator).to(torch.int8)


def relative_error(tokens: int, rule: SoftmaxRule) -> float:
    steps, values = operands(tokens)
    values = (values // 4 + 60).to(torch.int8)  # averages that do not vanish
    exact = (steps.double() * SCORE_STEP).softmax(-1) @ (values.double() * VALUES.scale)
    found = dequantize(product(rule=rule)(steps, values), FINE)
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("tokens", [17, 197, 512, 2048])
def test_the_error_does_not_grow_with_the_tokens(tokens: int) -> None:
    assert relative_error(tokens, SoftmaxRule.UNNORMALIZED) <= 0.015


def test_rounded_probabilities_stay_available_with_their_error() -> None:
    assert relative_error(17, SoftmaxRule.ROUNDED_PROBABILITIES) < 0.03
    assert relative_error(2048, SoftmaxRule.ROUNDED_PROBABILITIES) > 0.5
    assert SoftmaxRule.parse("rounded_probabilities") is SoftmaxRule.ROUNDED_PROBABILITIES
    with pytest.raises(ConfigurationError, match="unnormalized"):
        SoftmaxRule.parse("published")


def test_probabilities_are_no_zeros() -> None:
    steps, values = operands(2048)
    assert int(product()(steps, torch.full_like(values, 100)).min()) >= 100 * 256 - 256


@pytest.mark.parametrize("zero_point", [0, 100])
def test_masked_elements_take_no_part(zero_point: int) -> None:
    grid = Grid(0.01, zero_point, 0, 255)
    steps = torch.zeros(1, 2, 4, dtype=torch.int32)
    values = torch.tensor([[[110], [120], [200], [250]]], dtype=torch.uint8)
    mask = torch.tensor([[[True, True, False, False], [False, False, False, False]]])
    result = product(Grid(0.01, 7, 0, 255), values=grid)(steps, values, mask)
    assert result.flatten().tolist() == [115 - zero_point + 7, 7]


def test_a_bias_shifts_scores() -> None:
    steps = torch.zeros(1, 1, 2, dtype=torch.int32)
    values = torch.tensor([[[0], [100]]], dtype=torch.int8)
    bias = torch.tensor([0, round(math.log(3) / SCORE_STEP)], dtype=torch.int32)
    found = float(dequantize(product()(steps, values, None, bias), FINE).flatten()[0])
    assert found == pytest.approx(0.75, rel=0.005)


def test_masks_are_split_into_who_takes_part_and_what_is_added() -> None:
    lowest = torch.finfo(torch.float32).min
    taking_part, added = split_mask(torch.tensor([0.0, 1.0, -1.5, -math.inf, lowest, -100.0]))
    assert taking_part is not None
    assert added is not None
    assert taking_part.tolist() == [True, True, True, False, False, False]
    assert np.array_equal(added.numpy(), [0, 2048, -3072, 0, 0, 0])
    assert split_mask(torch.tensor([0.0, lowest]))[1] is None
    booleans = torch.tensor([True, False])
    assert split_mask(booleans) == (booleans, None)
    assert split_mask(None) == (None, None)


def test_sums_that_could_leave_64_bits_are_refused() -> None:
    wide = Grid(1.0, 0, -(2**15), 2**15 - 1)
    with pytest.raises(ConfigurationError, match="64 bits"):
        product(Grid(1.0, 0, -(2**15), 2**15 - 1), values=wide)(
            torch.zeros(1, 1, 4096, dtype=torch.int32), torch.zeros(1, 4096, 1, dtype=torch.int16)
        )
