"""LSQ: the step size is learned together with the weights."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.quantization.methods.gradient_scale import scale_gradient, step_gradient_factor
from quantsim.quantization.methods.learned_scale import LearnedScaleQuantizeDequantize
from quantsim_kernels.affine import affine_quantize_dequantize
from quantsim_kernels.reference.operand_layout import blocked_shapes

__all__ = ["LSQQuantizeDequantize"]


class LSQQuantizeDequantize(LearnedScaleQuantizeDequantize):
    """Learned step size quantization (Esser et al. 2020): the step is a Parameter that training moves.

    With the step ``s`` and the offset ``o``, ``x^ = (clamp(rint(x/s) - o, qmin, qmax) + o) * s`` and::

        d x^ / d s = rint(x/s) - x/s   between the ends of the grid;   qmin + o  or  qmax + o   beyond them

    multiplied by ``1 / sqrt(N * qmax)`` for ``N`` elements that share the step. The gradient of ``x`` passes straight
    through between the ends. (A learned range counts what rounds to an end as between them; here, as published, what
    lies beyond an end by less than half a step already says that the step is too small.) The arguments are those of
    `quantsim.quantization.affine.QuantizeDequantize`.

    Attributes:
        step: The step, a float32 Parameter of ``shape``; NaN until calibrated.
        offset: Minus the zero point, a buffer; calibration sets it.

    Example:
        >>> quantizer = LSQQuantizeDequantize(shape=(), bitwidth=4, symmetric=True)
        >>> with quantizer.compute_encodings():
        ...     _ = quantizer(torch.linspace(-1, 1, 1001))
        >>> quantizer(torch.full((100,), 2.0)).sum().backward()
        >>> quantizer.step.grad  # 100 * 7 / sqrt(100 * 7)
        tensor(26.4575)
    """

    learned_name = "step"

    step: Tensor

    @override
    def divisor(self) -> float:
        return 1.0

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        scale, offset = self._kernel_arguments()
        if scale.requires_grad:
            scale = scale_gradient(scale, step_gradient_factor(x.numel(), self.step.numel(), self._qmax))
            x, owned = self._clipped(x, scale, offset), False
        return affine_quantize_dequantize(x, scale, offset, self._qmin, self._qmax, self.block_size, inplace=owned)

    def _clipped(self, x: Tensor, scale: Tensor, offset: Tensor | None) -> Tensor:
        """``x`` between the ends of the grid, whose gradients reach the step."""
        view, scale_view = blocked_shapes(x.shape, scale.shape, self.block_size)
        step = scale.reshape(scale_view)
        zero = 0.0 if offset is None else offset.reshape(scale_view)
        low, high = ((step * (zero + end)).to(x.dtype) for end in (self._qmin, self._qmax))
        return torch.clamp(x.reshape(view), low, high).reshape(x.shape)
