"""Quantizers onto floating-point grids: native dtypes and any exponent/mantissa widths."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization.analyzers.base import EncodingAnalyzer
from quantsim.quantization.analyzers.grouping import normalise_shape
from quantsim.quantization.analyzers.min_max import MinMaxEncodingAnalyzer
from quantsim.quantization.exact_division import dividend_for
from quantsim.quantization.float.formats import (
    choose_format,
    describe_format,
    dtype_of,
    format_from_settings,
    format_of_dtype,
    format_settings,
)
from quantsim.quantization.granularity import Granularity, granularity_of
from quantsim.quantization.rounding import RoundingQuantizerBase
from quantsim.quantization.sharded_tensors import whole
from quantsim_encodings.encoding import Encoding, FloatEncoding
from quantsim_encodings.formats import FloatFormat, NanEncoding, RoundingMode
from quantsim_kernels import float_cast, float_quantize_dequantize

__all__ = ["FloatQuantizeDequantize", "QuantizeDequantize"]

_UNSCALED_BITS = 16
"""From this width on the numbers span enough binades to be used as they are, unless an analyzer is given."""


def _largest_in_float32(format: FloatFormat) -> float:
    return min(format.max, torch.finfo(torch.float32).max)


class FloatQuantizeDequantize(RoundingQuantizerBase):
    """Casts to a floating-point format and back: ``cast(x / scale) * scale`` with ``scale = maxval / format.max``.

    Formats under 16 bits are scaled such that the largest magnitude observed becomes the format's largest number;
    others are not scaled unless an analyzer is given. ``scaled`` chooses for itself: without a scale the quantizer is a
    plain cast, whatever the width, and nothing is calibrated.

    Args:
        exponent_bits: Width of the exponent field.
        mantissa_bits: Width of the stored fraction.
        finite: Whether there is no infinity; False by default.
        unsigned_zero: Whether there is no -0; False by default.
        dtype: A torch dtype instead of these four.
        shape: Shape of the scales; ``()`` (per tensor) by default.
        block_size: Elements of a block in each dimension, or ``None``.
        encoding_analyzer: Turns observed data into a range; min-max by default where there is a scale.
        format: A format, or its name such as ``"e5m10"``, instead of widths or dtype.
        rounding: How values between two numbers are rounded: a `RoundingMode`, its name, or its number.
        saturate: Whether magnitudes beyond the largest number become it. False: infinity as IEEE 754 says for the
            rounding mode, or NaN in a format without infinities. ``None``: False in formats with infinities, True in
            others. A scaled quantizer always saturates.
        subnormal: False: results below the format's smallest normal number become zero.
        scaled: Whether there is a scale; ``None`` decides by width and analyzer as said above.
        clip_gradient: Whether no gradient flows where magnitudes lie beyond the largest number; by default not with
            ``scaled=False``. A scaled quantizer always clips: there the gradient goes to the scale.
        seed: Seed of the noise of stochastic modes, see `RoundingQuantizerBase`.

    Attributes:
        maxval: Magnitude that becomes the format's largest number, float32 of ``shape``, a Parameter where it is
            calibrated (NaN until then), a buffer where there is no scale.

    Raises:
        ConfigurationError: If not exactly one format is given, there is no such format or rounding mode, or arguments
            contradict each other.

    Example:
        >>> quantizer = FloatQuantizeDequantize(dtype=torch.float8_e4m3fn)
        >>> with quantizer.compute_encodings():
        ...     _ = quantizer(torch.tensor([-3.5, 7.0]))
        >>> quantizer(torch.tensor([1.0, 1.03, 100.0])).detach()
        tensor([1., 1., 7.])
        >>> FloatQuantizeDequantize(format="e4m3", rounding="toward_zero", scaled=False)(
        ...     torch.tensor([1.1, 300.0])
        ... )
        tensor([  1., 240.])
    """

    maxval: Tensor

    def __init__(
        self,
        exponent_bits: int | None = None,
        mantissa_bits: int | None = None,
        finite: bool | None = None,
        unsigned_zero: bool | None = None,
        dtype: torch.dtype | None = None,
        shape: int | Sequence[int] | None = None,
        block_size: Sequence[int] | None = None,
        encoding_analyzer: EncodingAnalyzer | None = None,
        *,
        format: FloatFormat | str | None = None,
        rounding: RoundingMode | str | int = RoundingMode.NEAREST_EVEN,
        saturate: bool | None = True,
        subnormal: bool = True,
        scaled: bool | None = None,
        clip_gradient: bool | None = None,
        seed: int | None = None,
    ) -> None:
        owner = type(self).__name__
        chosen = choose_format(owner, exponent_bits, mantissa_bits, finite, unsigned_zero, dtype, format)
        if not subnormal and chosen.has_subnormals:
            chosen = dataclasses.replace(chosen, has_subnormals=False)
        if shape is None:
            shape = () if encoding_analyzer is None else encoding_analyzer.shape
        own_shape = normalise_shape(shape)
        blocks = None if block_size is None else tuple(int(size) for size in block_size)
        if blocks is not None and len(blocks) != len(own_shape):
            raise ConfigurationError(
                "block_size does not fit shape",
                where=f"{owner}(block_size)",
                got=f"block_size={blocks}, shape={own_shape}",
                expected="one size for each dimension of shape",
            )
        if scaled is False and (encoding_analyzer is not None or blocks is not None):
            raise ConfigurationError(
                "a plain cast has no range",
                where=f"{owner}(scaled)",
                got="scaled=False with an encoding_analyzer or a block_size",
                expected="neither",
                fix="leave them out, or scaled=False",
            )
        has_scale = (encoding_analyzer is not None or chosen.bits < _UNSCALED_BITS) if scaled is None else scaled
        if encoding_analyzer is None and has_scale:
            encoding_analyzer = MinMaxEncodingAnalyzer(own_shape, blocks)
        elif encoding_analyzer is not None and encoding_analyzer.block_size is None and blocks is not None:
            encoding_analyzer.block_size = blocks
        super().__init__(rounding=rounding, seed=seed, encoding_analyzer=encoding_analyzer)
        self.shape = own_shape
        self.block_size = blocks
        self._format = chosen
        self._scaled = has_scale
        self._saturate = self._checked_saturation(chosen, saturate)
        if clip_gradient is False and has_scale:
            raise ConfigurationError(
                "a scaled quantizer clips the gradient",
                where=f"{owner}(clip_gradient)",
                got="clip_gradient=False",
                expected="None or True: what lies beyond the range moves the scale",
                fix="scaled=False makes a plain cast",
            )
        self._clip_gradient = scaled is not False if clip_gradient is None else bool(clip_gradient)
        if has_scale:
            self.register_range_parameter("maxval", self.shape)
        else:
            self.register_buffer("maxval", torch.full(self.shape, _largest_in_float32(chosen), dtype=torch.float32))
            self._initialized = True

    def _checked_saturation(self, format: FloatFormat, saturate: bool | None) -> bool:
        """What ``saturate`` means in a format; raises where it is impossible."""
        if saturate is None:
            return self._scaled or not format.has_infinity
        if saturate:
            return True
        where = f"{type(self).__name__}(saturate)"
        if self._scaled:
            raise ConfigurationError(
                "a scaled quantizer saturates",
                where=where,
                got=f"saturate=False, {format.label} with a scale",
                expected="True or None",
                fix="scaled=False makes a plain cast, which has this choice",
            )
        if not format.has_infinity and format.nan is NanEncoding.NONE:
            raise ConfigurationError(
                f"{format.label} has neither infinities nor NaN for what is too large",
                where=where,
                got="saturate=False",
                expected="True or None",
            )
        return False

    # ---------------------------------------------------------------- format and range

    @property
    @override
    def format(self) -> FloatFormat:
        return self._format

    @property
    @override
    def granularity(self) -> Granularity:
        return granularity_of(self.shape, self.block_size)

    @property
    @override
    def bitwidth(self) -> int:
        return self._format.bits

    @property
    def exponent_bits(self) -> int:
        """Width of the exponent field."""
        return self._format.exponent_bits

    @property
    def mantissa_bits(self) -> int:
        """Width of the stored fraction."""
        return self._format.mantissa_bits

    def is_float16(self) -> bool:
        """Whether the format is IEEE float16."""
        return dtype_of(self._format) is torch.float16

    def is_bfloat16(self) -> bool:
        """Whether the format is bfloat16."""
        return dtype_of(self._format) is torch.bfloat16

    @property
    def saturate(self) -> bool:
        """Whether magnitudes beyond the largest number become it, rather than infinity or NaN."""
        return self._saturate

    @override
    def take_training_choices(self, other: RoundingQuantizerBase) -> None:
        super().take_training_choices(other)
        if isinstance(other, FloatQuantizeDequantize) and not self._scaled and not other._scaled:
            self._clip_gradient = other._clip_gradient

    @property
    def is_scaled(self) -> bool:
        """Whether values are scaled before the cast; if not, nothing is calibrated."""
        return self._scaled

    def get_scale(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Returns the scale in the quantizer's shape, or ``None`` while uninitialised; 1 for unscaled formats."""
        if not self.is_initialized():
            return None
        if not self._scaled:
            return torch.ones_like(self.maxval, dtype=dtype or torch.float32)
        return self._scale_of(whole(self._range_parameter("maxval"))).to(dtype or torch.float32)

    def _scale_of(self, maxval: Tensor) -> Tensor:
        # A scale must be a positive normal number: beneath that, division would overflow.
        return (maxval.abs() / self._format.max).clamp(min=torch.finfo(torch.float32).tiny)

    def set_range(self, maxval: Tensor | float) -> None:
        """Sets the magnitude that becomes the format's largest number.

        Raises:
            ConfigurationError: If it is not finite, has the wrong shape, or the format is not scaled.
        """
        if not self._scaled:
            raise ConfigurationError(
                "the quantizer casts without a scale",
                where=f"{type(self).__name__}.set_range",
                expected="a quantizer made with an encoding analyzer",
            )
        self.assign_range_parameters(maxval=torch.as_tensor(maxval, dtype=torch.float32).abs())

    @override
    def set_range_from_statistics(self, analyzer: EncodingAnalyzer) -> None:
        minimum, maximum = analyzer.compute_encodings(2**self.bitwidth - 1, is_symmetric=False)
        self.assign_range_parameters(maxval=torch.maximum(minimum.abs(), maximum.abs()))

    def _kernel_scale(self) -> Tensor:
        maxval = self._parameters["maxval"]
        assert maxval is not None
        if torch.compiler.is_compiling() or (maxval.requires_grad and torch.is_grad_enabled()) or maxval.is_inference():
            return self._per_tensor(self._scale_of(maxval))
        key = (maxval, maxval._version, maxval.data_ptr())
        derived = self._derived
        if derived is None or derived[0][0] is not maxval or derived[0][1:] != key[1:]:
            with torch.inference_mode(False), torch.no_grad():
                derived = self._derived = (key, self._per_tensor(self._scale_of(maxval.detach())))
        return derived[1]

    def _per_tensor(self, scale: Tensor) -> Tensor:
        return scale.reshape(()) if self.block_size is None and scale.numel() == 1 else scale

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        if not x.is_floating_point():
            return x
        seed = self.current_seed() if self._stochastic else None
        if self._scaled:
            result = float_quantize_dequantize(
                x,
                self._kernel_scale(),
                self._format,
                self.block_size,
                rounding=self._rounding,
                seed=seed,
                inplace=owned,
            )
        else:
            result = float_cast(
                x,
                self._format,
                self._rounding,
                saturate=self._saturate,
                seed=seed,
                clip_gradient=self._clip_gradient,
                inplace=owned,
            )
        if seed is not None:
            self.advance_seed()
        return result

    # ---------------------------------------------------------------- exchange

    def get_encodings(self) -> FloatEncoding | None:
        """Returns format, scale and rounding as a plain value, or ``None`` while uninitialised."""
        scale = self.get_scale()
        if scale is None:
            return None
        if not self._scaled:
            return FloatEncoding(self._format, saturate=self._saturate, rounding=self._rounding)
        return FloatEncoding(
            self._format,
            scale.detach().cpu().numpy(),
            granularity=self.granularity,
            block_size=self.block_size,
            rounding=self._rounding,
        )

    def set_encodings(self, encoding: Encoding) -> None:
        """Takes over format, scale, saturation and rounding of ``encoding``.

        Raises:
            TypeError: If ``encoding`` is not a `FloatEncoding`.
            ShapeError: If it has another number of scales.
            ConfigurationError: If it has a scale and the quantizer has none, or does not saturate and the quantizer
                has a scale.
        """
        owner = f"{type(self).__name__}.set_encodings"
        if not isinstance(encoding, FloatEncoding):
            raise TypeError(f"{owner}: got a {type(encoding).__name__}, expected a FloatEncoding")
        if not self._scaled:
            if encoding.scale is not None:
                raise ConfigurationError(
                    "the quantizer casts without a scale",
                    where=owner,
                    got="an encoding with one",
                    fix="use from_encodings",
                )
            self._saturate = self._checked_saturation(encoding.format, encoding.saturate)
            self._format = encoding.format
            self._set_rounding(encoding.rounding)
            self.maxval.fill_(_largest_in_float32(encoding.format))
            return
        self._checked_saturation(encoding.format, encoding.saturate)
        scale = torch.ones(self.shape) if encoding.scale is None else torch.tensor(encoding.scale, dtype=torch.float32)
        if scale.numel() != math.prod(self.shape):
            raise ShapeError(
                "the encoding does not fit the quantizer",
                where=owner,
                got=f"scales of shape {tuple(scale.shape)}",
                expected=f"shape {self.shape}",
                fix="use from_encodings to make a quantizer of the encoding's shape",
            )
        self.assign_range_parameters(maxval=dividend_for(scale.reshape(self.shape), encoding.format.max))
        self._format = encoding.format
        self._set_rounding(encoding.rounding)
        self._forget_derived()

    @classmethod
    def from_encodings(cls, encoding: Encoding) -> Self:
        """Makes a quantizer that has the format and the scale of ``encoding``."""
        if not isinstance(encoding, FloatEncoding):
            raise TypeError(f"{cls.__name__}: got a {type(encoding).__name__}, expected a FloatEncoding")
        shape = () if encoding.scale is None else tuple(encoding.scale.shape)
        analyzer = None if encoding.scale is None else MinMaxEncodingAnalyzer(shape, encoding.block_size)
        quantizer = cls(
            shape=shape,
            block_size=encoding.block_size,
            encoding_analyzer=analyzer,
            format=encoding.format,
            rounding=encoding.rounding,
            saturate=encoding.saturate,
            scaled=analyzer is not None,
            clip_gradient=True if analyzer is not None else encoding.saturate,
        )
        quantizer.set_encodings(encoding)
        return quantizer

    def get_legacy_encodings(self) -> list[dict[str, Any]] | None:
        """Returns AIMET's ``[{"bitwidth": ..., "dtype": "float"}]``."""
        return [{"bitwidth": self.bitwidth, "dtype": "float"}] if self.is_initialized() else None

    def set_legacy_encodings(self, encodings: Sequence[Mapping[str, Any]]) -> None:
        """Becomes an unscaled float16 quantizer, the only float there is in AIMET's legacy encodings.

        Raises:
            ConfigurationError: If the list says anything else.
        """
        if len(encodings) != 1 or encodings[0].get("bitwidth") != 16 or encodings[0].get("dtype") != "float":
            raise ConfigurationError(
                "only float16 can be imported",
                where=f"{type(self).__name__}.set_legacy_encodings",
                got=repr(list(encodings)[:2]),
                expected='[{"bitwidth": 16, "dtype": "float"}]',
            )
        self.set_encodings(FloatEncoding(format_of_dtype(torch.float16)))

    @override
    def persistent_settings(self) -> dict[str, Any]:
        return {
            **super().persistent_settings(),
            "format": format_settings(self._format),
            "saturate": self._saturate,
            "clip_gradient": self._clip_gradient,
        }

    @override
    def restore_settings(self, settings: Mapping[str, Any]) -> None:
        super().restore_settings(settings)
        self._format = format_from_settings(settings, self._format)
        self._saturate = bool(settings.get("saturate", self._saturate))
        self._clip_gradient = bool(settings.get("clip_gradient", self._clip_gradient))

    @override
    def extra_repr(self) -> str:
        block = "" if self.block_size is None else f", block_size={self.block_size}"
        saturate = "" if self._saturate else ", saturate=False"
        return (
            f"{describe_format(self._format)}, shape={self.shape}{block}, scaled={self._scaled}"
            f"{saturate}{self._describe_rounding()}"
        )


class QuantizeDequantize(FloatQuantizeDequantize):
    """`FloatQuantizeDequantize` by the name it has in the affine module."""
