"""Softmax of integer scores and its product with integer values."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, cast

import torch
from torch import Tensor, nn

from quantsim.dualpath.integer_codes import integer_dtype
from quantsim.dualpath.integer_graph import Grid
from quantsim.dualpath.integer_ops import IntMatMul
from quantsim.dualpath.rescale import MulShift
from quantsim.errors import ConfigurationError
from quantsim_kernels.fixed_point import exponential_tables

__all__ = ["SCORE_STEP", "IntegerSoftmaxMatMul", "SoftmaxRule", "split_mask"]

SCORE_STEP: Final = 2.0**-11
"""Step of integer scores, in nats."""

_REACH: Final = 32.0
"""Scores that lie further below the largest have no weight: 65535 steps."""


_PEAK: Final = 255
"""The numerator of the largest score, and the code of probability 1."""


class SoftmaxRule(StrEnum):
    """How integer attention rounds probabilities."""

    UNNORMALIZED = "unnormalized"
    """``exp(x - max)`` is rounded to 8 bits, and the sum of what was rounded divides after the product."""
    ROUNDED_PROBABILITIES = "rounded_probabilities"
    """``round(255 p)``, as published; over many tokens most of it is 0 (14 % error at 197 tokens, 71 % at 2048)."""

    @classmethod
    def parse(cls, value: SoftmaxRule | str) -> SoftmaxRule:
        """The rule of that name.

        Raises:
            ConfigurationError: If there is none.
        """
        try:
            return cls(value)
        except ValueError:
            raise ConfigurationError(
                where="softmax_rule", got=repr(value), expected=" or ".join(repr(rule.value) for rule in cls)
            ) from None


def split_mask(mask: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """What of a mask says "takes part", and what is added to scores, in integer steps.

    Args:
        mask: Booleans, True where an element takes part; or numbers that are added to the scores, of which those of
            -32 and less leave an element out.

    Returns:
        Booleans or ``None``, and int32 numbers or ``None``.

    Example:
        >>> split_mask(torch.tensor([0.0, -0.5, -100.0]))
        (tensor([ True,  True, False]), tensor([    0, -1024,     0], dtype=torch.int32))
    """
    if mask is None or mask.dtype == torch.bool:
        return mask, None
    taking_part = mask > -_REACH
    added = torch.where(taking_part, mask, 0.0)
    steps = (added.double() / SCORE_STEP).round().to(torch.int32) if bool(added.any()) else None
    return taking_part, steps


class IntegerSoftmaxMatMul(nn.Module):
    """``softmax(scores) @ values`` on integers.

    Args:
        values: Grid of the values.
        output: Grid of the result.
        rescale: Rescales from steps of the values to those of the result.
        product: Multiplies probabilities and values under the rule ``rounded_probabilities``.
        rule: How probabilities are rounded.
    """

    exponential_high: Tensor
    exponential_low: Tensor

    def __init__(self, values: Grid, output: Grid, rescale: MulShift, product: IntMatMul, rule: SoftmaxRule) -> None:
        super().__init__()
        self.values, self.output, self.rule = values, output, rule
        rescale.inference(input_scale=float(values.scale), output_scale=float(output.scale))
        self._numbers = (abs(int(rescale.multiplier)), int(rescale.shift))
        # Of the attention module, not of this one: no second entry in its state.
        self.__dict__["_rescale"], self.__dict__["_product"] = rescale, product
        if rule is SoftmaxRule.ROUNDED_PROBABILITIES:
            product.zero_points = (0, values.zero_point)
            rescale.inference(input_scale=float(values.scale) / _PEAK, output_scale=float(output.scale))
        tables = exponential_tables(8)
        self.exponential_shift = tables.exponential_shift
        for name in ("exponential_high", "exponential_low"):
            table = torch.tensor(getattr(tables, name), device=rescale.multiplier.device)
            self.register_buffer(name, table, persistent=False)

    def forward(self, scores: Tensor, values: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Codes of the result.

        Args:
            scores: Integers in steps of `SCORE_STEP`, shape (..., M, N).
            values: Codes, shape (..., N, P).
            mask: Booleans that broadcast to the scores, True where an element takes part. A row of which nothing
                takes part gives 0.
            bias: Integers in steps of `SCORE_STEP` that broadcast to the scores.
        """
        from quantsim_kernels.torch import integer

        rescale, product = cast(MulShift, self._rescale), cast(IntMatMul, self._product)
        grid = {"zero_point": self.output.zero_point, "low": self.output.low, "high": self.output.high}
        softmax = {
            "multiplier": 2**30,  # scores are in these steps already
            "shift": 30,
            "exponential_high": self.exponential_high,
            "exponential_low": self.exponential_low,
            "exponential_shift": self.exponential_shift,
            "bias": bias,
        }
        dtype = integer_dtype(self.output.low, self.output.high)
        if self.rule is SoftmaxRule.UNNORMALIZED:
            self._require_int64(values.shape[-2])
            return integer.softmax_matmul(
                scores,
                values,
                mask,
                **softmax,
                zero_point_values=self.values.zero_point,
                result_multiplier=rescale.multiplier,
                result_shift=self._numbers[1],
                **grid,
            ).to(dtype)
        probabilities = integer.softmax(
            scores, mask, **softmax, result_multiplier=255, result_shift=0, zero_point=0, low=0, high=255
        )
        sums = product(probabilities.to(torch.uint8), values)
        return integer.requantize(sums, multiplier=rescale.multiplier, shift=rescale.shift, zero_point_in=0, **grid).to(
            dtype
        )

    def _require_int64(self, tokens: int) -> None:
        """Refuses so many tokens, or grids so far apart, that the division's operands could leave 64 bits."""
        reach = max(abs(self.values.low - self.values.zero_point), abs(self.values.high - self.values.zero_point))
        multiplier, shift = self._numbers
        bound = _PEAK * tokens * max(reach * multiplier, 1 << shift)
        if bound >= 2**62:
            raise ConfigurationError(
                "attention's sums could leave 64 bits",
                where=type(self).__name__,
                got=f"{tokens} tokens, values to {reach} steps, a multiplier of {multiplier} / 2^{shift}",
                expected="products below 2^62",
                fix="give values or result 8 bits, or the rescaler a narrower fixed-point format",
            )
