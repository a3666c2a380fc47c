"""Scale and offset derived from min and max: computed once per change of the range, not once per forward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from quantsim.quantization.affine.base import AffineQuantizerBase

__all__ = ["DerivedRange"]


class DerivedRange:
    """Scale and offset of one state of a quantizer's ``min`` and ``max``.

    Invariant: `is_current` is true only while ``min`` and ``max`` are the same tensors, in the same memory, with no
    in-place operation since (PyTorch's version counters tell).

    Args:
        quantizer: Whose range it is; its scale rule (`AffineQuantizerBase.scale_from_range`) is applied.
        minimum: Lower ends.
        maximum: Upper ends.
    """

    __slots__ = (
        "_elementwise",
        "_linked",
        "_linked_for",
        "_range",
        "_rule",
        "_slopes",
        "maximum",
        "maximum_address",
        "maximum_version",
        "minimum",
        "minimum_address",
        "minimum_version",
        "offset",
        "scale",
    )

    def __init__(self, quantizer: AffineQuantizerBase, minimum: Tensor, maximum: Tensor) -> None:
        self.minimum, self.maximum = minimum, maximum
        self.minimum_address, self.maximum_address = minimum.data_ptr(), maximum.data_ptr()
        tracked = not (minimum.is_inference() or maximum.is_inference())
        self.minimum_version = minimum._version if tracked else -1
        self.maximum_version = maximum._version if tracked else -1
        self._rule = quantizer.scale_from_range
        self._elementwise = quantizer.elementwise_range
        self._slopes: Any = None
        self._linked: tuple[Tensor, Tensor | None] | None = None
        self._linked_for = (False, False)
        # Tensors made in inference mode could not be used by a later training forward.
        with torch.inference_mode(False), torch.no_grad():
            self._range = minimum.detach().clone(), maximum.detach().clone()
            scale, offset = self._rule(*self._range)
        self.scale = quantizer.kernel_operand(scale)
        self.offset = None if quantizer.has_zero_offset else quantizer.kernel_operand(offset)

    def is_current(self, minimum: Tensor | None, maximum: Tensor | None) -> bool:
        """Whether nothing happened to the range since."""
        return (
            minimum is self.minimum
            and maximum is self.maximum
            and minimum is not None
            and maximum is not None
            and not minimum.is_inference()
            and not maximum.is_inference()
            and minimum._version == self.minimum_version
            and maximum._version == self.maximum_version
            and minimum.data_ptr() == self.minimum_address
            and maximum.data_ptr() == self.maximum_address
        )

    def with_gradient(self) -> tuple[Tensor, Tensor | None]:
        """Scale and offset connected to ``min`` and ``max``: gradients that reach them go on to the range.

        The connection is one autograd node that saves nothing in the graph, so it serves any number of forwards and
        backwards until the range changes.
        """
        wanted = (self.minimum.requires_grad, self.maximum.requires_grad)
        if self._linked is None or self._linked_for != wanted:
            self._linked_for = wanted
            self._slopes = self._derivatives()
            scale, offset = _RangeLink.apply(self.minimum, self.maximum, self)
            self._linked = scale, (None if self.offset is None else offset)
        return self._linked

    def range_gradients(self, scale_gradient: Tensor | None, offset_gradient: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gradients of ``min`` and ``max`` from those of scale and offset, by the reference's own differentiation."""
        if self._slopes is None:
            return self._differentiate(scale_gradient, offset_gradient)
        total: list[Tensor | None] = [None, None]
        for gradient, slopes in zip((scale_gradient, offset_gradient), self._slopes, strict=True):
            if gradient is None or slopes is None:
                continue
            flat = gradient.reshape(slopes[0].shape)
            for end in (0, 1):
                previous = total[end]
                total[end] = flat * slopes[end] if previous is None else previous.addcmul(flat, slopes[end])
        zero = torch.zeros_like(self._range[0])
        return tuple(zero if gradient is None else gradient for gradient in total)  # type: ignore[return-value]

    def _derivatives(self) -> tuple[tuple[Tensor, Tensor] | None, tuple[Tensor, Tensor] | None] | None:
        """D scale / d (min, max) and d offset / d (min, max), element by element; ``None`` where groups mix.

        Taken once per range, so that a backward costs two multiplications and no autograd run inside autograd's.
        """
        if not self._elementwise:
            return None
        with torch.inference_mode(False), torch.enable_grad():
            ends = tuple(end.detach().requires_grad_() for end in self._range)
            scale, offset = self._rule(*ends)
            by_scale = torch.autograd.grad(scale.sum(), ends, retain_graph=True)
            by_offset = torch.autograd.grad(offset.sum(), ends) if offset.requires_grad else None
        return by_scale, by_offset  # type: ignore[return-value]

    def _differentiate(self, scale_gradient: Tensor | None, offset_gradient: Tensor | None) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            ends = tuple(end.detach().requires_grad_() for end in self._range)
            pairs = [
                (output, gradient.reshape(output.shape).to(output.dtype))
                for output, gradient in zip(self._rule(*ends), (scale_gradient, offset_gradient), strict=True)
                if gradient is not None and output.requires_grad
            ]
            outputs, gradients = zip(*pairs, strict=True)
            return torch.autograd.grad(outputs, ends, gradients)  # type: ignore[return-value]


class _RangeLink(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, minimum: Tensor, maximum: Tensor, derived: DerivedRange) -> tuple[Tensor, Tensor]:
        # On ctx, not in save_for_backward: saved tensors are freed by the first backward, this node is used by many.
        ctx.derived = derived
        ctx.dtypes = minimum.dtype, maximum.dtype
        ctx.set_materialize_grads(False)
        scale = derived.scale.clone()
        return scale, (scale.new_zeros(()) if derived.offset is None else derived.offset.clone())

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator makes ctx positional
        ctx: Any, *gradients: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None]:
        scale_gradient, offset_gradient = gradients
        derived: DerivedRange = ctx.derived
        if derived.offset is None:
            offset_gradient = None
        if scale_gradient is None and offset_gradient is None:
            return None, None, None
        minimum, maximum = derived.range_gradients(scale_gradient, offset_gradient)
        return minimum.to(ctx.dtypes[0]), maximum.to(ctx.dtypes[1]), None
