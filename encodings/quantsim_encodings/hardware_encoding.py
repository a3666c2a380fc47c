"""Encodings of particular hardware: optical levels, and fixed-point requantisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from quantsim_encodings._arrays import broadcast_integers, check_granularity, extent, fail, integer_array, real_array
from quantsim_encodings._encoding_base import Encoding
from quantsim_encodings.formats import FixedPointFormat, OpticalFormat
from quantsim_encodings.granularity import Granularity, PerTensor

__all__ = ["FixedPointEncoding", "OpticalEncoding"]

_PER_TENSOR: Final = PerTensor()


@dataclass(frozen=True, eq=False)
class OpticalEncoding(Encoding):
    """Range of an optical modulator's levels, and the state that observes it.

    Args:
        format: The levels.
        minimum: Real number of the lowest level, in the quantizer's shape.
        maximum: Real number of the highest level; not below ``minimum``.
        granularity: Which elements share a range.
        seed: Seed of the noise.
        smooth_factor: Weight of the old range when a batch updates it, 0 to 1.
        quantiles: Quantiles that give a batch's range, or ``None`` for its smallest and largest value.

    Raises:
        EncodingsError: If a range is not finite or empty, or a field is out of bounds.
    """

    format: OpticalFormat  # pyright: ignore[reportIncompatibleVariableOverride] - frozen, so narrowing is safe
    minimum: NDArray[Any]
    maximum: NDArray[Any]
    granularity: Granularity = _PER_TENSOR
    seed: int = 0
    smooth_factor: float = 0.9
    quantiles: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if not isinstance(self.format, OpticalFormat):
            raise fail(owner, "format", f"got {self.format!r}, expected an OpticalFormat")
        low, high = real_array(owner, "minimum", self.minimum), real_array(owner, "maximum", self.maximum)
        if low.shape != high.shape:
            raise fail(owner, "maximum", f"got shape {high.shape}, expected minimum's {low.shape}")
        if low.size == 0 or (low > high).any():
            raise fail(owner, "maximum", "got a maximum below its minimum or none, expected minimum <= maximum")
        object.__setattr__(self, "minimum", low)
        object.__setattr__(self, "maximum", high)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not -(2**63) <= self.seed < 2**64:
            raise fail(owner, "seed", "got no 64-bit integer, expected one")
        if not 0.0 <= self.smooth_factor <= 1.0:
            raise fail(owner, "smooth_factor", f"got {self.smooth_factor!r}, expected a number from 0 to 1")
        if self.quantiles is not None:
            quantiles = tuple(float(value) for value in self.quantiles)
            if len(quantiles) != 2 or not 0.0 <= quantiles[0] < quantiles[1] <= 1.0:
                raise fail(owner, "quantiles", f"got {quantiles!r}, expected two rising numbers from 0 to 1")
            object.__setattr__(self, "quantiles", quantiles)
        check_granularity(owner, self.granularity, low.shape)


@dataclass(frozen=True, eq=False)
class FixedPointEncoding(Encoding):
    """Integer requantisation: ``clamp(round(acc * multiplier / 2**shift) + zero_point, qmin, qmax)``.

    Args:
        format: Widths, rounding, and the integers that come out.
        multiplier: Positive integers below ``2**format.multiplier_bits``, top bit set if the format is normalised.
        shift: Right shifts, 0 to 63, broadcast to the multiplier's shape; ``format.fraction_bits`` if that is given.
        zero_point: Added after the shift, broadcast to the multiplier's shape.
        granularity: Which elements share a multiplier.

    Raises:
        EncodingsError: If a number is out of these bounds, or shapes or granularity contradict each other.
    """

    format: FixedPointFormat  # pyright: ignore[reportIncompatibleVariableOverride] - frozen, so narrowing is safe
    multiplier: NDArray[Any]
    shift: NDArray[Any]
    zero_point: NDArray[Any]
    granularity: Granularity = _PER_TENSOR

    def __post_init__(self) -> None:
        owner = type(self).__name__
        if not isinstance(self.format, FixedPointFormat):
            raise fail(owner, "format", f"got {self.format!r}, expected a FixedPointFormat")
        multiplier = integer_array(owner, "multiplier", self.multiplier)
        low = 2 ** (self.format.multiplier_bits - 1) if self.format.normalised else 1
        high = 2**self.format.multiplier_bits - 1
        if multiplier.size == 0 or multiplier.min() < low or multiplier.max() > high:
            raise fail(owner, "multiplier", f"got {extent(multiplier)}, expected integers from {low} to {high}")
        shift = broadcast_integers(owner, "shift", self.shift, multiplier.shape)
        if shift.min() < 0 or shift.max() > 63:
            raise fail(owner, "shift", f"got {extent(shift)}, expected integers from 0 to 63")
        if self.format.fraction_bits is not None and (shift != self.format.fraction_bits).any():
            raise fail(owner, "shift", f"got {extent(shift)}, expected the format's {self.format.fraction_bits}")
        object.__setattr__(self, "multiplier", multiplier)
        object.__setattr__(self, "shift", shift)
        zero_point = broadcast_integers(owner, "zero_point", self.zero_point, multiplier.shape)
        object.__setattr__(self, "zero_point", zero_point)
        check_granularity(owner, self.granularity, multiplier.shape)
