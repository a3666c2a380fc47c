"""Number formats as frozen data: how numbers are represented, with no tensors and no arithmetic on them.

A format says which real numbers exist before any scale is applied. What is calibrated (scale, offset, range) is an
*encoding* and lives in :mod:`quantsim_encodings.encoding`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from quantsim_encodings._format_base import Format, require_integer
from quantsim_encodings.float_formats import NAMED_FLOAT_FORMATS, FloatFormat, NanEncoding, float_format

__all__ = [
    "NAMED_BLOCK_FORMATS",
    "NAMED_FLOAT_FORMATS",
    "NAMED_MX_FORMATS",
    "BlockFormat",
    "FixedPointFormat",
    "FloatFormat",
    "Format",
    "IntFormat",
    "MXFormat",
    "MXScaleRule",
    "NVFP4Format",
    "NanEncoding",
    "OpticalFormat",
    "OpticalNoise",
    "RoundingMode",
    "block_format",
    "float_format",
    "mx_format",
]

MAX_INTEGER_BITS: Final = 64
MAX_BLOCK_SIZE: Final = 2**31 - 1
MAX_LEVELS: Final = 2**24


class MXScaleRule(StrEnum):
    """How the shared power-of-two scale of an MX block follows from the block's largest magnitude."""

    FLOOR = "floor"
    """``2**(floor(log2(amax)) - emax)``, OCP Microscaling v1.0; the largest value may saturate."""
    CEIL = "ceil"
    """``2**(ceil(log2(amax)) - emax)``; scales up all but exact powers of two."""
    EVEN = "even"
    """``amax`` is first rounded to the element's fraction bits, then floor; loses the least in the top binade."""
    RCEIL = "rceil"
    """``2**ceil(log2(amax / max))``: the smallest power of two at which nothing saturates."""


class RoundingMode(StrEnum):
    """Names of the rounding laws that a value may be cast with; each has a number, too.

    Example:
        >>> RoundingMode.parse(1), RoundingMode.parse("towards_zero").number
        (<RoundingMode.NEAREST_EVEN: 'nearest_even'>, 4)
    """

    NEAREST_ODD = "nearest_odd"
    """0: to the nearest number, from halfway to the one with the odd code."""
    NEAREST_EVEN = "nearest_even"
    """1: to the nearest number, from halfway to the one with the even code."""
    UP = "up"
    """2: toward positive infinity."""
    DOWN = "down"
    """3: toward negative infinity."""
    TOWARD_ZERO = "toward_zero"
    """4: toward zero."""
    STOCHASTIC = "stochastic"
    """5: away from zero with a probability equal to the fraction of the way."""
    STOCHASTIC_EQUAL = "stochastic_equal"
    """6: away from zero or toward it with equal probability, exact values excepted."""
    NEAREST_ZERO = "nearest_zero"
    """7: to the nearest number, from halfway toward zero."""
    NEAREST_AWAY = "nearest_away"
    """8: to the nearest number, from halfway away from zero."""
    ODD = "odd"
    """9: to the neighbour with the odd code, exact values excepted."""

    @classmethod
    def parse(cls, value: int | str | RoundingMode) -> RoundingMode:
        """The mode that a number (0 to 9), a name or an alias (``nearest``, ``towards_zero``) stands for.

        Raises:
            ValueError: If it stands for none; the message lists number and name of all.
        """
        # The enum's own members come first: this runs in each call of a cast.
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            found = _ROUNDING_BY_NAME.get(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            found = _ROUNDING_BY_NUMBER.get(value)
        else:
            found = None
        if found is None:
            known = ", ".join(f"{number} {mode.value}" for number, mode in _ROUNDING_BY_NUMBER.items())
            aliases = ", ".join(f"{alias!r} for {name!r}" for alias, name in _ROUNDING_ALIASES.items())
            raise ValueError(f"rounding mode: got {value!r}, expected a number or name of {known} (also {aliases})")
        return found

    @property
    def number(self) -> int:
        """The mode's number, 0 to 9."""
        return _ROUNDING_NUMBERS[self]

    @property
    def is_stochastic(self) -> bool:
        """Whether it draws random bits."""
        return self is RoundingMode.STOCHASTIC or self is RoundingMode.STOCHASTIC_EQUAL


_ROUNDING_ALIASES: Final = {"nearest": "nearest_even", "towards_zero": "toward_zero"}
_ROUNDING_BY_NUMBER: Final[dict[int, RoundingMode]] = dict(enumerate(RoundingMode))
_ROUNDING_NUMBERS: Final[dict[RoundingMode, int]] = {mode: number for number, mode in _ROUNDING_BY_NUMBER.items()}
_ROUNDING_BY_NAME: Final[dict[str, RoundingMode]] = {
    **{mode.value: mode for mode in RoundingMode},
    **{alias: RoundingMode(name) for alias, name in _ROUNDING_ALIASES.items()},
}


@dataclass(frozen=True)
class IntFormat(Format):
    """Integers from ``qmin`` to ``qmax``, both included.

    Args:
        qmin: Smallest integer.
        qmax: Largest integer; greater than ``qmin``.

    Raises:
        ValueError: If a bound is no integer, does not fit in 64 bits, or ``qmin >= qmax``.

    Example:
        >>> IntFormat(-7, 7).bits, IntFormat(-7, 7).steps, IntFormat.from_bits(4, signed=False).qmax
        (4, 14, 15)
    """

    qmin: int
    qmax: int

    def __post_init__(self) -> None:
        require_integer("IntFormat", "qmin", self.qmin, -(2 ** (MAX_INTEGER_BITS - 1)), 2**MAX_INTEGER_BITS - 1)
        require_integer("IntFormat", "qmax", self.qmax, -(2 ** (MAX_INTEGER_BITS - 1)), 2**MAX_INTEGER_BITS - 1)
        if self.qmin >= self.qmax:
            raise ValueError(f"IntFormat: got qmin={self.qmin}, qmax={self.qmax}, expected qmin < qmax")
        if self.bits > MAX_INTEGER_BITS:
            raise ValueError(
                f"IntFormat: [{self.qmin}, {self.qmax}] needs {self.bits} bits, expected at most {MAX_INTEGER_BITS}"
            )

    @classmethod
    def from_bits(cls, bits: int, *, signed: bool) -> IntFormat:
        """Two's complement (``signed``) or unsigned integers of ``bits`` bits.

        Raises:
            ValueError: If ``bits`` is not from 1 (2 for signed) to 64.
        """
        require_integer("IntFormat", "bits", bits, 2 if signed else 1, MAX_INTEGER_BITS)
        if signed:
            return cls(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return cls(0, 2**bits - 1)

    @property
    def signed(self) -> bool:
        """Whether negative integers exist."""
        return self.qmin < 0

    @property
    def bits(self) -> int:
        """Fewest bits that hold ``qmin`` and ``qmax`` (two's complement if signed)."""
        if self.qmin < 0:
            return max((-self.qmin - 1).bit_length(), max(self.qmax, 0).bit_length()) + 1
        return self.qmax.bit_length()

    @property
    def steps(self) -> int:
        """Number of steps between the ends, ``qmax - qmin``."""
        return self.qmax - self.qmin

    @property
    def is_full_range(self) -> bool:
        """Whether all codes of ``bits`` bits are used (not so for the strict symmetric [-7, 7])."""
        return self == IntFormat.from_bits(self.bits, signed=self.signed)


@dataclass(frozen=True)
class MXFormat(Format):
    """Blocks of elements that share one power-of-two scale in e8m0 (OCP Microscaling v1.0).

    Args:
        element: Format of one element; for integers the value is ``code * 2**-(bits - 2)``.
        block_size: Elements that share a scale.
        scale_rule: How the scale follows from the block's largest magnitude.
        name: Name for people; not part of equality.

    Raises:
        ValueError: If the element is neither an int nor a float format or ``block_size`` is not positive.

    Example:
        >>> mx_format("mxfp4").element.max, mx_format("mxfp4").bits_per_element
        (6.0, 4.25)
    """

    element: IntFormat | FloatFormat
    block_size: int = 32
    scale_rule: MXScaleRule = MXScaleRule.FLOOR
    name: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.element, (IntFormat, FloatFormat)):
            raise ValueError(f"MXFormat.element: got {self.element!r}, expected an IntFormat or a FloatFormat")
        require_integer("MXFormat", "block_size", self.block_size, 1, MAX_BLOCK_SIZE)
        object.__setattr__(self, "scale_rule", MXScaleRule(self.scale_rule))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MXFormat):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        return self.element, self.block_size, self.scale_rule

    @property
    def scale_format(self) -> FloatFormat:
        """Format of the shared scale."""
        return NAMED_FLOAT_FORMATS["e8m0"]

    @property
    def bits_per_element(self) -> float:
        """Storage per element in bits, its share of the scale included."""
        return self.element.bits + self.scale_format.bits / self.block_size


NAMED_MX_FORMATS: Final[Mapping[str, MXFormat]] = MappingProxyType(
    {
        mx.name: mx
        for mx in (
            MXFormat(NAMED_FLOAT_FORMATS["e4m3fn"], name="mxfp8_e4m3"),
            MXFormat(NAMED_FLOAT_FORMATS["e5m2"], name="mxfp8_e5m2"),
            MXFormat(NAMED_FLOAT_FORMATS["e3m2"], name="mxfp6_e3m2"),
            MXFormat(NAMED_FLOAT_FORMATS["e2m3"], name="mxfp6_e2m3"),
            MXFormat(NAMED_FLOAT_FORMATS["e2m1"], name="mxfp4"),
            MXFormat(IntFormat.from_bits(8, signed=True), name="mxint8"),
        )
        if mx.name is not None
    }
)
"""The concrete formats of OCP Microscaling v1.0."""


def mx_format(name: str) -> MXFormat:
    """Looks a named MX format up.

    Raises:
        ValueError: If there is none of that name; the message lists the names.
    """
    try:
        return NAMED_MX_FORMATS[name]
    except (KeyError, TypeError):
        raise ValueError(f"MX format: got {name!r}, expected one of {', '.join(NAMED_MX_FORMATS)}") from None


@dataclass(frozen=True)
class NVFP4Format(Format):
    """Blocks of e2m1 elements with one e4m3 scale each, and with ``two_level`` one float32 scale per tensor.

    Args:
        block_size: Elements that share a scale.
        two_level: Whether there is also a per-tensor float32 scale.

    Example:
        >>> NVFP4Format().bits_per_element
        4.5
    """

    block_size: int = 16
    two_level: bool = True

    def __post_init__(self) -> None:
        require_integer("NVFP4Format", "block_size", self.block_size, 1, MAX_BLOCK_SIZE)

    @property
    def element(self) -> FloatFormat:
        """Format of one element."""
        return NAMED_FLOAT_FORMATS["e2m1"]

    @property
    def scale_format(self) -> FloatFormat:
        """Format of the scale of a block."""
        return NAMED_FLOAT_FORMATS["e4m3fn"]

    @property
    def bits_per_element(self) -> float:
        """Storage per element in bits, its share of the block's scale included."""
        return self.element.bits + self.scale_format.bits / self.block_size


BlockFormat = MXFormat | NVFP4Format
"""Formats whose scales follow from the values themselves, block by block."""

NAMED_BLOCK_FORMATS: Final[Mapping[str, BlockFormat]] = MappingProxyType(
    {**NAMED_MX_FORMATS, "nvfp4": NVFP4Format(), "nvfp4_one_level": NVFP4Format(two_level=False)}
)
"""The concrete formats of OCP Microscaling v1.0, and NVIDIA's NVFP4 with and without a scale for the whole tensor."""


def block_format(name: str) -> BlockFormat:
    """Looks a named block format up; `dataclasses.replace` gives it another block size or scale rule.

    Raises:
        ValueError: If there is none of that name; the message lists the names.

    Example:
        >>> block_format("nvfp4").block_size, block_format("mxint8").element.bits
        (16, 8)
    """
    try:
        return NAMED_BLOCK_FORMATS[name]
    except (KeyError, TypeError):
        raise ValueError(f"block format: got {name!r}, expected one of {', '.join(NAMED_BLOCK_FORMATS)}") from None


class OpticalNoise(StrEnum):
    """Noise that is added to a value before it is rounded to a level."""

    DITHER = "dither"
    """Uniform, half a level either way."""
    NONE = "none"
    """No noise."""
    SHOT = "shot"
    """Gaussian, its variance proportional to the signal: the statistics of counted photons."""

    @classmethod
    def parse(cls, value: OpticalNoise | str | bool) -> OpticalNoise:
        """The noise of that name; ``True`` means dither and ``False`` none.

        Raises:
            ValueError: If there is none of that name.

        Example:
            >>> OpticalNoise.parse(True), OpticalNoise.parse("shot")
            (<OpticalNoise.DITHER: 'dither'>, <OpticalNoise.SHOT: 'shot'>)
        """
        if isinstance(value, bool):
            return cls.DITHER if value else cls.NONE
        try:
            return cls(value)
        except ValueError:
            raise ValueError(
                f"noise: got {value!r}, expected one of {', '.join(repr(each.value) for each in cls)}"
            ) from None


@dataclass(frozen=True)
class OpticalFormat(Format):
    """Evenly spaced transmission levels of an optical modulator, both ends of the range included.

    Args:
        levels: Number of levels, at least 2.
        lut: Smallest transmission as a fraction of the range's ends: a non-zero magnitude below it is raised to it.
            ``None`` switches that off.
        noise: Noise that is added before rounding; ``True`` means dither, ``False`` none.

    Raises:
        ValueError: If ``levels`` is not from 2 to 2**24, ``lut`` is not at least 0 and below 1, or no noise has this
            name.

    Example:
        >>> OpticalFormat().bits
        8
    """

    levels: int = 256
    lut: float | None = None
    noise: OpticalNoise = OpticalNoise.NONE

    def __post_init__(self) -> None:
        require_integer("OpticalFormat", "levels", self.levels, 2, MAX_LEVELS)
        if self.lut is not None and (
            isinstance(self.lut, bool) or not isinstance(self.lut, (int, float)) or not 0.0 <= self.lut < 1.0
        ):
            raise ValueError(
                f"OpticalFormat.lut: got {self.lut!r}, expected None or a number that is at least 0 and below 1"
            )
        object.__setattr__(self, "noise", OpticalNoise.parse(self.noise))

    @property
    def bits(self) -> int:
        """Bits that number the levels."""
        return (self.levels - 1).bit_length()


@dataclass(frozen=True)
class FixedPointFormat(Format):
    """Requantisation of an integer accumulator, ``clamp(round(acc * multiplier / 2**shift) + zero_point)``.

    The multiplier and shift of a tensor are calibrated and live in a ``FixedPointEncoding``; this says how wide they
    are and what comes out.

    Args:
        output: Integers that come out.
        multiplier_bits: Width of the multiplier, sign not counted.
        fraction_bits: ``None``: the multiplier is normalised to ``[2**(multiplier_bits - 1), 2**multiplier_bits)`` and
            each has its own shift. A number: all share this shift (16.12 is ``multiplier_bits=28, fraction_bits=12``).
        rounding: How the shifted product is rounded.

    Raises:
        ValueError: If a width is out of range.

    Example:
        >>> FixedPointFormat(IntFormat.from_bits(8, signed=True)).normalised
        True
    """

    output: IntFormat
    multiplier_bits: int = 31
    fraction_bits: int | None = None
    rounding: RoundingMode = RoundingMode.NEAREST_AWAY

    def __post_init__(self) -> None:
        if not isinstance(self.output, IntFormat):
            raise ValueError(f"FixedPointFormat.output: got {self.output!r}, expected an IntFormat")
        require_integer("FixedPointFormat", "multiplier_bits", self.multiplier_bits, 1, MAX_INTEGER_BITS - 1)
        if self.fraction_bits is not None:
            require_integer("FixedPointFormat", "fraction_bits", self.fraction_bits, 0, MAX_INTEGER_BITS - 1)
        object.__setattr__(self, "rounding", RoundingMode(self.rounding))

    @property
    def normalised(self) -> bool:
        """Whether each multiplier has its own shift and its top bit set."""
        return self.fraction_bits is None
