"""Number formats as frozen data: how numbers are represented, with no tensors and no arithmetic on them.

A format says which real numbers exist before any scale is applied. What is calibrated (scale, offset, range) is an
*encoding* and lives in :mod:`quantsim_encodings.encoding`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

__all__ = [
    "NAMED_FLOAT_FORMATS",
    "NAMED_MX_FORMATS",
    "FixedPointFormat",
    "FloatFormat",
    "Format",
    "IntFormat",
    "MXFormat",
    "MXScaleRule",
    "NVFP4Format",
    "NanEncoding",
    "OpticalFormat",
    "RoundingMode",
    "float_format",
    "mx_format",
]

MAX_INTEGER_BITS: Final = 64
MAX_EXPONENT_BITS: Final = 11
MAX_MANTISSA_BITS: Final = 52
MAX_BLOCK_SIZE: Final = 2**31 - 1
MAX_LEVELS: Final = 2**24


class NanEncoding(StrEnum):
    """Which codes of a floating-point format are not a number."""

    IEEE = "ieee"
    """The top exponent is reserved: NaN for non-zero fractions (and infinity, if there is one, for zero)."""
    ALL_ONES = "all_ones"
    """Only the code with all exponent and fraction bits set (OCP e4m3fn, e8m0)."""
    NEGATIVE_ZERO = "negative_zero"
    """Only the code of negative zero (the ``fnuz`` formats)."""
    NONE = "none"
    """There is no NaN (OCP e3m2, e2m3, e2m1)."""


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
    """Names of the rounding laws that a value may be cast with."""

    NEAREST_ODD = "nearest_odd"
    NEAREST_EVEN = "nearest_even"
    UP = "up"
    DOWN = "down"
    TOWARD_ZERO = "toward_zero"
    STOCHASTIC = "stochastic"
    STOCHASTIC_EQUAL = "stochastic_equal"
    NEAREST_ZERO = "nearest_zero"
    NEAREST_AWAY = "nearest_away"
    ODD = "odd"


def _require_integer(owner: str, field: str, value: object, minimum: int, maximum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
        shown = value if not isinstance(value, int) or abs(value) < 10**30 else "an integer beyond 10**30"
        raise ValueError(f"{owner}.{field}: got {shown!r}, expected an integer from {minimum} to {maximum}")


class Format:
    """Base of all formats; a subclass is a frozen dataclass."""

    __slots__ = ()


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
        _require_integer("IntFormat", "qmin", self.qmin, -(2 ** (MAX_INTEGER_BITS - 1)), 2**MAX_INTEGER_BITS - 1)
        _require_integer("IntFormat", "qmax", self.qmax, -(2 ** (MAX_INTEGER_BITS - 1)), 2**MAX_INTEGER_BITS - 1)
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
        _require_integer("IntFormat", "bits", bits, 2 if signed else 1, MAX_INTEGER_BITS)
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
class FloatFormat(Format):
    """Binary floating-point numbers with ``exponent_bits`` and ``mantissa_bits`` (the hidden bit not counted).

    Args:
        exponent_bits: Width of the exponent field, 1 to 11.
        mantissa_bits: Width of the stored fraction, 0 to 52.
        bias: Exponent bias; ``None`` means ``2**(exponent_bits - 1) - 1``.
        has_infinity: Whether there are infinities (IEEE coding only).
        nan: Which codes are NaN.
        has_subnormals: Whether exponent code 0 holds subnormal numbers.
        has_negative_zero: Whether -0 differs from +0.
        name: Name for people; two formats equal in all else are equal, whatever their names.
        signed: Whether there is a sign bit (not so for the scale format e8m0).
        has_zero: Whether exponent code 0 holds zero (not so for e8m0, where it is 2**-bias).

    Raises:
        ValueError: If a width is out of range, the fields contradict each other, or the format's largest number or
            smallest positive number is no finite float64.

    Example:
        >>> FloatFormat(4, 3, has_infinity=False, nan=NanEncoding.ALL_ONES).max
        448.0
        >>> FloatFormat(5, 10) == float_format("fp16")
        True
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int | None = None
    has_infinity: bool = True
    nan: NanEncoding = NanEncoding.IEEE
    has_subnormals: bool = True
    has_negative_zero: bool = True
    name: str | None = None
    signed: bool = True
    has_zero: bool = True

    def __post_init__(self) -> None:
        _require_integer("FloatFormat", "exponent_bits", self.exponent_bits, 1, MAX_EXPONENT_BITS)
        _require_integer("FloatFormat", "mantissa_bits", self.mantissa_bits, 0, MAX_MANTISSA_BITS)
        if self.bias is None:
            object.__setattr__(self, "bias", 2 ** (self.exponent_bits - 1) - 1)
        _require_integer("FloatFormat", "bias", self.bias, -4096, 4096)
        object.__setattr__(self, "nan", NanEncoding(self.nan))
        self._check_consistency()
        try:
            largest, smallest = self.max, self.tiny
        except OverflowError:
            largest, smallest = math.inf, 0.0
        if not (0 < smallest <= largest < math.inf):
            raise ValueError(
                f"{self.label}: bias {self.bias} gives a range from {smallest} to {largest}, "
                "expected one inside float64's; use a bias nearer to the default"
            )

    def _check_consistency(self) -> None:
        if self.has_infinity and self.nan is not NanEncoding.IEEE:
            raise ValueError(
                f"{self.label}: has_infinity with nan={self.nan.value!r}, expected nan='ieee'; "
                "set has_infinity=False for a finite format"
            )
        if self.nan is NanEncoding.IEEE and not self.has_infinity and self.mantissa_bits == 0:
            raise ValueError(f"{self.label}: nan='ieee' needs mantissa_bits >= 1 to tell NaN from infinity")
        if self.nan is NanEncoding.NEGATIVE_ZERO and (self.has_negative_zero or not self.signed):
            raise ValueError(
                f"{self.label}: nan='negative_zero' takes the code of -0; set has_negative_zero=False and signed=True"
            )
        if self.has_subnormals and not self.has_zero:
            raise ValueError(f"{self.label}: has_subnormals needs has_zero=True")
        if self.nan is NanEncoding.IEEE and self.exponent_bits == 1 and self.mantissa_bits == 0:
            raise ValueError(f"{self.label}: one exponent bit, reserved by nan='ieee', leaves no finite number but 0")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FloatFormat):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        return (
            self.exponent_bits,
            self.mantissa_bits,
            self.bias,
            self.has_infinity,
            self.nan,
            self.has_subnormals,
            self.has_negative_zero,
            self.signed,
            self.has_zero,
        )

    @property
    def label(self) -> str:
        """The name, or ``e<E>m<M>`` for a format without one."""
        return self.name or f"e{self.exponent_bits}m{self.mantissa_bits}"

    @property
    def exponent_bias(self) -> int:
        """The bias as a plain int (``bias`` is only optional as an argument)."""
        assert self.bias is not None
        return self.bias

    @property
    def bits(self) -> int:
        """Width of a code, sign included."""
        return int(self.signed) + self.exponent_bits + self.mantissa_bits

    @property
    def max_exponent(self) -> int:
        """Exponent of the largest finite number, ``floor(log2(max))``."""
        top = 2**self.exponent_bits - 1 - self.exponent_bias
        if self.nan is NanEncoding.IEEE or (self.nan is NanEncoding.ALL_ONES and self.mantissa_bits == 0):
            return top - 1
        return top

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number."""
        return (1 if self.has_zero else 0) - self.exponent_bias

    @property
    def max(self) -> float:
        """Largest finite number."""
        significand = 2 ** (self.mantissa_bits + 1) - 1
        if self.nan is NanEncoding.ALL_ONES and self.mantissa_bits > 0:
            significand -= 1
        return math.ldexp(significand, self.max_exponent - self.mantissa_bits)

    @property
    def min_normal(self) -> float:
        """Smallest positive normal number."""
        return math.ldexp(1.0, self.min_exponent)

    @property
    def tiny(self) -> float:
        """Smallest positive number, subnormal if the format has those."""
        return math.ldexp(1.0, self.min_exponent - (self.mantissa_bits if self.has_subnormals else 0))


def _named_float_formats() -> dict[str, FloatFormat]:
    finite = {"has_infinity": False, "nan": NanEncoding.NONE}
    formats = (
        FloatFormat(5, 10, name="fp16"),
        FloatFormat(8, 7, name="bf16"),
        FloatFormat(8, 10, name="tf32"),
        FloatFormat(8, 23, name="fp32"),
        FloatFormat(4, 3, has_infinity=False, nan=NanEncoding.ALL_ONES, name="e4m3fn"),
        FloatFormat(4, 3, name="e4m3"),
        FloatFormat(5, 2, name="e5m2"),
        FloatFormat(3, 4, name="e3m4"),
        FloatFormat(3, 2, **finite, name="e3m2"),
        FloatFormat(2, 3, **finite, name="e2m3"),
        FloatFormat(2, 1, **finite, name="e2m1"),
        FloatFormat(
            8,
            0,
            has_infinity=False,
            nan=NanEncoding.ALL_ONES,
            has_subnormals=False,
            has_negative_zero=False,
            name="e8m0",
            signed=False,
            has_zero=False,
        ),
    )
    return {float_format.label: float_format for float_format in formats}


NAMED_FLOAT_FORMATS: Final[Mapping[str, FloatFormat]] = MappingProxyType(_named_float_formats())
"""Formats by name: IEEE 754 (fp16, fp32), bf16, tf32, the OCP formats, and IEEE-like e4m3 (max 240) and e3m4."""


def float_format(name: str) -> FloatFormat:
    """Looks a named float format up.

    Raises:
        ValueError: If there is none of that name; the message lists the names.

    Example:
        >>> float_format("e2m1").max
        6.0
    """
    try:
        return NAMED_FLOAT_FORMATS[name]
    except (KeyError, TypeError):
        raise ValueError(f"float format: got {name!r}, expected one of {', '.join(NAMED_FLOAT_FORMATS)}") from None


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
        _require_integer("MXFormat", "block_size", self.block_size, 1, MAX_BLOCK_SIZE)
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
        _require_integer("NVFP4Format", "block_size", self.block_size, 1, MAX_BLOCK_SIZE)

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


@dataclass(frozen=True)
class OpticalFormat(Format):
    """Evenly spaced transmission levels of an optical modulator, both ends of the range included.

    Args:
        levels: Number of levels, at least 2.
        lut: Smallest transmission as a fraction of the range's ends: a non-zero magnitude below it is raised to it.
            ``None`` switches that off.
        noise: Whether uniform noise of half a level either way is added before rounding.

    Raises:
        ValueError: If ``levels`` is not from 2 to 2**24, or ``lut`` not from 0 to 1.

    Example:
        >>> OpticalFormat().bits
        8
    """

    levels: int = 256
    lut: float | None = None
    noise: bool = False

    def __post_init__(self) -> None:
        _require_integer("OpticalFormat", "levels", self.levels, 2, MAX_LEVELS)
        if self.lut is not None and not (isinstance(self.lut, (int, float)) and 0.0 <= self.lut <= 1.0):
            raise ValueError(f"OpticalFormat.lut: got {self.lut!r}, expected None or a number from 0 to 1")

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
        _require_integer("FixedPointFormat", "multiplier_bits", self.multiplier_bits, 1, MAX_INTEGER_BITS - 1)
        if self.fraction_bits is not None:
            _require_integer("FixedPointFormat", "fraction_bits", self.fraction_bits, 0, MAX_INTEGER_BITS - 1)
        object.__setattr__(self, "rounding", RoundingMode(self.rounding))

    @property
    def normalised(self) -> bool:
        """Whether each multiplier has its own shift and its top bit set."""
        return self.fraction_bits is None
