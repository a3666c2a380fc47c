"""Checks that the encodings share: arrays are copied, made read-only, and kept in the narrowest exact type."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantsim_encodings.errors import EncodingsError, Problem
from quantsim_encodings.granularity import Flattened, Granularity, PerChannel, PerTensor


def fail(owner: str, field: str, message: str) -> EncodingsError:
    return EncodingsError(f"invalid {owner}", [Problem(f"$.{field}", message)])


def real_array(owner: str, field: str, value: ArrayLike) -> NDArray[Any]:
    """Copies to a read-only float32 array if that holds every value exactly, else to float64."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"array of dtype {array.dtype}")
        wide = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise fail(owner, field, f"got {error}, expected a rectangular array of real numbers") from None
    if not np.isfinite(wide).all():
        raise fail(owner, field, "got NaN or infinity, expected finite numbers")
    with np.errstate(over="ignore", under="ignore"):
        narrow = wide.astype(np.float32)
    result = narrow if np.array_equal(narrow.astype(np.float64), wide) else wide
    result.setflags(write=False)
    return result


def positive_array(owner: str, field: str, value: ArrayLike, *, zero_allowed: bool = False) -> NDArray[Any]:
    array = real_array(owner, field, value)
    if array.size == 0:
        raise fail(owner, field, "got no number, expected at least one")
    if (array < 0).any() or (not zero_allowed and (array == 0).any()):
        worst = float(array.min())
        expected = "no negative numbers" if zero_allowed else "only positive numbers"
        raise fail(owner, field, f"got {worst!r}, expected {expected}")
    return array


def integer_array(owner: str, field: str, value: ArrayLike) -> NDArray[np.int64]:
    array = real_array(owner, field, value)
    if (np.abs(array) >= 2.0**63).any() or not np.array_equal(array, np.rint(array)):
        raise fail(owner, field, "got a number that is no 64-bit integer, expected integers")
    exact = np.asarray(value)
    result = exact.astype(np.int64) if exact.dtype.kind in "iu" else array.astype(np.int64)
    result.setflags(write=False)
    return result


def offset_array(owner: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Integer offsets as int64; offsets with a fraction (zero-point shift) as floats; broadcast to ``shape``."""
    array = real_array(owner, "offset", value)
    if np.array_equal(array, np.rint(array)):
        array = integer_array(owner, "offset", value)
    try:
        array = np.array(np.broadcast_to(array, shape))
    except ValueError:
        raise fail(owner, "offset", f"got shape {array.shape}, expected the scale's {shape}") from None
    array.setflags(write=False)
    return array


def checked_block_size(owner: str, value: Sequence[int] | None, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    if value is None:
        return None
    sizes = tuple(value)
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or not (size == -1 or 1 <= size < 2**31):
            raise fail(owner, "block_size", f"got {size!r}, expected positive integers, or -1 for the whole dimension")
    if len(sizes) < len(shape):
        raise fail(owner, "block_size", f"got {len(sizes)} sizes, expected one for each of {len(shape)} dimensions")
    return sizes


def check_granularity(owner: str, granularity: Granularity, shape: tuple[int, ...]) -> None:
    if not isinstance(granularity, Granularity):
        raise fail(owner, "granularity", f"got {granularity!r}, expected a Granularity")
    if isinstance(granularity, PerTensor) and math.prod(shape) != 1:
        raise fail(owner, "granularity", f"got per tensor with a scale of shape {shape}, expected one scale")
    if isinstance(granularity, PerChannel):
        long = [axis for axis, size in enumerate(shape) if size != 1]
        if len(long) > 1:
            raise fail(owner, "granularity", f"got per channel with a scale of shape {shape}, expected one long axis")
        rank, axis = len(shape), granularity.axis
        if long and rank > 1 and (not -rank <= axis < rank or axis % rank != long[0]):
            raise fail(owner, "granularity", f"got axis {axis} with a scale of shape {shape}, expected axis {long[0]}")
    if isinstance(granularity, Flattened) and len(shape) != 1:
        raise fail(owner, "granularity", f"got flattened with a scale of shape {shape}, expected one dimension")


def extent(array: NDArray[Any]) -> str:
    return f"{array.min()} to {array.max()}" if array.size else "none"


def broadcast_integers(owner: str, field: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.int64]:
    array = integer_array(owner, field, value)
    try:
        result = np.array(np.broadcast_to(array, shape))
    except ValueError:
        raise fail(owner, field, f"got shape {array.shape}, expected the multiplier's {shape}") from None
    result.setflags(write=False)
    return result
