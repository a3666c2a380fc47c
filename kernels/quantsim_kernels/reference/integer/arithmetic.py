"""Rounded shifts and divisions, floor square roots, exact products: what every integer op is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = [
    "Integers",
    "along",
    "exact_matmul",
    "finish",
    "integers",
    "largest",
    "require_int64",
    "require_shift",
    "rounded_division",
    "rounded_shift",
    "square_root",
    "windows",
]

Integers = npt.NDArray[np.int64]
"""An array of int64."""

_EXACT_FLOAT64 = 2**53
_MAX_SHIFT = 62


def integers(values: npt.ArrayLike, where: str) -> Integers:
    """``values`` as int64.

    Raises:
        TypeError: they are no integers (booleans are none either).
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{where}: got dtype {array.dtype}, expected integers")
    if array.dtype == np.uint64:
        raise TypeError(f"{where}: got dtype uint64, which int64 does not hold; expected a signed or narrower type")
    return array.astype(np.int64, copy=False)


def largest(values: npt.ArrayLike) -> int:
    """The largest magnitude, as a Python integer; 0 of nothing."""
    array = np.asarray(values)
    return max(abs(int(array.min())), abs(int(array.max()))) if array.size else 0


def require_int64(bound: int, where: str) -> None:
    """Refuses intermediates up to ``bound`` that int64 does not hold.

    Raises:
        OverflowError: ``bound`` is 2^63 or more.
    """
    if bound >= 2**63:
        raise OverflowError(
            f"{where}: an intermediate may reach {bound} (2^{bound.bit_length()}), expected less than 2^63; "
            "use fewer bits for the codes or the multiplier"
        )


def require_shift(shift: npt.ArrayLike, where: str) -> Integers:
    """``shift`` as int64, each from 1 to 62.

    Raises:
        ValueError: one lies outside.
    """
    shifts = integers(shift, f"{where}(shift)")
    if shifts.size and (int(shifts.min()) < 1 or int(shifts.max()) > _MAX_SHIFT):
        raise ValueError(f"{where}(shift): got {shifts.min()} to {shifts.max()}, expected 1 to {_MAX_SHIFT}")
    return shifts


def rounded_shift(values: npt.ArrayLike, shift: npt.ArrayLike) -> Integers:
    """``values / 2^shift``, rounded half away from zero: ``(p + 2^(shift-1) - (p < 0)) >> shift``.

    Args:
        values: integers of any shape.
        shift: from 1 to 62; broadcasts.

    Raises:
        OverflowError: ``values + 2^(shift-1)`` may leave int64.
        ValueError: a shift lies outside 1 to 62.

    Example:
        >>> rounded_shift([5, 6, 7, -5, -6, -7], 2).tolist()
        [1, 2, 2, -1, -2, -2]
    """
    products, shifts = integers(values, "rounded_shift(values)"), require_shift(shift, "rounded_shift")
    require_int64(largest(products) + (1 << max(largest(shifts) - 1, 0)), "rounded_shift")
    half = np.left_shift(np.int64(1), shifts - 1)
    return np.right_shift(products + half - (products < 0), shifts)


def rounded_division(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Integers:
    """``numerator / denominator``, rounded half away from zero.

    Args:
        numerator: integers of any shape.
        denominator: positive integers; broadcasts.

    Raises:
        ValueError: a denominator is not positive.
        OverflowError: ``|numerator| + denominator / 2`` may leave int64.

    Example:
        >>> rounded_division([5, -5, 4, -7], [2, 2, 3, 3]).tolist()
        [3, -3, 1, -2]
    """
    n, d = integers(numerator, "rounded_division(numerator)"), integers(denominator, "rounded_division(denominator)")
    if d.size and int(d.min()) <= 0:
        raise ValueError(f"rounded_division(denominator): got {d.min()}, expected positive numbers")
    require_int64(largest(n) + largest(d) // 2, "rounded_division")
    return np.sign(n) * ((np.abs(n) + d // 2) // d)


def square_root(values: npt.ArrayLike) -> Integers:
    """Floor of the square root, exactly. Hardware finds it by Newton's method, or bit by bit.

    Args:
        values: integers of at least 0.

    Raises:
        ValueError: a number is negative.

    Example:
        >>> square_root([0, 1, 3, 4, 2**62 - 1]).tolist()
        [0, 1, 1, 2, 2147483647]
    """
    n = integers(values, "square_root(values)")
    if n.size and int(n.min()) < 0:
        raise ValueError(f"square_root(values): got {n.min()}, expected at least 0")
    # float64's root of a rounded number is at most 1 off. The largest root in int64 has a square that int64 holds.
    root = np.minimum(np.sqrt(n.astype(np.float64)).astype(np.int64), math.isqrt(2**63 - 1))
    root -= root * root > n
    # (root + 1)^2 <= n without leaving int64.
    return root + (n - root * root > 2 * root)


def exact_matmul(a: Integers, b: Integers, where: str) -> Integers:
    """``a @ b`` without any rounding, broadcasting over leading dimensions.

    Raises:
        OverflowError: a sum may leave int64.
    """
    bound = largest(a) * largest(b) * a.shape[-1]
    require_int64(bound, where)
    if bound < _EXACT_FLOAT64:
        # Every partial sum, in whatever order, is an integer that float64 holds; NumPy has fast products of those only.
        return np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(np.int64)
    return np.matmul(a, b)


def along(values: npt.ArrayLike, axis: int | None, rank: int, where: str) -> Integers:
    """A parameter for each index of ``axis``, shaped so that it broadcasts; a single number as it is.

    Raises:
        ValueError: it has more dimensions than one, or no axis is given.
    """
    array = integers(values, where)
    if array.size == 1:
        return array.reshape(())
    if array.ndim != 1 or axis is None:
        raise ValueError(f"{where}: got shape {array.shape} with axis {axis}, expected one number, or one each of axis")
    shape = [1] * rank
    shape[axis] = -1
    return array.reshape(shape)


def finish(
    accumulator: Integers,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    zero_point: int,
    low: int,
    high: int,
    axis: int | None,
    where: str,
) -> Integers:
    """``clamp(round_half_away(accumulator * multiplier / 2^shift) + zero_point, low, high)``."""
    factor = along(multiplier, axis, accumulator.ndim, f"{where}(multiplier)")
    places = along(shift, axis, accumulator.ndim, f"{where}(shift)")
    require_int64(largest(accumulator) * largest(factor), where)
    return np.clip(rounded_shift(accumulator * factor, places) + zero_point, low, high)


def windows(
    x: Integers,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int],
    value: int,
) -> Integers:
    """The window of each position: from ``(N, C, *spatial)`` to ``(N, C, *positions, *kernel)``.

    Args:
        x: the images.
        kernel: size of the window, one number for each spatial dimension, as the next three.
        stride: distance of the positions.
        padding: how much to add ``(before, after)`` each dimension.
        dilation: distance of the elements in a window.
        value: what the padding holds.
    """
    rank = len(kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *(tuple(sides) for sides in padding)], constant_values=value)
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]
    axes = tuple(range(2, 2 + rank))
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=axes)
    steps = tuple(np.s_[:: stride[axis]] for axis in range(rank))
    gaps = tuple(np.s_[:: dilation[axis]] for axis in range(rank))
    return view[(np.s_[:], np.s_[:], *steps, *gaps)]
