"""Quantizers that cast the gradient too, for training in low precision.

Forward they are the quantizers they derive from. In the backward the gradient that arrives is rounded onto a float
format of its own before it goes on (straight through). A module that has one of these for each input, parameter and
output computes its gradients from, and to, numbers of that format; master weights stay what they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.layers.settings import FloatPrecisionSettings
from quantsim.quantization.float import FloatQuantizeDequantize
from quantsim.quantization.float.formats import format_settings
from quantsim.quantization.mx import MXQuantizeDequantize
from quantsim.quantization.rounding import RoundingQuantizerBase
from quantsim_encodings.formats import FloatFormat, RoundingMode, float_format
from quantsim_kernels import float_cast_gradient

__all__ = ["FloatGradientQuantizeDequantize", "GradientPrecision", "MXGradientQuantizeDequantize"]

_FP32: Final = float_format("fp32")
_GRADIENT_NOISE: Final = 0x5851F42D4C957F2D
"""Added to the seed of the forward's noise: the gradient's must be independent of it."""


@dataclasses.dataclass(frozen=True)
class GradientPrecision:
    """How gradients are cast.

    Args:
        format: The float format of gradients.
        rounding: Rounding mode.
        saturate: See `quantsim_kernels.float_cast`.
        subnormal: Whether numbers below the smallest normal one are kept.
    """

    format: FloatFormat
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN
    saturate: bool | None = None
    subnormal: bool = True

    @classmethod
    def of(cls, settings: FloatPrecisionSettings) -> GradientPrecision | None:
        """What settings say about gradients, ``None`` if they are to be left alone.

        Example:
            >>> GradientPrecision.of(FloatPrecisionSettings(4, 3, gradient_format="e5m2")).format.max
            57344.0
        """
        format = settings.gradient_target
        if format is None:
            return None
        return cls(format, RoundingMode.parse(settings.rounding), settings.saturate, settings.subnormal)


class _CastsGradient(RoundingQuantizerBase):
    """What the classes of this file add to a quantizer."""

    gradient_precision: GradientPrecision | None
    seed: Tensor
    _held_seed: Tensor | None = None
    """The seed of this call while it is being compiled."""

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        precision = self.gradient_precision
        if precision is None or not torch.is_grad_enabled() or not (x.is_floating_point() and x.requires_grad):
            return self._cast(x, owned=owned)
        seed = self.current_seed()
        if seed is not None and torch.compiler.is_compiling():
            # A compiler recomputes what is cheap in the backward, from a buffer that has moved on by then. It does not
            # recompute scans, and a scan over one number is that number.
            seed = self._held_seed = seed.cumsum(0)
        # First the cast of the gradient, which gives a view, then the other, whose result a later op may overwrite.
        x = float_cast_gradient(
            x,
            precision.format,
            precision.rounding,
            saturate=precision.saturate,
            subnormal=precision.subnormal,
            seed=None if seed is None else seed + _GRADIENT_NOISE,
        )
        y = self._cast(x, owned=owned)
        self._held_seed = None
        return y.clone() if y is x else y

    @override
    def current_seed(self) -> Tensor | None:
        return super().current_seed() if self._held_seed is None else self._held_seed

    @override
    def advance_seed(self) -> None:
        if self._held_seed is not None:  # so that the forward needs it, and not only the backward
            with torch.no_grad():
                self.seed.copy_(self._held_seed)
        super().advance_seed()

    def _cast(self, x: Tensor, *, owned: bool) -> Tensor:
        return super().map_to_grid(x, owned=owned)

    @override
    def persistent_settings(self) -> dict[str, Any]:
        precision = self.gradient_precision
        saved = None
        if precision is not None:
            saved = {
                "format": format_settings(precision.format),
                "rounding": precision.rounding.value,
                "saturate": precision.saturate,
                "subnormal": precision.subnormal,
            }
        return {**super().persistent_settings(), "gradient": saved}

    @override
    def restore_settings(self, settings: Mapping[str, Any]) -> None:
        super().restore_settings(settings)
        if "gradient" not in settings:
            return
        saved = settings["gradient"]
        self.gradient_precision = saved and GradientPrecision(
            FloatFormat(**saved["format"]),
            RoundingMode.parse(saved["rounding"]),
            saved["saturate"],
            saved["subnormal"],
        )

    @override
    def extra_repr(self) -> str:
        precision = self.gradient_precision
        gradient = "" if precision is None else f", gradient={precision.format.label} {precision.rounding.value}"
        return f"{super().extra_repr()}{gradient}"


class FloatGradientQuantizeDequantize(_CastsGradient, FloatQuantizeDequantize):
    """`FloatQuantizeDequantize` whose gradient is cast as well.

    With the format fp32 the forward is the identity whatever the dtype, and only the gradient is cast.

    Args:
        gradient: How gradients are cast; ``None`` leaves them alone.
        settings: Those of `FloatQuantizeDequantize`.

    Example:
        >>> half = GradientPrecision(float_format("fp16"))
        >>> quantizer = FloatGradientQuantizeDequantize(gradient=half, format="e4m3", scaled=False)
        >>> x = torch.tensor([1.97], requires_grad=True)
        >>> y = quantizer(x)
        >>> (1.0001 * y).sum().backward()
        >>> y.item(), x.grad.item()
        (2.0, 1.0)
    """

    def __init__(self, *, gradient: GradientPrecision | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.gradient_precision = gradient

    @override
    def _cast(self, x: Tensor, *, owned: bool) -> Tensor:
        if self.format == _FP32 and not self.is_scaled:
            self.advance_seed()  # the next gradient's noise is another
            return x
        return super()._cast(x, owned=owned)


class MXGradientQuantizeDequantize(_CastsGradient, MXQuantizeDequantize):
    """`MXQuantizeDequantize` whose gradient is cast as well, to a float format.

    Args:
        gradient: How gradients are cast; ``None`` leaves them alone.
        settings: Those of `MXQuantizeDequantize`.
    """

    def __init__(self, *, gradient: GradientPrecision | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.gradient_precision = gradient
