"""Ops that move integers and change none: shapes, orders, slices, look-ups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from quantsim_kernels.reference.integer.arithmetic import Integers, integers

__all__ = ["concatenate", "embedding", "expand", "pad", "reshape", "roll", "slice", "take", "transpose"]


def embedding(ids: npt.ArrayLike, *, table: npt.ArrayLike) -> Integers:
    """Rows of a table: ``table[ids]``.

    Args:
        ids: row numbers, of any shape.
        table: codes, shape ``(rows, ...)``.

    Raises:
        IndexError: an id is no row number.

    Example:
        >>> embedding([2, 0], table=[[1, 2], [3, 4], [5, 6]])
        array([[5, 6],
               [1, 2]])
    """
    rows, entries = integers(ids, "embedding(ids)"), integers(table, "embedding(table)")
    if rows.size and (int(rows.min()) < 0 or int(rows.max()) >= entries.shape[0]):
        raise IndexError(
            f"embedding(ids): got {rows.min()} to {rows.max()}, expected 0 to {entries.shape[0] - 1}, the table's rows"
        )
    return entries[rows]


def reshape(x: npt.ArrayLike, *, shape: Sequence[int]) -> Integers:
    """The same elements in row-major order, in another shape; one length may be -1.

    Example:
        >>> reshape([[1, 2], [3, 4]], shape=(4,))
        array([1, 2, 3, 4])
    """
    return integers(x, "reshape(x)").reshape(tuple(shape))


def transpose(x: npt.ArrayLike, *, order: Sequence[int]) -> Integers:
    """Dimensions in another order: dimension ``i`` of the result is ``order[i]`` of ``x``.

    Example:
        >>> transpose([[1, 2]], order=(1, 0))
        array([[1],
               [2]])
    """
    return np.transpose(integers(x, "transpose(x)"), tuple(order))


def slice(x: npt.ArrayLike, *, axis: int, start: int, stop: int | None, step: int = 1) -> Integers:
    """Every ``step``-th index of a dimension from ``start`` up to but without ``stop``, as Python slices.

    Example:
        >>> slice([0, 1, 2, 3, 4], axis=0, start=1, stop=None, step=2)
        array([1, 3])
    """
    codes = integers(x, "slice(x)")
    index = np.arange(codes.shape[axis])[start:stop:step]
    return np.take(codes, index, axis=axis)


def take(x: npt.ArrayLike, *, axis: int, indices: npt.ArrayLike) -> Integers:
    """Chosen indices of a dimension, in the given order; a single number removes the dimension.

    Example:
        >>> take([[1, 2, 3]], axis=1, indices=[2, 0]), take([[1, 2, 3]], axis=1, indices=1)
        (array([[3, 1]]), array([2]))
    """
    return np.take(integers(x, "take(x)"), integers(indices, "take(indices)"), axis=axis)


def concatenate(*xs: npt.ArrayLike, axis: int) -> Integers:
    """Tensors one after another along a dimension; all are on one grid.

    Example:
        >>> concatenate([[1, 2]], [[3]], axis=1)
        array([[1, 2, 3]])
    """
    return np.concatenate([integers(x, "concatenate(xs)") for x in xs], axis=axis)


def expand(x: npt.ArrayLike, *, shape: Sequence[int]) -> Integers:
    """Dimensions of length 1 repeated to the lengths of ``shape``; a length of -1 keeps the one that is there.

    Example:
        >>> expand([[1], [2]], shape=(-1, 2))
        array([[1, 1],
               [2, 2]])
    """
    codes = integers(x, "expand(x)")
    lengths = (1,) * (len(shape) - codes.ndim) + codes.shape
    wanted = tuple(have if want == -1 else want for want, have in zip(shape, lengths, strict=True))
    return np.ascontiguousarray(np.broadcast_to(codes, wanted))


def pad(x: npt.ArrayLike, *, widths: Sequence[Sequence[int]], value: int) -> Integers:
    """``value`` added ``(before, after)`` each dimension.

    Example:
        >>> pad([[1, 2]], widths=((0, 0), (1, 2)), value=-7)
        array([[-7,  1,  2, -7, -7]])
    """
    return np.pad(integers(x, "pad(x)"), [tuple(sides) for sides in widths], constant_values=value)


def roll(x: npt.ArrayLike, *, shifts: Sequence[int], axes: Sequence[int]) -> Integers:
    """Elements moved along dimensions; what leaves at the end comes back at the start.

    Example:
        >>> roll([1, 2, 3, 4], shifts=(1,), axes=(0,))
        array([4, 1, 2, 3])
    """
    return np.roll(integers(x, "roll(x)"), tuple(shifts), tuple(axes))
