"""What a kernel of a module op gets for a quantized tensor: the codes and all that is needed to read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, Format, IntFormat, MXFormat, NVFP4Format, RoundingMode
from quantsim_kernels.reference import affine

__all__ = ["DeferredOperand", "OperandCast", "QuantizedOperand"]


@dataclass(frozen=True, kw_only=True, eq=False)
class OperandCast:
    """The deterministic cast that makes an operand of an unquantized tensor, for kernels that fuse it with their loads.

    Attributes:
        format: what is cast to.
        rounding: the rounding law.
        saturate: whether what is too large becomes the largest number (float formats).
        scale: float formats: positive scales, ``cast(x / scale) * scale``; ``None`` means 1.
        block_size: one entry for each dimension of ``scale``, or ``None``.
        axis: block formats: the axis of the blocks.
    """

    format: FloatFormat | MXFormat | NVFP4Format
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN
    saturate: bool = True
    scale: Tensor | None = None
    block_size: tuple[int, ...] | None = None
    axis: int = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class QuantizedOperand:
    """A tensor on a grid. Plain data: it lives only between a quantized module and its kernel.

    Invariant: :meth:`dequantize` gives the values that the fake-quant path computes with.

    Attributes:
        values: integer codes for an :class:`IntFormat` (in a floating-point or integer dtype), numbers of the format
            (before the scale) for a :class:`FloatFormat`, real numbers on the grid for block formats.
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
        if isinstance(self.format, (MXFormat, NVFP4Format)) and self.scale is None:
            return self.values
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


class DeferredOperand(QuantizedOperand):
    """An operand that is quantized when its ``values`` are first read, and never if no kernel reads them.

    Kernels that do the cast themselves read :attr:`source` and :attr:`cast` instead; to all others it is like any
    :class:`QuantizedOperand` of real numbers on the grid.

    Args:
        source: the tensor before it is quantized.
        quantize: quantizes it.
        format: the grid's format.
        cast: what ``quantize`` does, where a kernel may do it instead; ``None`` where only ``quantize`` can.

    Example:
        >>> operand = DeferredOperand(torch.tensor([0.4]), torch.round, IntFormat(-8, 7))
        >>> operand.shape, operand.values.tolist()
        ((1,), [0.0])
    """

    source: Tensor
    cast: OperandCast | None

    def __init__(
        self, source: Tensor, quantize: Callable[[Tensor], Tensor], format: Format, cast: OperandCast | None = None
    ) -> None:
        # Past the frozen dataclass, whose own fields keep their defaults.
        self.__dict__.update(source=source, cast=cast, format=format, _quantize=quantize)

    @property
    def values(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Real numbers on the grid."""
        values = self.__dict__.get("_values")
        if values is None:
            values = self.__dict__["_values"] = self.__dict__["_quantize"](self.source)
        return values

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.source.shape)
