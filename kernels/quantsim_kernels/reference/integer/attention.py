"""Softmax on integers, alone or with the product by the values: exponentials as tables, one division at the end."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quantsim_kernels.reference.integer.arithmetic import (
    Integers,
    exact_matmul,
    finish,
    integers,
    largest,
    require_int64,
    rounded_division,
    rounded_shift,
)

__all__ = ["exponential", "softmax", "softmax_matmul"]

_TABLE = 256


def exponential(
    x: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    *,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    exponential_high: npt.ArrayLike,
    exponential_low: npt.ArrayLike,
    exponential_shift: int,
    bias: npt.ArrayLike | None = None,
) -> Integers:
    """``exp(x - max)`` over the last dimension, as integers; the numerators of a softmax.

    With ``round`` half away from zero, in the units of the tables (``1 / u`` nat; ``u`` is 2048 unless they say more)::

        t = round(x * multiplier / 2^shift) + bias
        d = clamp(max(t, over what takes part) - t, 0, 65535)
        e = round(exponential_high[d >> 8] * exponential_low[d & 255] / 2^exponential_shift), 0 where masked

    Args:
        x: codes, shape ``(..., N)``; their zero point cancels.
        mask: booleans that broadcast to ``x``, True where an element takes part; ``None``: everywhere.
        multiplier: step of ``x`` times ``u``, times 2^shift.
        shift: 1 to 62.
        exponential_high: 256 entries, ``exp(-256 i / u)`` in a fixed point; see `exponential_tables`.
        exponential_low: 256 entries, ``exp(-j / u)`` in a fixed point.
        exponential_shift: leaves the wanted bits of the product of both.
        bias: integers that broadcast to ``x``, in units of ``1 / u`` nat, or ``None``.

    Returns:
        Shape of ``x``, broadcast with mask and bias.
    """
    codes = integers(x, "softmax(x)")
    limits = 2**62
    scores = finish(codes, multiplier, shift, 0, -limits, limits, None, "softmax")
    if bias is not None:
        addend = integers(bias, "softmax(bias)")
        require_int64(largest(scores) + largest(addend), "softmax")
        scores = scores + addend
    require_int64(2 * largest(scores), "softmax")
    taking_part = None if mask is None else _boolean(mask)
    if taking_part is not None:
        scores, taking_part = np.broadcast_arrays(scores, taking_part)
        lowest = int(scores.min()) if scores.size else 0
        peak = np.max(np.where(taking_part, scores, lowest), axis=-1, keepdims=True)
    else:
        peak = np.max(scores, axis=-1, keepdims=True)
    distance = np.clip(peak - scores, 0, _TABLE * _TABLE - 1)
    high, low = (
        integers(entries, f"softmax({name})")
        for entries, name in ((exponential_high, "exponential_high"), (exponential_low, "exponential_low"))
    )
    for entries, name in ((high, "exponential_high"), (low, "exponential_low")):
        if entries.shape != (_TABLE,):
            raise ValueError(f"softmax({name}): got shape {entries.shape}, expected ({_TABLE},)")
    result = rounded_shift(high[distance >> 8] * low[distance & 255], exponential_shift)
    return result if taking_part is None else np.where(taking_part, result, 0)


def softmax(
    x: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    *,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    exponential_high: npt.ArrayLike,
    exponential_low: npt.ArrayLike,
    exponential_shift: int,
    bias: npt.ArrayLike | None = None,
    result_multiplier: npt.ArrayLike,
    result_shift: int,
    zero_point: int,
    low: int,
    high: int,
) -> Integers:
    """Softmax over the last dimension: ``clamp(div(e * result_multiplier, sum(e) * 2^result_shift) + zero_point)``.

    ``e`` is `exponential`, ``div`` the division rounded half away from zero. A row of which nothing takes part is
    ``zero_point``.

    Args:
        x: see `exponential`, as the next seven.
        mask: which elements take part.
        multiplier: of the scores.
        shift: of the scores.
        exponential_high: table.
        exponential_low: table.
        exponential_shift: of the product of both tables.
        bias: added to the scores.
        result_multiplier: 1 over the step of the result, times 2^result_shift.
        result_shift: at least 0.
        zero_point: the integer of the result that stands for 0.
        low: smallest result.
        high: largest result.

    Example:
        >>> from quantsim_kernels.fixed_point import exponential_tables
        >>> tables = exponential_tables(8)._asdict()  # the step of x is 1: 2^11 units
        >>> result = {"result_multiplier": 255, "result_shift": 0, "zero_point": 0, "low": 0, "high": 255}
        >>> softmax([[0, 1, 9]], [[True, True, False]], multiplier=1 << 30, shift=19, **tables, **result)
        array([[ 69, 186,   0]])
    """
    e = exponential(
        x,
        mask,
        multiplier=multiplier,
        shift=shift,
        exponential_high=exponential_high,
        exponential_low=exponential_low,
        exponential_shift=exponential_shift,
        bias=bias,
    )
    return _divide(e, e, result_multiplier, result_shift, zero_point, low, high, "softmax")


def softmax_matmul(
    x: npt.ArrayLike,
    values: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    *,
    multiplier: npt.ArrayLike,
    shift: npt.ArrayLike,
    exponential_high: npt.ArrayLike,
    exponential_low: npt.ArrayLike,
    exponential_shift: int,
    bias: npt.ArrayLike | None = None,
    zero_point_values: int,
    result_multiplier: npt.ArrayLike,
    result_shift: int,
    zero_point: int,
    low: int,
    high: int,
) -> Integers:
    """Softmax times values: ``clamp(div(e @ (v - zv) * result_multiplier, sum(e) * 2^result_shift) + zero_point)``.

    Dividing last keeps small probabilities: with 8-bit numerators the error does not grow with the number of keys.

    Args:
        x: scores, shape ``(..., M, N)``; see `exponential`, as the six without a text.
        values: codes, shape ``(..., N, P)``.
        mask: which elements take part.
        multiplier: of the scores.
        shift: of the scores.
        exponential_high: table.
        exponential_low: table.
        exponential_shift: of the product of both tables.
        bias: added to the scores.
        zero_point_values: the integer of ``values`` that stands for 0.
        result_multiplier: step of the values over the result's, times 2^result_shift.
        result_shift: at least 0.
        zero_point: the integer of the result that stands for 0.
        low: smallest result.
        high: largest result.

    Returns:
        Shape ``(..., M, P)``.

    Example:
        >>> from quantsim_kernels.fixed_point import exponential_tables
        >>> tables = exponential_tables(8)._asdict()
        >>> grid = {"result_multiplier": 1, "result_shift": 0, "zero_point": 0, "low": -128, "high": 127}
        >>> rule = {"multiplier": 1 << 30, "shift": 19, **tables, "zero_point_values": 3, **grid}
        >>> softmax_matmul([[0, 0, 0, 0]], [[13], [23], [33], [43]], **rule)
        array([[25]])
    """
    e = exponential(
        x,
        mask,
        multiplier=multiplier,
        shift=shift,
        exponential_high=exponential_high,
        exponential_low=exponential_low,
        exponential_shift=exponential_shift,
        bias=bias,
    )
    codes = integers(values, "softmax_matmul(values)") - zero_point_values
    products = exact_matmul(e, codes, "softmax_matmul")
    return _divide(e, products, result_multiplier, result_shift, zero_point, low, high, "softmax_matmul")


def _boolean(mask: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    array = np.asarray(mask)
    if array.dtype != np.bool_:
        raise TypeError(f"softmax(mask): got dtype {array.dtype}, expected bool, True where an element takes part")
    return array


def _divide(
    e: Integers,
    numerator: Integers,
    multiplier: npt.ArrayLike,
    shift: int,
    zero_point: int,
    low: int,
    high: int,
    where: str,
) -> Integers:
    factor = integers(multiplier, f"{where}(result_multiplier)").reshape(())
    total = e.sum(axis=-1, keepdims=True)
    require_int64(largest(numerator) * largest(factor), where)
    require_int64(largest(total) << shift, where)
    # Rows without any weight have a numerator of 0 too.
    quotient = rounded_division(numerator * factor, np.maximum(total << shift, 1))
    return np.clip(quotient + zero_point, low, high)
