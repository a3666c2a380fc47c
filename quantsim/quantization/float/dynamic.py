"""Floating-point quantization with scales taken from the data at run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.float.formats import choose_format, describe_format, format_from_settings, format_settings
from quantsim.quantization.granularity import Granularity, PerTensor, PerToken
from quantsim_encodings.encoding import DynamicEncoding, Encoding
from quantsim_encodings.formats import FloatFormat
from quantsim_kernels import float_dynamic_quantize_dequantize

__all__ = ["DynamicFloatQuantizeDequantize"]


class DynamicFloatQuantizeDequantize(QuantizerBase):
    """Casts each token (row of the last dimension), or each tensor, with a scale of its own.

    The scale makes the row's largest magnitude the format's largest number. Nothing is calibrated.

    Args:
        exponent_bits: Width of the exponent field.
        mantissa_bits: Width of the stored fraction.
        finite: Whether there is no infinity; False by default.
        unsigned_zero: Whether there is no -0; False by default.
        dtype: A torch dtype instead of these four.
        granularity: `PerToken` (the default) or `PerTensor`.
        format: A format as data instead of all these.

    Raises:
        ConfigurationError: If not exactly one format is given or the granularity is not usable.

    Example:
        >>> quantizer = DynamicFloatQuantizeDequantize(dtype=torch.float8_e4m3fn)
        >>> quantizer(torch.tensor([[448.0, 1.03], [0.0, 0.0]]))
        tensor([[448.,   1.],
                [  0.,   0.]])
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
        format: FloatFormat | None = None,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        self._format = choose_format(owner, exponent_bits, mantissa_bits, finite, unsigned_zero, dtype, format)
        self._granularity = PerToken() if granularity is None else granularity
        if not isinstance(self._granularity, (PerToken, PerTensor)):
            raise ConfigurationError(
                "not a granularity for run-time scales",
                where=f"{owner}(granularity)",
                got=repr(granularity),
                expected="PerToken() or PerTensor()",
            )

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        if not x.is_floating_point():
            return x
        if isinstance(self._granularity, PerTensor):
            return float_dynamic_quantize_dequantize(x.reshape(1, -1), self._format).reshape(x.shape)
        return float_dynamic_quantize_dequantize(x, self._format, inplace=owned)

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
        """Returns format and granularity; there are no scales to export."""
        return DynamicEncoding(self._format, self._granularity, True)

    def set_encodings(self, encoding: Encoding) -> None:
        """Takes over format and granularity of a `DynamicEncoding` of floats.

        Raises:
            TypeError: If ``encoding`` is anything else.
        """
        made = type(self).from_encodings(encoding)
        self._format, self._granularity = made._format, made._granularity

    @classmethod
    def from_encodings(cls, encoding: Encoding) -> Self:
        """Makes a quantizer with the format and granularity of ``encoding``."""
        if not isinstance(encoding, DynamicEncoding) or not isinstance(encoding.format, FloatFormat):
            raise TypeError(f"{cls.__name__}: got {encoding!r}, expected a DynamicEncoding with a FloatFormat")
        return cls(format=encoding.format, granularity=encoding.granularity)

    @override
    def persistent_settings(self) -> dict[str, Any]:
        return {**super().persistent_settings(), "format": format_settings(self._format)}

    @override
    def restore_settings(self, settings: Mapping[str, Any]) -> None:
        super().restore_settings(settings)
        self._format = format_from_settings(settings, self._format)

    @override
    def extra_repr(self) -> str:
        return f"{describe_format(self._format)}, granularity={self._granularity}"
