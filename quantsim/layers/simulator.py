"""`FloatPrecisionSimulator`: the cast to a float format as a module of its own."""

from __future__ import annotations

from typing import Self

from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError
from quantsim.layers.gradient_quantizers import FloatGradientQuantizeDequantize, GradientPrecision
from quantsim.layers.settings import FloatPrecisionSettings
from quantsim_encodings.encoding import Encoding, FloatEncoding
from quantsim_encodings.formats import FloatFormat, RoundingMode

__all__ = ["FloatPrecisionSimulator"]


class FloatPrecisionSimulator(FloatGradientQuantizeDequantize):
    """Rounds tensors onto a float format, keeping their dtype; the gradient passes straight through.

    A module like any other, and a quantizer: it can stand in the containers of a quantized module as well.

    Args:
        exp_bits: Exponent bits of an IEEE-like format.
        sig_bits: Stored fraction bits, the hidden bit not counted.
        rmode: Rounding mode, by number or name (see `quantsim_encodings.formats.RoundingMode`).
        format: Float format or its name, instead of the two widths.
        saturate: Whether what is too large becomes the largest number (True), or infinity or NaN (False); ``None``: as
            IEEE 754 says for the rounding mode, and True for formats without infinity.
        subnormal: Whether subnormal numbers are kept; they become zero otherwise.
        seed: Seed of the noise of stochastic rounding; by default each simulator has one of its own.
        gradient_format: Float format that gradients are cast to in the backward, with the same rounding.

    Raises:
        ConfigurationError: If there is not exactly one float format, or a setting is impossible.

    Example:
        >>> import torch
        >>> FloatPrecisionSimulator(exp_bits=5, sig_bits=10)(torch.tensor([0.1, 65520.0]))
        tensor([0.1000,    inf])
        >>> FloatPrecisionSimulator(5, 2, "toward_zero").quantize(torch.tensor([1.9, 1e6])).tolist()
        [1.75, 57344.0]
    """

    def __init__(
        self,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: RoundingMode | str | int = RoundingMode.NEAREST_EVEN,
        *,
        format: FloatFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
    ) -> None:
        settings = FloatPrecisionSettings(
            exp_bits,
            sig_bits,
            format,
            rounding=rmode,
            saturate=saturate,
            subnormal=subnormal,
            seed=seed,
            gradient_format=gradient_format,
        )
        target = settings.target
        if not isinstance(target, FloatFormat):
            raise ConfigurationError(
                where=f"{type(self).__name__}(format)",
                got=f"the block format {format!r}",
                expected="a float format",
                fix="use quantsim.quantization.mx.MXQuantizeDequantize for blocks",
            )
        super().__init__(
            gradient=GradientPrecision.of(settings),
            format=target,
            rounding=settings.rounding,
            saturate=saturate,
            subnormal=subnormal,
            scaled=False,
            seed=seed,
        )

    def quantize(self, x: Tensor) -> Tensor:
        """The same as calling the simulator."""
        return self(x)

    @classmethod
    @override
    def from_encodings(cls, encoding: Encoding) -> Self:
        """Makes a simulator of the format, rounding and saturation of an encoding without a scale."""
        if not isinstance(encoding, FloatEncoding) or encoding.scale is not None:
            raise TypeError(f"{cls.__name__}: got {encoding!r}, expected a FloatEncoding without a scale")
        return cls(format=encoding.format, rmode=encoding.rounding, saturate=encoding.saturate)
