"""Means and poolings on integers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from quantsim_kernels.reference.integer.arithmetic import Integers, finish, integers, largest, require_int64, windows

__all__ = ["average_pool", "max_pool", "mean"]


def mean(
    x: npt.ArrayLike,
    *,
    axes: Sequence[int],
    keepdim: bool,
    zero_point_in: int,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    zero_point: int,
    low: int,
    high: int,
) -> Integers:
    """Mean over some dimensions: the sum of ``x - zero_point_in``, put on the grid of the result.

    Args:
        x: codes of any shape.
        axes: dimensions that are averaged over.
        keepdim: whether these stay, with length 1.
        zero_point_in: the integer of ``x`` that stands for 0.
        multiplier: step of ``x`` over the result's and over the number of summands, times 2^shift.
        shift: 1 to 62.
        zero_point: the integer of the result that stands for 0.
        low: smallest result.
        high: largest result.

    Example:
        >>> grid = {"multiplier": 1 << 30, "shift": 32, "zero_point": 1, "low": -128, "high": 127}
        >>> mean([[1, 2, 3, 8]], axes=(1,), keepdim=False, zero_point_in=0, **grid)
        array([5])
    """
    codes = integers(x, "mean(x)") - zero_point_in
    require_int64(largest(codes) * codes.size, "mean")
    total = np.asarray(codes.sum(axis=tuple(axes), keepdims=keepdim), np.int64)
    return finish(total, multiplier, shift, zero_point, low, high, None, "mean")


def average_pool(
    x: npt.ArrayLike,
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[Sequence[int]],
    zero_point_in: int,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    zero_point: int,
    low: int,
    high: int,
) -> Integers:
    """Average pooling; what is padded counts as 0, and among the number of elements.

    Args:
        x: codes, shape ``(N, C, *spatial)``.
        kernel: one number for each spatial dimension.
        stride: likewise.
        padding: ``(before, after)`` for each spatial dimension.
        zero_point_in: the integer of ``x`` that stands for 0.
        multiplier: step of ``x`` over the result's and over the kernel's elements, times 2^shift.
        shift: 1 to 62.
        zero_point: the integer of the result that stands for 0.
        low: smallest result.
        high: largest result.

    Example:
        >>> grid = {"multiplier": 1 << 30, "shift": 31, "zero_point": 0, "low": -128, "high": 127}
        >>> average_pool([[[1, 4, 6, 7]]], kernel=(2,), stride=(2,), padding=((0, 0),), zero_point_in=0, **grid)
        array([[[3, 7]]])
    """
    codes = integers(x, "average_pool(x)") - zero_point_in
    view = windows(codes, kernel, stride, padding, (1,) * len(kernel), 0)
    total = np.asarray(view.sum(axis=tuple(range(-len(kernel), 0))), np.int64)
    return finish(total, multiplier, shift, zero_point, low, high, None, "average_pool")


def max_pool(
    x: npt.ArrayLike,
    *,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int],
    lowest: int,
) -> Integers:
    """Max pooling on a grid that stays; what is padded holds ``lowest``.

    Args:
        x: codes, shape ``(N, C, *spatial)``.
        kernel: one number for each spatial dimension.
        stride: likewise.
        padding: ``(before, after)`` for each spatial dimension.
        dilation: one number for each spatial dimension.
        lowest: the smallest code of the grid.

    Example:
        >>> sizes = {"kernel": (2,), "stride": (2,), "padding": ((1, 1),), "dilation": (1,)}
        >>> max_pool([[[-5, 4, 6, -7]]], **sizes, lowest=-128)
        array([[[-5,  6, -7]]])
    """
    view = windows(integers(x, "max_pool(x)"), kernel, stride, padding, dilation, lowest)
    return np.asarray(view.max(axis=tuple(range(-len(kernel), 0))), np.int64)
