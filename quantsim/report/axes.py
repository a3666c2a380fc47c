"""Axes of the charts: nice ticks, and the mapping from a value to a position."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

__all__ = ["Axis", "inverse_hyperbolic_axis", "linear_axis", "nice_ticks", "short_number"]

_TICK_ROOM = 46.0  # pixels between two labels


def nice_ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """About ``count`` round numbers (1, 2, 2.5 or 5 times a power of ten) that cover ``low .. high`` from inside.

    Args:
        low: Lower end.
        high: Upper end; at or below ``low`` gives one tick.
        count: Ticks wanted.

    Example:
        >>> nice_ticks(0.0, 25.0)
        (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)
    """
    if not high > low:
        return (low,)
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 2.5, 5.0, 10.0) if factor * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(index * step, 12) for index in range(first, last + 1))


def short_number(value: float) -> str:
    """At most four significant digits, no trailing zeros.

    Example:
        >>> short_number(0.25), short_number(12000.0), short_number(-3.0)
        ('0.25', '12k', '−3')
    """
    magnitude = abs(value)
    if magnitude >= 1e6:
        words = f"{magnitude / 1e6:.4g}M"
    elif magnitude >= 1e4:
        words = f"{magnitude / 1e3:.4g}k"
    else:
        words = f"{magnitude:.4g}"
    return f"−{words}" if value < 0 else words


@dataclass(frozen=True)
class Axis:
    """Maps values onto pixels.

    Attributes:
        low: Value at ``start``.
        high: Value at ``stop``.
        start: First pixel.
        stop: Last pixel; may lie before ``start`` (vertical axes grow upwards).
        ticks: Values with a label.
        transform: Monotone function applied before the linear mapping.
    """

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]
    transform: Callable[[float], float] = float

    def __call__(self, value: float) -> float:
        """The pixel of a value; values beyond the ends are drawn at the ends."""
        low, high = self.transform(self.low), self.transform(self.high)
        share = (self.transform(min(max(value, self.low), self.high)) - low) / (high - low)
        return round(self.start + share * (self.stop - self.start), 2)


def linear_axis(low: float, high: float, start: float, stop: float, ticks: int = 5) -> Axis:
    """A linear axis whose ends are at most a little beyond the data.

    Args:
        low: Smallest value.
        high: Largest value; equal values are spread to a range of 1.
        start: First pixel.
        stop: Last pixel.
        ticks: Ticks wanted.
    """
    if not high > low:
        low, high = low - 0.5, high + 0.5
    return Axis(low, high, start, stop, nice_ticks(low, high, ticks))


def inverse_hyperbolic_axis(low: float, high: float, start: float, stop: float, unit: float) -> Axis:
    """An axis linear within ``±unit`` and logarithmic beyond (``asinh(value / unit)``), for ranges with outliers.

    Args:
        low: Smallest value.
        high: Largest value.
        start: First pixel.
        stop: Last pixel.
        unit: Where the linear part ends.
    """
    if not high > low:
        low, high = low - unit, high + unit
    bare = Axis(low, high, start, stop, (), lambda value: math.asinh(value / unit))
    largest = math.floor(math.log10(max(abs(low), abs(high))))
    decades = [10.0**power for power in range(largest, math.floor(math.log10(unit)) - 1, -1)]
    ticks: list[float] = []
    # Zero first, then powers of ten, then the numbers between them, as far as there is room.
    for candidate in (0.0, *decades, *(5 * decade for decade in decades), *(2 * decade for decade in decades)):
        for tick in {candidate, -candidate}:
            if low <= tick <= high and all(abs(bare(tick) - bare(other)) >= _TICK_ROOM for other in ticks):
                ticks.append(tick)
    return replace(bare, ticks=tuple(sorted(ticks)))
