"""Checks of the arguments of optical quantizers."""

from __future__ import annotations

import math
from typing import Any

from quantsim.errors import ConfigurationError
from quantsim_encodings.formats import OpticalFormat, OpticalNoise

__all__ = ["checked_format", "checked_quantiles"]


def checked_quantiles(owner: str, quantiles: Any) -> tuple[float, float] | None:
    if quantiles is None:
        return None
    try:
        low, high = (float(value) for value in quantiles)
    except (TypeError, ValueError):
        low = high = math.nan
    if not 0.0 <= low < high <= 1.0:
        raise ConfigurationError(
            where=f"{owner}(quantiles)", got=repr(quantiles), expected="two rising numbers from 0 to 1, or None"
        )
    return low, high


def checked_format(owner: str, levels: Any, lut: Any, noise: Any) -> OpticalFormat:
    try:
        if lut is not None and (isinstance(lut, bool) or lut >= 1.0):
            raise ValueError(f"lut: got {lut!r}, expected None or a number that is at least 0 and below 1")
        return OpticalFormat(levels, lut, OpticalNoise.parse(noise))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(str(error), where=owner) from None
