"""Real ratios as integer multipliers and shifts, and the tables of integer softmax: how integer graphs get numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "ExponentialTables",
    "common_fixed_point",
    "exponential_tables",
    "fixed_point",
    "fixed_point_width",
]

_MAX_SHIFT = 62
_TABLE = 256
_TABLE_BITS = 15


class ExponentialTables(NamedTuple):
    """Tables of ``exp(-d / 2048)`` for ``d`` from 0 to 65535, in the names of `quantsim_kernels.reference.integer`.

    Attributes:
        exponential_high: for ``d >> 8``, int64.
        exponential_low: for ``d & 255``, int64.
        exponential_shift: what the product of both is shifted by.
    """

    exponential_high: npt.NDArray[np.int64]
    exponential_low: npt.NDArray[np.int64]
    exponential_shift: int


def fixed_point(
    ratio: npt.ArrayLike, bits: int = 31, *, max_shift: int = _MAX_SHIFT
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Normalised multiplier and shift: ``ratio`` is ``multiplier / 2^shift`` to ``bits`` significant bits.

    Args:
        ratio: finite real numbers of any shape and sign, below 2^(bits - 1).
        bits: significant bits of the multiplier, 2 to 31.
        max_shift: ratios so small that they would need more keep fewer bits, with this shift.

    Returns:
        int64 multiplier, its magnitude in [2^(bits-1), 2^bits) or 0, and int64 shift from 1 to ``max_shift``, both in
        the shape of ``ratio``.

    Raises:
        ValueError: a ratio is not finite or too large, or ``bits`` or ``max_shift`` is out of range.

    Example:
        >>> multiplier, shift = fixed_point(0.3)
        >>> int(multiplier), int(shift), float(multiplier / 2.0**shift)
        (1288490189, 32, 0.30000000004656613)
    """
    if not 2 <= bits <= 31:
        raise ValueError(f"fixed_point(bits): got {bits}, expected 2 to 31")
    if not 1 <= max_shift <= _MAX_SHIFT:
        raise ValueError(f"fixed_point(max_shift): got {max_shift}, expected 1 to {_MAX_SHIFT}")
    ratios = _finite(ratio, "fixed_point")
    fraction, exponent = np.frexp(ratios)
    multiplier = _nearest(np.ldexp(fraction, bits))
    carried = np.abs(multiplier) == 1 << bits
    multiplier = np.where(carried, multiplier >> 1, multiplier)
    shift = bits - exponent.astype(np.int64) - carried
    shift = np.where(multiplier == 0, 1, shift)
    if shift.size and int(shift.min()) < 1:
        raise ValueError(
            f"fixed_point(ratio): got {ratios.flat[int(shift.argmin())]}, expected a magnitude below 2^{bits - 1}; "
            "scales so far apart do not fit one multiplier"
        )
    small = shift > max_shift
    multiplier = np.where(small, _nearest(np.ldexp(np.where(small, ratios, 0.0), max_shift)), multiplier)
    return multiplier, np.minimum(shift, max_shift)


def common_fixed_point(
    *ratios: npt.ArrayLike, bits: int = 31, max_shift: int = _MAX_SHIFT
) -> tuple[tuple[npt.NDArray[np.int64], ...], int]:
    """Multipliers of several ratios with one shift, the largest of them normalised.

    Args:
        *ratios: finite real numbers, each of any shape.
        bits: significant bits of the largest multiplier, 2 to 31.
        max_shift: see `fixed_point`.

    Returns:
        A multiplier for each ratio, in its shape, and the shift.

    Raises:
        ValueError: as `fixed_point`.

    Example:
        >>> (a, b), shift = common_fixed_point(0.5, 0.125)
        >>> int(a), int(b), shift
        (1073741824, 268435456, 31)
    """
    arrays = [_finite(ratio, "common_fixed_point") for ratio in ratios]
    peak = max((float(np.abs(array).max()) for array in arrays if array.size), default=0.0)
    shift = int(fixed_point(peak, bits, max_shift=max_shift)[1])
    return tuple(_nearest(np.ldexp(array, shift)) for array in arrays), shift


def fixed_point_width(ratio: npt.ArrayLike, integer_bits: int, fraction_bits: int) -> tuple[npt.NDArray[np.int64], int]:
    """Multipliers in a fixed-point format of one's own, for small hardware: the shift is ``fraction_bits``.

    Args:
        ratio: finite real numbers of any shape.
        integer_bits: bits before the point, the sign included.
        fraction_bits: bits after it, 1 to 62; both together at most 32.

    Returns:
        int64 multipliers in the shape of ``ratio``, and the shift.

    Raises:
        ValueError: a ratio does not fit (nothing saturates silently), or the widths are out of range.

    Example:
        >>> multiplier, shift = fixed_point_width(0.3, 16, 12)
        >>> int(multiplier), shift
        (1229, 12)
    """
    if not (integer_bits >= 1 and fraction_bits >= 1 and integer_bits + fraction_bits <= 32):
        raise ValueError(
            f"fixed_point_width: got {integer_bits}.{fraction_bits}, expected at least 1 bit before and after the "
            "point, and at most 32 together"
        )
    ratios = _finite(ratio, "fixed_point_width")
    limit = 1 << (integer_bits + fraction_bits - 1)
    # Clipped to what int64 holds, not to the format.
    multiplier = _nearest(np.clip(np.ldexp(ratios, fraction_bits), -(2.0**40), 2.0**40))
    outside = (multiplier < -limit) | (multiplier >= limit)
    if bool(outside.any()):
        raise ValueError(
            f"fixed_point_width(ratio): got {ratios[outside].flat[0]}, expected a number that {integer_bits}."
            f"{fraction_bits} holds, from {-(2.0 ** (integer_bits - 1))} to below {2.0 ** (integer_bits - 1)}; "
            "take more integer bits, or the normalised fixed_point"
        )
    return multiplier, fraction_bits


def exponential_tables(bits: int = 8, units: int = 2048) -> ExponentialTables:
    """Tables for softmax numerators of ``bits`` bits: the largest, of distance 0, is ``2^bits - 1`` (or just below).

    Args:
        bits: 2 to 16.
        units: distances are counted in 1 / ``units`` nat; what is 65535 units or more away counts as that far.

    Raises:
        ValueError: ``bits`` is out of range.

    Example:
        >>> tables = exponential_tables(8)
        >>> int(tables.exponential_high[0] * tables.exponential_low[0]) / 2**tables.exponential_shift
        255.0
    """
    if not 2 <= bits <= 16:
        raise ValueError(f"exponential_tables(bits): got {bits}, expected 2 to 16")
    index = np.arange(_TABLE, dtype=np.float64)
    # The numerator of distance 0 must fit its bits, so the table is scaled from 2^bits to 2^bits - 1, rounded down.
    peak = ((1 << bits) - 1) * (1 << _TABLE_BITS) >> bits
    high = _nearest(np.exp(-index * _TABLE / units) * peak)
    low = _nearest(np.exp(-index / units) * 2.0**_TABLE_BITS)
    return ExponentialTables(high, low, 2 * _TABLE_BITS - bits)


def _nearest(values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Rounded half away from zero."""
    numbers = np.asarray(values, np.float64)
    magnitude = np.abs(numbers)
    floor = np.floor(magnitude)
    # Adding 0.5 before the floor would itself round.
    return np.asarray(np.copysign(floor + (magnitude - floor >= 0.5), numbers), np.int64)


def _finite(ratio: npt.ArrayLike, where: str) -> npt.NDArray[np.float64]:
    ratios = np.asarray(ratio, np.float64)
    if not bool(np.isfinite(ratios).all()):
        raise ValueError(f"{where}(ratio): got {ratios}, expected finite numbers")
    return ratios
