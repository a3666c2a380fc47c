"""What an optical layer is asked for: levels, smallest transmission, range statistics, noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from quantsim.errors import ConfigurationError
from quantsim.quantization.optical import DEFAULT_LUT
from quantsim_encodings.formats import MAX_LEVELS, OpticalNoise
from quantsim_kernels.optical import OpticalGradient

__all__ = ["AttentionRange", "OpticalSettings"]

_SEEDS: Final = 2**64
_SEED_STEP: Final = 0x9E3779B97F4A7C15


class AttentionRange(StrEnum):
    """Which range the attention probabilities are quantized in."""

    UNIT = "unit"
    """[0, 1] for all rows, as published. At 256 levels every probability below 1/510 becomes 0."""
    ROW = "row"
    """[0, largest of the row]: long rows of small probabilities keep their levels."""


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("got a bool, expected a number")
    return value


_Number = BeforeValidator(_no_bool)


class OpticalSettings(BaseModel):
    """Parameters of one optical layer, under the names they have in the configuration of a transform pass.

    Args:
        q_levels: Number of levels of every quantizer, 2 to 2**24.
        q_lut_min: Smallest transmission of the modulator, as a fraction (at least 0 and below 1) of the ends of the
            range; smaller magnitudes of weights (in attention, of keys and values) are raised to it. ``None``: no
            such floor.
        q_quantiles: Two rising numbers from 0 to 1: a batch's range are these quantiles, instead of its smallest and
            largest value.
        q_smooth_factor: Weight of the old range when a batch updates it, 0 to 1 (1 keeps the first batch's).
        q_init_seed: Seed of the noise, taken modulo 2**64.
        q_bypass: Whether the layer computes as if it were not optical.
        noise: Of the detector: ``"dither"`` (uniform, half a level either way), ``"shot"`` or ``"none"``.
        photons: Photons for each multiply-accumulate; for ``"shot"``, and only then.
        ste: Gradient: ``"identity"`` through rounding and clipping, or ``"clipped"``, zero outside the range.
        attn_range: Range of attention probabilities, ``"unit"`` or ``"row"``; linear layers do not look at it.

    Raises:
        ConfigurationError: From `parse`. (The constructor raises pydantic's ValidationError, a ValueError.)

    Example:
        >>> OpticalSettings(q_levels=128).q_lut_min
        0.02004
        >>> OpticalSettings.parse({"q_level": 128}, "fc")
        Traceback (most recent call last):
            ...
        quantsim.errors.ConfigurationError: fc: the optical settings are not valid; got 1 wrong field(s): q_level: ...
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)

    q_levels: Annotated[int, Field(strict=True, ge=2, le=MAX_LEVELS)] = 256
    q_lut_min: Annotated[float, _Number, Field(ge=0.0, lt=1.0)] | None = DEFAULT_LUT
    q_quantiles: tuple[Annotated[float, _Number], Annotated[float, _Number]] | None = None
    q_smooth_factor: Annotated[float, _Number, Field(ge=0.0, le=1.0)] = 0.9
    q_init_seed: Annotated[int, Field(strict=True)] = 0
    q_bypass: Annotated[bool, Field(strict=True)] = False
    noise: OpticalNoise = OpticalNoise.DITHER
    photons: Annotated[float, _Number, Field(gt=0.0)] | None = None
    ste: OpticalGradient = OpticalGradient.IDENTITY
    attn_range: AttentionRange = AttentionRange.UNIT

    @field_validator("q_quantiles")
    @classmethod
    def _rising_quantiles(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0.0 <= value[0] < value[1] <= 1.0:
            raise ValueError(f"got {value}, expected two rising numbers from 0 to 1")
        return value

    @model_validator(mode="after")
    def _photons_with_shot_noise(self) -> Self:
        if (self.noise is OpticalNoise.SHOT) != (self.photons is not None):
            raise ValueError(
                f"got noise={self.noise.value!r} with photons={self.photons!r}, expected a number of photons for "
                "noise='shot' and None for the others"
            )
        if self.photons is not None and not math.isfinite(self.photons):
            raise ValueError(f"got photons={self.photons!r}, expected a finite number; noise='none' has no noise")
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any] | OpticalSettings, where: str) -> Self:
        """Checks plain data, as read from YAML.

        Args:
            values: The settings by name; what is missing has its default.
            where: What errors call them, such as the key of a pass's arguments.

        Raises:
            ConfigurationError: Names every wrong or unknown field, what was got and what was expected.
        """
        if isinstance(values, cls):
            return values
        try:
            return cls.model_validate(dict(values))
        except (ValidationError, TypeError, ValueError) as error:
            raise ConfigurationError(
                "the optical settings are not valid",
                where=where,
                got=_problems(error),
                expected=f"the fields {', '.join(cls.model_fields)}",
            ) from None

    def linear_arguments(self) -> dict[str, Any]:
        """Returns the keyword arguments of `OtLinear` and `OtLinear.from_linear`.

        Example:
            >>> OpticalSettings(q_levels=16).linear_arguments()["q_levels"]
            16
        """
        return {name: getattr(self, name) for name in type(self).model_fields if name != "attn_range"}

    def with_seed_number(self, number: int) -> Self:
        """Returns the settings with the seed of the layer (or tensor) of that number.

        Layers must not share their noise, so each has a seed that follows from the one given and its number.

        Example:
            >>> settings = OpticalSettings(q_init_seed=7)
            >>> settings.with_seed_number(0).q_init_seed, settings.with_seed_number(1).q_init_seed == 7
            (7, False)
        """
        if number == 0:
            return self
        scrambled = (number * _SEED_STEP) % _SEEDS
        scrambled = ((scrambled ^ (scrambled >> 31)) * 0xD6E8FEB86659FD93) % _SEEDS
        return self.model_copy(update={"q_init_seed": (self.q_init_seed + scrambled) % _SEEDS})


def _problems(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    problems = "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'noise, photons'}: {item['msg'].removeprefix('Value error, ')}"
        + ("" if item["type"] in ("value_error", "extra_forbidden") else f", got {item['input']!r}")
        for item in error.errors(include_url=False)
    )
    return f"{error.error_count()} wrong field(s): {problems}"
