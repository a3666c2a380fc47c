"""What a float-precision layer is asked for: format, rounding, and what becomes of overflow, subnormals, gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self

from quantsim.errors import ConfigurationError
from quantsim_encodings.formats import (
    BlockFormat,
    FloatFormat,
    MXFormat,
    NanEncoding,
    NVFP4Format,
    RoundingMode,
    block_format,
    float_format,
)

__all__ = ["FloatPrecisionSettings"]

_WHERE: Final = "float precision"
_SEEDS: Final = 2**64
_SEED_STEP: Final = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class FloatPrecisionSettings:
    """How the tensors of a module are cast; the arguments that all float-precision layers have in common.

    Args:
        exp_bits: Exponent bits of an IEEE-like format; together with ``sig_bits``, instead of ``format``.
        sig_bits: Stored fraction bits (the hidden bit not counted).
        format: A float format or its name (``"e4m3fn"``, ``"bf16"``, ``"e5m10"``), or a block format or its name
            (``"mxfp8_e4m3"``, ``"nvfp4"``), instead of the two widths.
        rounding: Rounding mode, its name, or its number.
        saturate: What is too large becomes the largest number (True), infinity or NaN (False), or what IEEE 754 says
            for the rounding mode, and the largest number in formats without infinity (``None``, the default).
        subnormal: Whether numbers below the smallest normal one are kept; they become zero otherwise.
        seed: Seed of the noise of stochastic rounding; by default each quantizer has one of its own.
        gradient_format: Float format that gradients are cast to in the backward, with the same rounding; ``None``
            leaves them alone.
        quantize_output: Whether outputs are cast; ``None`` leaves that to the kind of layer.

    Raises:
        ConfigurationError: If there is not exactly one format, it does not exist, or settings contradict each other.

    Example:
        >>> settings = FloatPrecisionSettings(exp_bits=5, sig_bits=10, rounding=5)
        >>> settings.target.max, settings.rounding.name
        (65504.0, 'STOCHASTIC')
        >>> FloatPrecisionSettings(format="mxfp4").target.block_size
        32
    """

    exp_bits: int | None = None
    sig_bits: int | None = None
    format: FloatFormat | BlockFormat | str | None = None
    rounding: RoundingMode | str | int = RoundingMode.NEAREST_EVEN
    saturate: bool | None = None
    subnormal: bool = True
    seed: int | None = None
    gradient_format: FloatFormat | str | None = None
    quantize_output: bool | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "rounding", RoundingMode.parse(self.rounding))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(str(error), where=f"{_WHERE}, rounding mode (rmode)") from None
        for name, allowed in (("saturate", (None, True, False)), ("quantize_output", (None, True, False))):
            if getattr(self, name) not in allowed:
                raise ConfigurationError(
                    where=f"{_WHERE}, {name}", got=repr(getattr(self, name)), expected="True, False or None"
                )
        if not isinstance(self.subnormal, bool):
            raise ConfigurationError(
                where=f"{_WHERE}, subnormal", got=repr(self.subnormal), expected="True (keep them) or False (flush)"
            )
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int)):
            raise ConfigurationError(where=f"{_WHERE}, seed", got=repr(self.seed), expected="an integer or None")
        self._check_formats()

    def _check_formats(self) -> None:
        """Raises what cannot be; both formats are looked up."""
        target, gradient = self.target, self.gradient_target
        if isinstance(target, FloatFormat):
            _check_overflow(target, self.saturate, "format")
        elif self.saturate is False or not self.subnormal:
            raise ConfigurationError(
                "a block format always saturates and keeps its subnormals",
                where=f"{_WHERE}, format",
                got=f"{self.format!r} with saturate={self.saturate}, subnormal={self.subnormal}",
                expected="saturate=None or True, and subnormal=True",
            )
        if gradient is not None:
            _check_overflow(gradient, self.saturate, "gradient_format")

    @property
    def target(self) -> FloatFormat | BlockFormat:
        """The format that tensors are cast to."""
        widths = (self.exp_bits, self.sig_bits)
        if (self.format is None) == (widths == (None, None)) or (self.format is None and None in widths):
            raise ConfigurationError(
                "exactly one format is needed",
                where=_WHERE,
                got=f"exp_bits={self.exp_bits!r}, sig_bits={self.sig_bits!r}, format={self.format!r}",
                expected="both exp_bits and sig_bits, or format",
            )
        if self.format is not None:
            return _look_up(self.format, "format", blocks=True)
        try:
            return FloatFormat(*widths)  # pyright: ignore[reportArgumentType] (checked above)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(str(error), where=f"{_WHERE}, exp_bits and sig_bits") from None

    @property
    def gradient_target(self) -> FloatFormat | None:
        """The format that gradients are cast to, if any."""
        if self.gradient_format is None:
            return None
        found = _look_up(self.gradient_format, "gradient_format", blocks=False)
        assert isinstance(found, FloatFormat)
        return found

    def with_seed_number(self, number: int) -> Self:
        """Returns the settings with the seed of the tensor (or module) of that number; the same without a seed.

        Tensors must not share their noise, so each gets a seed that follows from the one given and its number.

        Example:
            >>> settings = FloatPrecisionSettings(5, 2, rounding="stochastic", seed=7)
            >>> settings.with_seed_number(0).seed == 7, settings.with_seed_number(1).seed == 7
            (True, False)
        """
        if self.seed is None or number == 0:
            return self
        scrambled = (number * _SEED_STEP) % _SEEDS
        scrambled = ((scrambled ^ (scrambled >> 31)) * 0xD6E8FEB86659FD93) % _SEEDS
        return replace(self, seed=(self.seed + scrambled) % _SEEDS)


def _look_up(format: object, argument: str, *, blocks: bool) -> FloatFormat | BlockFormat:
    allowed = (FloatFormat, MXFormat, NVFP4Format) if blocks else (FloatFormat,)
    if isinstance(format, allowed):
        return format
    problems = f"got {format!r}, expected a format or the name of one"
    if isinstance(format, str):
        problems = ""
        for look_up in (float_format, block_format) if blocks else (float_format,):
            try:
                return look_up(format)
            except ValueError as error:
                problems = f"{problems}; or {error}" if problems else str(error)
    raise ConfigurationError(problems, where=f"{_WHERE}, {argument}")


def _check_overflow(format: FloatFormat, saturate: bool | None, argument: str) -> None:
    if saturate is False and not format.has_infinity and format.nan is NanEncoding.NONE:
        raise ConfigurationError(
            "the format has no code for what is too large",
            where=f"{_WHERE}, {argument}",
            got=f"{format.label} with saturate=False",
            expected="saturate=None or True, for a format with neither infinity nor NaN",
        )
