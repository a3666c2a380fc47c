"""Floating-point quantization with scales taken from the data at run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization.float.formats import choose_format, describe_format, format_from_settings, format_settings
from quantsim.quantization.granularity import Granularity, PerBlock, PerTensor, PerToken
from quantsim.quantization.rounding import RoundingQuantizerBase
from quantsim_encodings.encoding import DynamicEncoding, Encoding
from quantsim_encodings.formats import FloatFormat, RoundingMode
from quantsim_kernels import float_dynamic_quantize_dequantize

__all__ = ["DynamicFloatQuantizeDequantize"]


class DynamicFloatQuantizeDequantize(RoundingQuantizerBase):
    """Casts each token (row of the last dimension), block or tensor with a scale of its own.

    The float32 scale makes the largest magnitude the format's largest number. Nothing is calibrated.

    Args:
        exponent_bits: Width of the exponent field.
        mantissa_bits: Width of the stored fraction.
        finite: Whether there is no infinity; False by default.
        unsigned_zero: Whether there is no -0; False by default.
        dtype: A torch dtype instead of these four.
        granularity: `PerToken` (the default), `PerTensor`, or `PerBlock`, whose last block may be shorter.
        format: A format, or its name such as ``"e4m3fn"``, instead of all these.
        rounding: How values between two numbers are rounded: a `RoundingMode`, its name, or its number.
        seed: Seed of the noise of stochastic modes, see `RoundingQuantizerBase`.

    Raises:
        ConfigurationError: If not exactly one format is given, or the granularity or rounding is not usable.

    Example:
        >>> quantizer = DynamicFloatQuantizeDequantize(dtype=torch.float8_e4m3fn)
        >>> quantizer(torch.tensor([[448.0, 1.03], [0.0, 0.0]]))
        tensor([[448.,   1.],
                [  0.,   0.]])
        >>> blocks = DynamicFloatQuantizeDequantize(format="e2m1", granularity=PerBlock(axis=-1, block_size=2))
        >>> blocks(torch.tensor([6.0, 1.1, 60.0, 11.0, 5.0]))
        tensor([ 6.,  1., 60., 10.,  5.])
    """

    needs_calibration = False

    def __init__(
        self,
        exponent_bits: int | None = None,
        mantissa_bits: int | None = None,
        finite: bool | None = None,
        unsigned_zero: bool | None = None,
        dtype: torch.dtype | None = None,
        granularity: Granularity | None = None,
        *,
        format: FloatFormat | str | None = None,
        rounding: RoundingMode | str | int = RoundingMode.NEAREST_EVEN,
        seed: int | None = None,
    ) -> None:
        super().__init__(rounding=rounding, seed=seed)
        owner = type(self).__name__
        self._format = choose_format(owner, exponent_bits, mantissa_bits, finite, unsigned_zero, dtype, format)
        self._granularity = PerToken() if granularity is None else granularity
        if not isinstance(self._granularity, (PerToken, PerTensor, PerBlock)):
            raise ConfigurationError(
                "not a granularity for run-time scales",
                where=f"{owner}(granularity)",
                got=repr(granularity),
                expected="PerToken(), PerTensor() or PerBlock(axis, block_size)",
            )

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        if not x.is_floating_point():
            return x
        seed = self.current_seed()
        result = self._cast(x, seed, owned)
        self.advance_seed()
        return result

    def _cast(self, x: Tensor, seed: Tensor | None, owned: bool) -> Tensor:
        granularity, format, rounding = self._granularity, self._format, self._rounding
        if isinstance(granularity, PerToken):
            return float_dynamic_quantize_dequantize(x, format, rounding=rounding, seed=seed, inplace=owned)
        if isinstance(granularity, PerTensor):
            row = float_dynamic_quantize_dequantize(x.reshape(1, -1), format, rounding=rounding, seed=seed)
            return row.reshape(x.shape)
        assert isinstance(granularity, PerBlock)
        axis = granularity.axis
        if not -x.dim() <= axis < x.dim():
            raise ShapeError(
                "the tensor has no such dimension",
                where=type(self).__name__,
                got=f"shape {tuple(x.shape)} for {granularity}",
                expected="an axis of the tensor",
            )
        rows = x.movedim(axis, -1)
        size = None if granularity.block_size == -1 else granularity.block_size
        cast = float_dynamic_quantize_dequantize(rows, format, block_size=size, rounding=rounding, seed=seed)
        return cast.movedim(-1, axis)

    @property
    @override
    def format(self) -> FloatFormat:
        return self._format

    @property
    @override
    def granularity(self) -> Granularity:
        return self._granularity

    @property
    @override
    def bitwidth(self) -> int:
        return self._format.bits

    def get_encodings(self) -> DynamicEncoding:
        """Returns format, granularity and rounding; there are no scales to export."""
        return DynamicEncoding(self._format, self._granularity, True, self._rounding)

    def set_encodings(self, encoding: Encoding) -> None:
        """Takes over format, granularity and rounding of a `DynamicEncoding` of floats.

        Raises:
            TypeError: If ``encoding`` is anything else.
        """
        made = type(self).from_encodings(encoding)
        self._format, self._granularity = made._format, made._granularity
        self._set_rounding(made._rounding)

    @classmethod
    def from_encodings(cls, encoding: Encoding) -> Self:
        """Makes a quantizer with the format, granularity and rounding of ``encoding``."""
        if not isinstance(encoding, DynamicEncoding) or not isinstance(encoding.format, FloatFormat):
            raise TypeError(f"{cls.__name__}: got {encoding!r}, expected a DynamicEncoding with a FloatFormat")
        return cls(format=encoding.format, granularity=encoding.granularity, rounding=encoding.rounding)

    @override
    def persistent_settings(self) -> dict[str, Any]:
        return {**super().persistent_settings(), "format": format_settings(self._format)}

    @override
    def restore_settings(self, settings: Mapping[str, Any]) -> None:
        super().restore_settings(settings)
        self._format = format_from_settings(settings, self._format)

    @override
    def extra_repr(self) -> str:
        return f"{describe_format(self._format)}, granularity={self._granularity}{self._describe_rounding()}"
