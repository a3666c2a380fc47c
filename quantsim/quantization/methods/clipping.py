"""PACT and RCF: where values are clipped is learned together with the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError
from quantsim.quantization.affine.exchange import require_affine
from quantsim.quantization.analyzers.base import EncodingAnalyzer
from quantsim.quantization.methods.learned_scale import LearnedScaleQuantizeDequantize
from quantsim_encodings.encoding import Encoding
from quantsim_encodings.formats import IntFormat
from quantsim_kernels.affine import affine_quantize_dequantize
from quantsim_kernels.reference.operand_layout import blocked_shapes

__all__ = ["PACTQuantizeDequantize", "RCFQuantizeDequantize"]


class _ClippingQuantizeDequantize(LearnedScaleQuantizeDequantize):
    """A grid from ``-alpha`` (symmetric) or 0 (not) to ``alpha``, whose zero is the integer 0.

    A symmetric grid has as many integers below 0 as above: of ``bitwidth`` bits the smallest is not used.
    """

    learned_name = "alpha"

    alpha: Tensor

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self._qmin != 0 and not self.has_zero_offset:
            raise ConfigurationError(
                "clipping needs a grid whose zero is the integer 0",
                where=type(self).__name__,
                got=f"qmin={self._qmin}, qmax={self._qmax}, symmetric={self._symmetric}",
                expected="unsigned integers, or symmetric signed ones",
                fix="use LSQQuantizeDequantize, which has a zero point",
            )

    @override
    def _set_grid(self, qmin: int, qmax: int, symmetric: bool) -> None:
        super()._set_grid(-qmax if symmetric and qmin == -qmax - 1 else qmin, qmax, symmetric)

    @override
    def set_encodings(self, encoding: Encoding) -> None:
        affine = require_affine(type(self).__name__, encoding)
        qmax = affine.format.qmax
        if affine.symmetric and affine.format.qmin == -qmax - 1:
            affine = replace(affine, format=IntFormat(-qmax, qmax))
        super().set_encodings(affine)

    @override
    def divisor(self) -> float:
        return float(self._qmax)

    @override
    def _offset_operand(self, offset: Tensor) -> Tensor | None:
        return None

    @override
    def set_range_from_statistics(self, analyzer: EncodingAnalyzer) -> None:
        minimum, maximum = analyzer.compute_encodings(self._qmax - self._qmin, self._symmetric)
        if self._qmin == 0:  # what is negative is clipped, and does not make the grid coarser
            minimum = torch.zeros_like(minimum)
        self.assign_range_parameters(min=minimum, max=maximum)

    @override
    def _check_offset(self, offset: Tensor | None) -> None:
        if offset is not None and not offset.is_meta and bool((offset != 0).any()):
            raise ConfigurationError(
                "this quantizer has no zero point",
                where=type(self).__name__,
                got=f"offsets {offset.flatten()[:4].tolist()}",
                expected="0: a range from 0 on, or a symmetric one",
                fix="use LSQQuantizeDequantize",
            )


class PACTQuantizeDequantize(_ClippingQuantizeDequantize):
    """Parameterized clipping activation (Choi et al. 2018): ``alpha``, where activations are clipped, is learned.

    ``x^ = rint(clip(x, low, alpha) / s) * s`` with ``s = alpha / qmax``; ``low`` is 0 on unsigned grids, ``-alpha`` on
    symmetric signed ones. Gradients take clipping only, rounding passes straight through: of ``x`` 1 where it is not
    clipped, of ``alpha`` 1 where ``x > alpha`` (and -1 where ``x < -alpha``). As published, the training loss is to
    hold a multiple of ``alpha ** 2`` (weight decay on ``alpha``), so that it shrinks where nothing is lost.

    The arguments are those of `quantsim.quantization.affine.QuantizeDequantize`.

    Attributes:
        alpha: A float32 Parameter of ``shape``; NaN until calibrated.

    Example:
        >>> quantizer = PACTQuantizeDequantize(shape=(), bitwidth=4, symmetric=False)
        >>> quantizer.set_range(0.0, 6.0)
        >>> y = quantizer(torch.tensor([-1.0, 2.9, 7.0, 9.0]))
        >>> y.sum().backward()
        >>> y.detach(), quantizer.alpha.grad
        (tensor([0.0000, 2.8000, 6.0000, 6.0000]), tensor(2.))
    """

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        scale = self.scale()
        operand = self.kernel_operand(scale.detach())
        if not (torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad)):
            clipped, inplace = x, owned
        else:
            view, scale_view = blocked_shapes(x.shape, scale.shape, self.block_size)
            alpha = (scale * self.divisor()).reshape(scale_view).to(x.dtype)
            low = torch.zeros_like(alpha) if self._qmin == 0 else -alpha
            clipped, inplace = torch.maximum(torch.minimum(x.reshape(view), alpha), low).reshape(x.shape), False
        return affine_quantize_dequantize(
            clipped, operand, None, self._qmin, self._qmax, self.block_size, inplace=inplace
        )


class RCFQuantizeDequantize(_ClippingQuantizeDequantize):
    """Reparameterized clipping function (Li et al. 2020, "Additive powers-of-two quantization"), on an even grid.

    ``x^ = alpha * Q(clip(x / alpha, low, 1))`` with ``Q`` onto multiples of ``1 / qmax``. Unlike that of
    `PACTQuantizeDequantize` the gradient of ``alpha`` counts rounding too: ``Q(x / alpha) - x / alpha`` where ``x`` is
    not clipped, its sign where it is. Suits weights (symmetric) and activations.

    The arguments are those of `quantsim.quantization.affine.QuantizeDequantize`.

    Attributes:
        alpha: A float32 Parameter of ``shape``; NaN until calibrated.

    Example:
        >>> quantizer = RCFQuantizeDequantize(shape=(), bitwidth=2, symmetric=False)
        >>> quantizer.set_range(0.0, 3.0)
        >>> y = quantizer(torch.tensor([0.75, 9.0]))
        >>> y.sum().backward()
        >>> y.tolist(), round(float(quantizer.alpha.grad), 4)
        ([1.0, 3.0], 1.0833)
    """

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        operand, _ = self._kernel_arguments()
        return affine_quantize_dequantize(
            x,
            operand,
            None,
            self._qmin,
            self._qmax,
            self.block_size,
            inplace=owned and not operand.requires_grad,
        )
