"""Floating-point formats as frozen data, and the table of those that have a name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from quantsim_encodings._format_base import Format, require_integer

__all__ = ["NAMED_FLOAT_FORMATS", "FloatFormat", "NanEncoding", "float_format"]

MAX_EXPONENT_BITS: Final = 11
MAX_MANTISSA_BITS: Final = 52


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
        require_integer("FloatFormat", "exponent_bits", self.exponent_bits, 1, MAX_EXPONENT_BITS)
        require_integer("FloatFormat", "mantissa_bits", self.mantissa_bits, 0, MAX_MANTISSA_BITS)
        if self.bias is None:
            object.__setattr__(self, "bias", 2 ** (self.exponent_bits - 1) - 1)
        require_integer("FloatFormat", "bias", self.bias, -4096, 4096)
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


_SPELLED: Final = re.compile(r"e([0-9]{1,2})m([0-9]{1,2})")


def float_format(name: str) -> FloatFormat:
    """Looks a named float format up; ``e<E>m<M>`` otherwise spells an IEEE-like format of these widths.

    A name of the table comes first, so ``"e3m2"`` is the finite OCP format; ``FloatFormat(3, 2)`` is the IEEE-like one.

    Args:
        name: A name of `NAMED_FLOAT_FORMATS`, or for instance ``"e5m10"`` (1 to 11 exponent bits, 0 to 52 fraction
            bits).

    Raises:
        ValueError: If there is none of that name; the message lists the names.

    Example:
        >>> float_format("e2m1").max, float_format("e5m10") == float_format("fp16")
        (6.0, True)
        >>> float_format("e6m9").max
        4290772992.0
    """
    try:
        return NAMED_FLOAT_FORMATS[name]
    except (KeyError, TypeError):
        pass
    spelled = _SPELLED.fullmatch(name) if isinstance(name, str) else None
    if spelled is None:
        raise ValueError(
            f"float format: got {name!r}, expected one of {', '.join(NAMED_FLOAT_FORMATS)}, or e<E>m<M> with E "
            "exponent and M fraction bits, for instance 'e6m9'"
        )
    return FloatFormat(int(spelled[1]), int(spelled[2]), name=name)
