"""Ops on each element: requantization, sums, products, tables."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantsim_kernels.reference.integer.arithmetic import (
    Integers,
    along,
    finish,
    integers,
    largest,
    require_int64,
    rounded_shift,
)

__all__ = ["add", "clamp", "multiply", "negate", "requantize", "scale_shift", "table"]


def requantize(
    x: npt.ArrayLike,
    *,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    zero_point_in: int,
    zero_point: int,
    low: int,
    high: int,
    axis: int | None = None,
) -> Integers:
    """From one grid to another: ``clamp(round((x - zero_point_in) * multiplier / 2^shift) + zero_point)``.

    Args:
        x: integers of any shape.
        multiplier: one number, or one for each index of ``axis``.
        shift: likewise, 1 to 62.
        zero_point_in: the integer of ``x`` that stands for 0.
        zero_point: the integer of the result that stands for 0.
        low: smallest result.
        high: largest result.
        axis: dimension that multipliers and shifts run along.

    Example:
        >>> requantize(
        ...     [0, 3, 5, 255],
        ...     multiplier=1 << 30,
        ...     shift=31,
        ...     zero_point_in=0,
        ...     zero_point=-128,
        ...     low=-128,
        ...     high=127,
        ... )
        array([-128, -126, -125,    0])
    """
    codes = integers(x, "requantize(x)") - zero_point_in
    return finish(codes, multiplier, shift, zero_point, low, high, axis, "requantize")


def add(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    multiplier_a: npt.ArrayLike,
    multiplier_b: npt.ArrayLike,
    shift: npt.ArrayLike,
    zero_point_a: int,
    zero_point_b: int,
    zero_point: int,
    low: int,
    high: int,
) -> Integers:
    """Sum of two grids, rounded once: ``clamp(round(((a - za) Ma + (b - zb) Mb) / 2^shift) + zero_point)``.

    Args:
        a: integers; broadcasts with ``b``.
        b: integers.
        multiplier_a: step of ``a`` over the result's, times 2^shift.
        multiplier_b: likewise of ``b``.
        shift: of both multipliers, 1 to 62.
        zero_point_a: the integer of ``a`` that stands for 0.
        zero_point_b: likewise of ``b``.
        zero_point: likewise of the result.
        low: smallest result.
        high: largest result.

    Example:
        >>> steps = {"multiplier_a": 1 << 29, "multiplier_b": 1 << 30, "shift": 30}
        >>> add([3, 4], [1, -9], **steps, zero_point_a=0, zero_point_b=0, zero_point=0, low=-5, high=5)
        array([ 3, -5])
    """
    left, right = integers(a, "add(a)") - zero_point_a, integers(b, "add(b)") - zero_point_b
    scale_a = along(multiplier_a, None, 0, "add(multiplier_a)")
    scale_b = along(multiplier_b, None, 0, "add(multiplier_b)")
    require_int64(largest(left) * largest(scale_a) + largest(right) * largest(scale_b), "add")
    total = left * scale_a + right * scale_b
    return np.clip(rounded_shift(total, along(shift, None, 0, "add(shift)")) + zero_point, low, high)


def multiply(
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    *,
    zero_point_a: int,
    zero_point_b: int,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    zero_point: int,
    low: int,
    high: int,
) -> Integers:
    """Product of two grids: ``clamp(round((a - za) (b - zb) * multiplier / 2^shift) + zero_point)``.

    Args:
        a: integers; broadcasts with ``b``.
        b: integers.
        zero_point_a: the integer of ``a`` that stands for 0.
        zero_point_b: likewise of ``b``.
        multiplier: product of both steps over the result's, times 2^shift.
        shift: 1 to 62.
        zero_point: the integer of the result that stands for 0.
        low: smallest result.
        high: largest result.

    Example:
        >>> points = {"zero_point_a": 0, "zero_point_b": 1, "zero_point": 0}
        >>> multiply([4, -3], [5, 3], **points, multiplier=1 << 30, shift=31, low=-128, high=127)
        array([ 8, -3])
    """
    left, right = integers(a, "multiply(a)") - zero_point_a, integers(b, "multiply(b)") - zero_point_b
    require_int64(largest(left) * largest(right), "multiply")
    return finish(left * right, multiplier, shift, zero_point, low, high, None, "multiply")


def scale_shift(
    x: npt.ArrayLike,
    *,
    multiplier: npt.ArrayLike,
    offset: npt.ArrayLike,
    shift: npt.ArrayLike,
    axis: int,
    zero_point_in: int,
    zero_point: int,
    low: int,
    high: int,
) -> Integers:
    """An affine map of each channel: ``clamp(round(((x - zero_point_in) M_c + offset_c) / 2^shift_c) + zero_point)``.

    Args:
        x: integers of any shape.
        multiplier: one for each index of ``axis``, or one number; as the next two.
        offset: in steps of the result, times 2^shift.
        shift: 1 to 62.
        axis: dimension of the channels.
        zero_point_in: the integer of ``x`` that stands for 0.
        zero_point: likewise of the result.
        low: smallest result.
        high: largest result.

    Example:
        >>> channels = {
        ...     "multiplier": [1 << 30, -(1 << 30)],
        ...     "offset": [0, 1 << 32],
        ...     "shift": [30, 30],
        ...     "axis": 1,
        ... }
        >>> scale_shift([[5, 5], [7, 7]], **channels, zero_point_in=0, zero_point=0, low=-128, high=127)
        array([[ 5, -1],
               [ 7, -3]])
    """
    codes = integers(x, "scale_shift(x)") - zero_point_in
    factor = along(multiplier, axis, codes.ndim, "scale_shift(multiplier)")
    addend = along(offset, axis, codes.ndim, "scale_shift(offset)")
    places = along(shift, axis, codes.ndim, "scale_shift(shift)")
    require_int64(largest(codes) * largest(factor) + largest(addend), "scale_shift")
    return np.clip(rounded_shift(codes * factor + addend, places) + zero_point, low, high)


def table(x: npt.ArrayLike, *, table: npt.ArrayLike, first: int) -> Integers:
    """Any function of one operand, tabulated: ``table[x - first]``.

    Args:
        x: integers from ``first`` to ``first + len(table) - 1``.
        table: the results.
        first: the operand that the table starts with.

    Raises:
        IndexError: an operand has no entry.

    Example:
        >>> table([-2, 1], table=[4, 1, 0, 1], first=-2)
        array([4, 1])
    """
    entries, index = integers(table, "table(table)"), integers(x, "table(x)") - first
    if index.size and (int(index.min()) < 0 or int(index.max()) >= entries.shape[0]):
        raise IndexError(
            f"table(x): got {index.min() + first} to {index.max() + first}, expected {first} to "
            f"{first + entries.shape[0] - 1}, the operands in the table"
        )
    return entries[index]


def clamp(x: npt.ArrayLike, *, low: int, high: int) -> Integers:
    """``x``, at least ``low`` and at most ``high``; ReLU and its like on a grid that does not change.

    Example:
        >>> clamp([-3, 4, 9], low=0, high=6)
        array([0, 4, 6])
    """
    return np.clip(integers(x, "clamp(x)"), low, high)


def negate(x: npt.ArrayLike, *, total: int) -> Integers:
    """``total - x``: minus ``x``, with ``total`` the sum of both zero points.

    Example:
        >>> negate([0, 128, 255], total=255)
        array([255, 127,   0])
    """
    return total - integers(x, "negate(x)")
