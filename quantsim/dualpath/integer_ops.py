"""The operations of layers: products of real numbers on the training path, exact sums of integers on the other.

Each takes either two tensors of real numbers, or two of integers, whose sums of products are returned in int32. Sums
that could leave 32 bits are refused before anything is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsim.dualpath.accumulator_bound import require_accumulator
from quantsim.errors import ConfigurationError, ShapeError
from quantsim.nn import QuantizedMatMul

__all__ = ["ConvOPS", "IntMatMul", "MatMul"]


class MatMul(nn.Module):
    """Product of inputs and weights, ``x @ weight.T``, without a bias: the rescaler adds that.

    Args:
        nbit: Bits of the operands, for the repr only: they say by their type what they are.

    Example:
        >>> x, weight = (
        ...     torch.tensor([[200, 100]], dtype=torch.uint8),
        ...     torch.tensor([[-128, 127]], dtype=torch.int8),
        ... )
        >>> MatMul()(x, weight)
        tensor([[-12900]], dtype=torch.int32)
    """

    def __init__(self, nbit: int = 8) -> None:
        super().__init__()
        self.nbit = nbit

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Multiplies ``x`` of shape (..., I) by ``weight`` of shape (O, I); (..., O)."""
        if not _both_integers(x, weight, self):
            return F.linear(x, weight)
        from quantsim_kernels.torch import integer

        _require_32_bits(x, weight, weight.shape[-1], self)
        return integer.linear(x, weight=weight, bias=_zeros(weight)).to(torch.int32)

    def extra_repr(self) -> str:
        """The width."""
        return f"nbit={self.nbit}"


class ConvOPS(nn.Module):
    """Convolution of inputs with weights, without a bias: the rescaler adds that.

    Args:
        stride: One number, or one for each spatial dimension, as the next three.
        padding: Elements added on both sides, or a pair (before, after) for each spatial dimension.
        dilation: Distance of the kernel's elements.
        groups: Groups of channels.
        zero_point: What the padding holds: the integer that stands for 0.

    Example:
        >>> x, weight = torch.tensor([[[5, 7]]], dtype=torch.uint8), torch.tensor([[[1, 2]]], dtype=torch.int8)
        >>> ConvOPS(padding=1, zero_point=4)(x, weight)
        tensor([[[14, 19, 15]]], dtype=torch.int32)
    """

    def __init__(
        self,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | Sequence[Sequence[int]] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        *,
        zero_point: int = 0,
    ) -> None:
        super().__init__()
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.zero_point = zero_point

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolves ``x`` of shape ``(N, I, *spatial)`` with ``weight`` of shape ``(O, I / groups, *kernel)``."""
        rank = weight.dim() - 2
        stride, dilation = _each(self.stride, rank), _each(self.dilation, rank)
        sides = [_each(side, 2) for side in _each(self.padding, rank)]
        if not _both_integers(x, weight, self):
            convolve = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
            padded = F.pad(x, [size for pair in reversed(sides) for size in pair])
            return convolve(padded, weight, None, stride, 0, dilation, self.groups)
        if x.dim() != weight.dim():
            raise ShapeError(
                "integers come in batches",
                where=getattr(self, "module_path", None) or type(self).__name__,
                got=f"an input of shape {tuple(x.shape)} for a weight of shape {tuple(weight.shape)}",
                expected=f"{weight.dim()} dimensions",
                fix="unsqueeze(0) the input",
            )
        from quantsim_kernels.torch import integer

        _require_32_bits(x, weight, weight[0].numel(), self)
        return integer.convolution(
            x,
            weight=weight,
            bias=_zeros(weight),
            zero_point_in=self.zero_point,
            stride=stride,
            padding=sides,
            dilation=dilation,
            groups=self.groups,
        ).to(torch.int32)

    def extra_repr(self) -> str:
        """The sizes."""
        return (
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"zero_point={self.zero_point}"
        )


class IntMatMul(QuantizedMatMul):
    """Product of two activations, ``a @ b``; a quantized module, whose quantizers work on the training path.

    Args:
        nbit: Bits of the operands, for the repr only.

    Attributes:
        zero_points: The integers of both operands that stand for 0.

    Example:
        >>> product = IntMatMul()
        >>> product.zero_points = (1, 0)
        >>> product(torch.tensor([[2, 3]], dtype=torch.uint8), torch.tensor([[5], [6]], dtype=torch.int8))
        tensor([[17]], dtype=torch.int32)
    """

    zero_points: tuple[int, int]

    def __init__(self, nbit: int = 8) -> None:
        super().__init__()
        self.nbit = nbit
        self.zero_points = (0, 0)

    def forward(self, input: Tensor, other: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Multiplies shapes (..., M, K) and (..., K, N)."""
        if not _both_integers(input, other, self):
            return super().forward(input, other, *args, **kwargs)
        from quantsim_kernels.torch import integer

        _require_32_bits(input, other, input.shape[-1], self, zero_points=self.zero_points)
        zero_a, zero_b = self.zero_points
        limits = torch.iinfo(torch.int32)
        return integer.matmul(
            input,
            other,
            zero_point_a=zero_a,
            zero_point_b=zero_b,
            multiplier=torch.tensor(2**30, device=input.device),
            shift=torch.tensor(30, device=input.device),
            zero_point=0,
            low=limits.min,
            high=limits.max,
        ).to(torch.int32)

    def extra_repr(self) -> str:
        """The width."""
        return f"nbit={self.nbit}"


def _each(values: Any, count: int) -> list[Any]:
    return [values] * count if isinstance(values, int) else list(values)


def _zeros(weight: Tensor) -> Tensor:
    return torch.zeros(weight.shape[0], dtype=torch.int32, device=weight.device)


def _both_integers(x: Tensor, other: Tensor, module: nn.Module) -> bool:
    if x.is_floating_point() != other.is_floating_point():
        raise ConfigurationError(
            "one operand is real, the other integer",
            where=type(module).__name__,
            got=f"tensors of {x.dtype} and {other.dtype}",
            expected="two of real numbers, or two of integers",
            fix="switch the whole model with quantsim.dualpath.inference(model)",
        )
    return not x.is_floating_point()


def _require_32_bits(x: Tensor, other: Tensor, terms: int, module: nn.Module, *, zero_points: Any = (0, 0)) -> None:
    bound = terms
    for operand, zero_point in zip((x, other), zero_points, strict=True):
        bound *= _largest(operand, zero_point)
    name = getattr(module, "module_path", None) or type(module).__name__
    require_accumulator(bound, layer=name, terms=terms, operands=f"{x.dtype} and {other.dtype}")


def _largest(codes: Tensor, zero_point: int) -> int:
    """The largest magnitude of ``codes - zero_point``: by the type for bytes, by the data for what is wider."""
    limits = torch.iinfo(codes.dtype)
    low, high = limits.min, limits.max
    if limits.bits > 8:
        if codes.numel() == 0:
            return 0
        low, high = (int(end) for end in codes.aminmax())
    return max(abs(low - zero_point), abs(high - zero_point))
