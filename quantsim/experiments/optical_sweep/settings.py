"""Which optical engines the sweep simulates."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from quantsim.errors import ConfigurationError
from quantsim.optical import AttentionRange, OpticalSettings
from quantsim.quantization.optical import DEFAULT_LUT
from quantsim_encodings.formats import OpticalNoise

__all__ = ["PHOTON_HARDWARE", "VARIANTS", "Hardware", "SweepSettings"]


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """A way to build and to calibrate the engine; its levels and its light are what the sweep varies.

    Attributes:
        name: Short name, unique in a sweep.
        floor: Smallest transmission as a fraction of the range's ends, ``q_lut_min``; None: no such floor.
        quantiles: Quantiles of a batch that are its range, ``q_quantiles``; None: its smallest and largest value.
        noise: Of the detector.
        attn_range: Range of attention probabilities.

    Example:
        >>> Hardware(name="bare", floor=None).pass_args(64)["fc"]["q_levels"]
        64
    """

    name: str
    floor: float | None = DEFAULT_LUT
    quantiles: tuple[float, float] | None = None
    noise: OpticalNoise = OpticalNoise.DITHER
    attn_range: AttentionRange = AttentionRange.UNIT

    def pass_args(self, levels: int, photons: float | None = None) -> dict[str, dict[str, Any]]:
        """Arguments of `quantsim.transforms.optical_transformer_module_transform_pass`.

        Args:
            levels: Number of levels.
            photons: Photons for each multiply-accumulate: shot noise instead of this hardware's noise.

        Raises:
            ConfigurationError: The settings are out of bounds.
        """
        noise = self.noise if photons is None else OpticalNoise.SHOT
        parameters: dict[str, Any] = {
            "q_levels": levels,
            "q_lut_min": self.floor,
            "q_quantiles": self.quantiles,
            "noise": noise.value,
            "photons": photons,
            "attn_range": self.attn_range.value,
        }
        OpticalSettings.parse(parameters, f"hardware {self.name!r}")
        return {"attn": dict(parameters), "fc": dict(parameters)}

    @property
    def description(self) -> str:
        """The settings in words, for tables.

        Example:
            >>> Hardware(name="bare", floor=None, noise=OpticalNoise.NONE).description
            'no floor, min–max, no noise, unit'
        """
        floor = "no floor" if self.floor is None else f"floor {self.floor:g}"
        ends = "min–max" if self.quantiles is None else f"quantiles {self.quantiles[0]:g}, {self.quantiles[1]:g}"
        noise = "no noise" if self.noise is OpticalNoise.NONE else self.noise.value
        return f"{floor}, {ends}, {noise}, {self.attn_range.value}"

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return asdict(self) | {"description": self.description}


_ROW: Final = AttentionRange.ROW
_NO_NOISE: Final = OpticalNoise.NONE
_WIDE: Final = (0.0001, 0.9999)

VARIANTS: Final = (
    Hardware(name="published"),
    Hardware(name="published, no noise", noise=_NO_NOISE),
    Hardware(name="published, quantiles", quantiles=(0.001, 0.999)),
    Hardware(name="no floor", floor=None),
    Hardware(name="no floor, no noise", floor=None, noise=_NO_NOISE),
    Hardware(name="no floor, row", floor=None, attn_range=_ROW),
    Hardware(name="no floor, row, no noise", floor=None, noise=_NO_NOISE, attn_range=_ROW),
    Hardware(name="no floor, wide quantiles", floor=None, quantiles=_WIDE),
    Hardware(name="no floor, wide quantiles, row", floor=None, quantiles=_WIDE, attn_range=_ROW),
    Hardware(name="floor, wide quantiles, row", quantiles=_WIDE, attn_range=_ROW),
)
"""The engines that are compared over levels."""

PHOTON_HARDWARE: Final = VARIANTS[8]
"""The engine whose light is dimmed."""


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """What the sweep runs.

    Attributes:
        variants: Engines that are compared over `levels`.
        levels: Numbers of levels.
        photon_hardware: Engine whose light is dimmed.
        photon_levels: Its levels.
        photons: Photons for each multiply-accumulate.

    Raises:
        ConfigurationError: Two engines have one name, or a number of levels or photons is impossible.

    Example:
        >>> SweepSettings(levels=(16, 256)).runs
        27
    """

    variants: tuple[Hardware, ...] = VARIANTS
    levels: tuple[int, ...] = (16, 64, 128, 256, 1024)
    photon_hardware: Hardware = PHOTON_HARDWARE
    photon_levels: int = 256
    photons: tuple[float, ...] = (0.1, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)

    def __post_init__(self) -> None:
        names = [hardware.name for hardware in self.variants]
        if len(set(names)) < len(names):
            raise ConfigurationError(
                where="SweepSettings(variants)", got=", ".join(names), expected="a name for each engine"
            )
        for hardware in self.variants:
            for levels in self.levels:
                hardware.pass_args(levels)
        for photons in self.photons:
            if not (photons > 0 and math.isfinite(photons)):
                raise ConfigurationError(
                    where="SweepSettings(photons)", got=repr(photons), expected="positive finite numbers"
                )
            self.photon_hardware.pass_args(self.photon_levels, photons)

    @property
    def runs(self) -> int:
        """Number of models that are calibrated and measured."""
        return len(self.variants) * len(self.levels) + len(self.photons)
