"""What each op computes, in one line, for readers of a chip folder who have no quantsim."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from quantsim.dualpath.integer_graph import IntegerOp

__all__ = ["WORDS", "formulas_of"]

_FORMULAS: Final[dict[IntegerOp, str]] = {
    IntegerOp.LINEAR: "put(x @ weight.T + bias); without multiplier the sum itself, int32",
    IntegerOp.CONVOLUTION: "put(convolution(x, weight) + bias), x padded with zero_point_in",
    IntegerOp.MATMUL: "put((a - zero_point_a) @ (b - zero_point_b))",
    IntegerOp.ADD: "clamp(round(((a - zero_point_a) * multiplier_a + (b - zero_point_b) * multiplier_b) / 2^shift) "
    "+ zero_point, low, high)",
    IntegerOp.MULTIPLY: "put((a - zero_point_a) * (b - zero_point_b))",
    IntegerOp.SCALE_SHIFT: "clamp(round(((x - zero_point_in) * multiplier + offset) / 2^shift) + zero_point, low, "
    "high), parameters along axis",
    IntegerOp.REQUANTIZE: "put(x - zero_point_in), parameters along axis",
    IntegerOp.TABLE: "table[x - first]",
    IntegerOp.CLAMP: "clamp(x, low, high)",
    IntegerOp.NEGATE: "total - x",
    IntegerOp.MEAN: "put(sum of (x - zero_point_in) over axes)",
    IntegerOp.AVERAGE_POOL: "put(sum of (x - zero_point_in) over the window), padding is zero_point_in",
    IntegerOp.MAX_POOL: "max over the window, padding is lowest",
    IntegerOp.LAYER_NORM: "N: length of the last axis; D = x * 2^mean_bits - divide(sum(x) * 2^mean_bits, N); "
    "R = max(1, floor(sqrt((sum(D * D) + epsilon) * 4^root_bits))); "
    "clamp(divide(D * gain + offset * R, R * 2^gain_bits) + zero_point, low, high)",
    IntegerOp.RMS_NORM: "D = x - zero_point_in; R = max(1, floor(sqrt((sum(D * D) + epsilon) * 4^root_bits))); "
    "clamp(divide(D * gain + offset * R, R * 2^gain_bits) + zero_point, low, high)",
    IntegerOp.SOFTMAX: "t = round(x * multiplier / 2^shift) + bias; d = clamp(max(t) - t, 0, 65535); "
    "e = round(exponential_high[d >> 8] * exponential_low[d & 255] / 2^exponential_shift), 0 where mask is 0; "
    "clamp(divide(e * result_multiplier, sum(e) * 2^result_shift) + zero_point, low, high); "
    "max and sum over the last axis, where mask is 1; a row without any is zero_point",
    IntegerOp.SOFTMAX_MATMUL: "e as in softmax; clamp(divide((e @ (values - zero_point_values)) * result_multiplier, "
    "sum(e) * 2^result_shift) + zero_point, low, high)",
    IntegerOp.EMBEDDING: "table[ids]",
    IntegerOp.RESHAPE: "the same integers in row-major order",
    IntegerOp.TRANSPOSE: "dimension i of the result is dimension order[i]",
    IntegerOp.SLICE: "every step-th index of axis from start up to but without stop",
    IntegerOp.TAKE: "the given indices of axis; a single one removes the axis",
    IntegerOp.CONCATENATE: "one after another along axis",
    IntegerOp.EXPAND: "dimensions of length 1 repeated",
    IntegerOp.PAD: "value added (before, after) each dimension",
    IntegerOp.ROLL: "moved by shifts along axes, around the end",
}
"""What each op computes; the functions of `quantsim_kernels.reference.integer` are the law."""

WORDS: Final[dict[str, str]] = {
    "put(s)": "clamp(round(s * multiplier / 2^shift) + zero_point, low, high); multiplier and shift are one number, or "
    "one for each output",
    "round(p / 2^shift)": "half away from zero: (p + 2^(shift - 1) - (p < 0 ? 1 : 0)) >> shift, arithmetic, 64 bits",
    "divide(n, d)": "half away from zero: sign(n) * ((abs(n) + floor(d / 2)) / d), 64 bits",
}
"""What the words of the formulas mean."""


def formulas_of(ops: Collection[IntegerOp]) -> dict[IntegerOp, str]:
    """The formulas of some ops, in the order of the enumeration.

    Example:
        >>> formulas_of([IntegerOp.TABLE])
        {<IntegerOp.TABLE: 'table'>: 'table[x - first]'}
    """
    return {op: _FORMULAS[op] for op in IntegerOp if op in ops}
