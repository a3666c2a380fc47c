"""Multipliers, shifts and limits of integer nodes, from real ratios and grids."""

from __future__ import annotations

from typing import Final

import numpy as np

from quantsim.dualpath.integer_graph import Grid
from quantsim.dualpath.lowered_values import Clip, StaysFloatError
from quantsim_kernels.fixed_point import fixed_point

__all__ = ["affine_multipliers", "clipped_codes", "multiplier_bits", "multiplier_for"]

_MOST_BITS: Final = 31
_INT64_BITS: Final = 62
"""Products stay below 2^62, so that half a step may be added to them."""


def multiplier_bits(reach: int) -> int:
    """The most bits of a multiplier for integers up to a magnitude.

    Example:
        >>> multiplier_bits(255), multiplier_bits(2**34)
        (31, 27)
    """
    return max(min(_MOST_BITS, _INT64_BITS - reach.bit_length()), 2)


def multiplier_for(ratio: np.ndarray | float, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalised multipliers and shifts of real ratios.

    Args:
        ratio: Steps of the operand over steps of the result, of any shape.
        reach: Largest magnitude of what is multiplied.

    Raises:
        StaysFloatError: A ratio is too large for any shift.
    """
    try:
        return fixed_point(ratio, multiplier_bits(reach))
    except ValueError as error:
        raise StaysFloatError(f"its scales are too far apart: {error}") from None


def affine_multipliers(ratio: np.ndarray, offset: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Multipliers, offsets and shifts of ``x * ratio + offset``, in steps of the result.

    Shifts are so small that offsets fit 61 bits.
    """
    ratio, offset = np.broadcast_arrays(np.asarray(ratio, np.float64), np.asarray(offset, np.float64))
    _, shift = multiplier_for(ratio, reach)
    shift = np.where(ratio == 0, _MOST_BITS, shift)
    room = 60 - np.ceil(np.log2(np.abs(offset) + 1.0)).astype(np.int64)
    if np.any(room < 1):
        raise StaysFloatError("its offset is too large for its grid")
    shift = np.minimum(shift, room)
    multiplier = np.rint(np.ldexp(ratio, shift)).astype(np.int64)
    return multiplier, np.rint(np.ldexp(offset, shift)).astype(np.int64), shift.astype(np.int64)


def clipped_codes(grid: Grid, clip: Clip) -> tuple[int, int]:
    """The codes that real numbers within a clip are rounded to.

    Example:
        >>> clipped_codes(Grid(0.5, 10, 0, 255), Clip(0.0, 6.0))
        (10, 22)
    """

    def code(real: float, unbounded: int) -> int:
        if abs(real) == float("inf"):
            return unbounded
        # float32, as the simulation divides
        step = np.rint(np.float32(real) / np.float32(grid.scale))
        return int(np.clip(step + grid.zero_point, grid.low, grid.high))

    return code(clip.low, grid.low), code(clip.high, grid.high)
