"""Linear layers, convolutions and matrix products on integers: exact sums, rounded once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from quantsim_kernels.reference.integer.arithmetic import Integers, exact_matmul, finish, integers, windows

__all__ = ["convolution", "linear", "matmul"]


def linear(
    x: npt.ArrayLike,
    *,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike,
    multiplier: npt.ArrayLike | None = None,
    shift: npt.ArrayLike | None = None,
    zero_point: int = 0,
    low: int = -(2**31),
    high: int = 2**31 - 1,
) -> Integers:
    """``x @ weight.T + bias``, put on the grid of the result.

    Args:
        x: codes, shape ``(..., I)``; its zero point is in the bias.
        weight: symmetric codes, shape ``(O, I)``.
        bias: shape ``(O,)``, in steps of the sum: ``round(b / (step_x step_w)) - zero_point_x * weight.sum(1)``.
        multiplier: one number or one for each output, shape ``(O,)``; ``None``: the sums are returned as they are.
        shift: likewise, 1 to 62.
        zero_point: the integer of the result that stands for 0.
        low: smallest result.
        high: largest result.

    Returns:
        Shape ``(..., O)``.

    Example:
        >>> layer = {"weight": [[1, 2], [3, -4]], "bias": [10, 0]}
        >>> linear([[5, 6]], **layer)
        array([[27, -9]])
        >>> linear([[5, 6]], **layer, multiplier=[1 << 30] * 2, shift=[31, 32], zero_point=3, low=0, high=255)
        array([[17,  1]])
    """
    codes, factors, addend = (
        integers(value, f"linear({name})") for value, name in ((x, "x"), (weight, "weight"), (bias, "bias"))
    )
    accumulator = exact_matmul(codes, factors.T, "linear") + addend
    if multiplier is None or shift is None:
        return accumulator
    return finish(accumulator, multiplier, shift, zero_point, low, high, accumulator.ndim - 1, "linear")


def convolution(
    x: npt.ArrayLike,
    *,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike,
    multiplier: npt.ArrayLike | None = None,
    shift: npt.ArrayLike | None = None,
    zero_point_in: int = 0,
    zero_point: int = 0,
    low: int = -(2**31),
    high: int = 2**31 - 1,
    stride: Sequence[int],
    padding: Sequence[Sequence[int]],
    dilation: Sequence[int],
    groups: int = 1,
) -> Integers:
    """A convolution over one or more spatial dimensions, put on the grid of the result.

    Args:
        x: codes, shape ``(N, I, *spatial)``.
        weight: symmetric codes, shape ``(O, I / groups, *kernel)``.
        bias: shape ``(O,)``, in steps of the sum, less ``zero_point_in`` times the sum of the weights.
        multiplier: one number or one for each output channel; ``None``: the sums are returned as they are.
        shift: likewise, 1 to 62.
        zero_point_in: the integer of ``x`` that stands for 0: what the padding holds.
        zero_point: the integer of the result that stands for 0.
        low: smallest result.
        high: largest result.
        stride: one number for each spatial dimension.
        padding: ``(before, after)`` for each spatial dimension.
        dilation: one number for each spatial dimension.
        groups: groups of channels.

    Returns:
        Shape ``(N, O, *positions)``.

    Example:
        >>> sizes = {"stride": (1,), "padding": ((1, 0),), "dilation": (1,)}
        >>> convolution([[[5, 7, 9]]], weight=[[[1, 2]]], bias=[-12], zero_point_in=4, **sizes)
        array([[[ 2,  7, 13]]])
    """
    codes, factors, addend = (
        integers(value, f"convolution({name})") for value, name in ((x, "x"), (weight, "weight"), (bias, "bias"))
    )
    kernel = factors.shape[2:]
    rank = len(kernel)
    view = windows(codes, kernel, stride, padding, dilation, zero_point_in)
    positions = view.shape[2 : 2 + rank]
    # (N, groups, positions, K) times (groups, K, O / groups); K runs over the channels, then over the kernel.
    patches = view.reshape(view.shape[0], groups, view.shape[1] // groups, *view.shape[2:])
    patches = np.moveaxis(patches, 2, 2 + rank)
    patches = patches.reshape(view.shape[0], groups, math.prod(positions), math.prod(factors.shape[1:]))
    matrix = factors.reshape(groups, -1, math.prod(factors.shape[1:])).transpose(0, 2, 1)
    sums = exact_matmul(patches, matrix, "convolution").transpose(0, 1, 3, 2)
    sums = sums.reshape(view.shape[0], factors.shape[0], *positions)
    accumulator = sums + addend.reshape(-1, *(1,) * rank)
    if multiplier is None or shift is None:
        return accumulator
    return finish(accumulator, multiplier, shift, zero_point, low, high, 1, "convolution")


def matmul(
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
    """``(a - zero_point_a) @ (b - zero_point_b)``, put on the grid of the result; leading dimensions broadcast.

    Args:
        a: codes, shape ``(..., M, K)``.
        b: codes, shape ``(..., K, N)``.
        zero_point_a: the integer of ``a`` that stands for 0.
        zero_point_b: likewise of ``b``.
        multiplier: product of both steps over the result's, times 2^shift.
        shift: 1 to 62.
        zero_point: the integer of the result that stands for 0.
        low: smallest result.
        high: largest result.

    Example:
        >>> grid = {"multiplier": 1 << 30, "shift": 30, "zero_point": 0, "low": -128, "high": 127}
        >>> matmul([[1, 2]], [[3], [4]], zero_point_a=1, zero_point_b=-1, **grid)
        array([[5]])
    """
    left, right = integers(a, "matmul(a)") - zero_point_a, integers(b, "matmul(b)") - zero_point_b
    accumulator = exact_matmul(left, right, "matmul")
    return finish(accumulator, multiplier, shift, zero_point, low, high, None, "matmul")
