"""What a kernel of a module op gets for a quantized tensor: the codes and all that is needed to read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, Format, IntFormat
from quantsim_kernels.reference import affine

__all__ = ["QuantizedOperand"]


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedOperand:
    """A tensor on a grid. Plain data: it lives only between a quantized module and its kernel.

    Invariant: :meth:`dequantize` gives the values that the fake-quant path computes with.

    Attributes:
        values: integer codes for an :class:`IntFormat` (in a floating-point or integer dtype), numbers of the format
            (before the scale) for a :class:`FloatFormat`.
        scale: positive scales that broadcast to ``values``, or one for each block; ``None`` means 1.
        offset: integers in the shape of ``scale``, added to the codes before the scale; ``None`` means 0.
        format: the grid's format.
        block_size: one entry for each dimension of ``scale``, or ``None``.
        zero_point_shift: added to the offset, in steps.

    Example:
        >>> operand = QuantizedOperand(
        ...     values=torch.tensor([0.0, 200.0]),
        ...     scale=torch.tensor(0.5),
        ...     offset=torch.tensor(-128.0),
        ...     format=IntFormat(0, 255),
        ... )
        >>> operand.dequantize().tolist()
        [-64.0, 36.0]
    """

    values: Tensor
    format: Format
    scale: Tensor | None = None
    offset: Tensor | None = None
    block_size: tuple[int, ...] | None = None
    zero_point_shift: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.values.shape)

    def dequantize(self) -> Tensor:
        """The real values, differentiable in values, scale and offset.

        Raises:
            TypeError: the format is neither an :class:`IntFormat` nor a :class:`FloatFormat`.
            ValueError: shapes do not fit.
        """
        if not isinstance(self.format, (IntFormat, FloatFormat)):
            raise TypeError(
                f"QuantizedOperand.dequantize: got {type(self.format).__name__}, expected an IntFormat or FloatFormat; "
                "operands of other formats are read by their own kernels"
            )
        if self.scale is None:
            return self.values if self.offset is None else self.values + self.offset
        offset = self.offset
        if self.zero_point_shift:
            offset = (torch.zeros_like(self.scale) if offset is None else offset) + self.zero_point_shift
        return affine.dequantize(self.values, self.scale, offset, self.block_size)
