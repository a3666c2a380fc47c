"""Quantized linear layers, convolutions and matrix products computed with integers only.

Kernels of the backend ``integer`` for quantized modules whose operands are on affine grids. They compute what hardware
does: exact sums of codes, a fixed-point multiplier and shift onto the grid of the result, rounded half away from zero.
Fake-quantization rounds a float32 result instead, so the two may differ by one step where they meet a half. The kernels
therefore run on request only: within ``force_backend("integer")``, or as a module's own kernel::

    module.set_kernel(quantsim_kernels.integer.linear)

Products are those of :mod:`quantsim_kernels.torch.integer`, on any device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quantsim_encodings.formats import IntFormat
from quantsim_kernels.fixed_point import fixed_point
from quantsim_kernels.operands import QuantizedOperand
from quantsim_kernels.registry import Backend, Scheme, forced_backend, registry
from quantsim_kernels.torch import integer
from quantsim_kernels.torch.integer.rounding import narrowest

__all__ = ["convolution", "linear", "matmul"]

_INT32 = 2**31 - 1
_MOST_BITS = 16
_PRIORITY = -1


@dataclass(frozen=True)
class _Codes:
    """An operand as integers from ``low`` to ``high``: ``real = (codes - zero_point) * scale``."""

    codes: Tensor
    scale: npt.NDArray[np.float64]
    zero_point: int
    low: int
    high: int

    @property
    def reach(self) -> int:
        """The largest magnitude of a code less its zero point."""
        return max(abs(limit - self.zero_point) for limit in (self.low, self.high))


def linear(
    x: QuantizedOperand, weight: QuantizedOperand, bias: Any = None, *, output_encodings: Any = None
) -> QuantizedOperand | Tensor:
    """A linear layer on codes: ``x`` per tensor, ``weight`` symmetric, per tensor or output.

    Args:
        x: shape ``(..., in_features)``.
        weight: shape ``(out_features, in_features)``.
        bias: real numbers, a `QuantizedOperand`, or ``None``; rounded to steps of the sum.
        output_encodings: grid of the result, or ``None``.

    Returns:
        Codes on the grid of the result; without one, real numbers.

    Raises:
        ValueError: the operands' grids are of another kind, see the text.
        OverflowError: sums may leave int32.

    Example:
        >>> codes, grid = torch.tensor([[10.0, -3.0]]), IntFormat(-128, 127)
        >>> x = QuantizedOperand(values=codes, scale=torch.tensor(0.5), format=grid)
        >>> weight = QuantizedOperand(values=codes, scale=torch.tensor([[0.25]]), format=grid)
        >>> linear(x, weight, torch.tensor([1.0]))
        tensor([[14.6250]])
    """
    return _weighted("linear", x, weight, bias, output_encodings, -1, {})


def convolution(
    x: QuantizedOperand,
    weight: QuantizedOperand,
    bias: Any = None,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    output_encodings: Any = None,
) -> QuantizedOperand | Tensor:
    """A convolution on codes, padded with the zero point; operands as in `linear`.

    Args:
        x: shape ``(N, C, *spatial)`` or ``(C, *spatial)``, one to three spatial dimensions.
        weight: shape ``(C_out, C / groups, *kernel)``.
        bias: as in `linear`.
        stride: as in torch, like the next three.
        padding: number of zeros, ``"same"`` or ``"valid"``.
        dilation: distance of the kernel's positions.
        groups: groups of channels.
        output_encodings: as in `linear`.
    """
    rank = weight.values.dim() - 2
    steps, distances = _each(stride, rank), _each(dilation, rank)
    if isinstance(padding, str):
        reach = [(size - 1) * step for size, step in zip(weight.shape[2:], distances, strict=True)]
        sides = [(0, 0)] * rank if padding == "valid" else [(total // 2, total - total // 2) for total in reach]
    else:
        sides = [(size, size) for size in _each(padding, rank)]
    geometry = {"stride": steps, "padding": sides, "dilation": distances, "groups": groups}
    return _weighted("convolution", x, weight, bias, output_encodings, -1 - rank, geometry)


def matmul(a: QuantizedOperand, b: QuantizedOperand, *, output_encodings: Any = None) -> QuantizedOperand | Tensor:
    """A product of two activations on codes, both per tensor; leading dimensions broadcast.

    Args:
        a: shape ``(..., M, K)`` or ``(K,)``.
        b: shape ``(..., K, N)`` or ``(K,)``.
        output_encodings: as in `linear`.

    Raises:
        ValueError: an operand has more scales than one.
        OverflowError: sums may leave int32.
    """
    left, right = _codes(a, "matmul(a)"), _codes(b, "matmul(b)")
    _require_one_scale(left, "matmul(a)")
    _require_one_scale(right, "matmul(b)")
    _require_int32("matmul", left.reach * right.reach * a.shape[-1])
    first = left.codes.unsqueeze(0) if left.codes.dim() == 1 else left.codes
    second = right.codes.unsqueeze(-1) if right.codes.dim() == 1 else right.codes
    step = float(left.scale) * float(right.scale)
    points = {"zero_point_a": left.zero_point, "zero_point_b": right.zero_point}
    grid = _output_grid(output_encodings)
    if grid is None:
        unscaled = {"multiplier": 1 << 30, "shift": 30, "zero_point": 0, "low": -_INT32, "high": _INT32}
        result = integer.matmul(first, second, **points, **unscaled).to(torch.float64).mul(step).to(a.values.dtype)
    else:
        multiplier, shift = fixed_point(step / grid.scale)
        place = {"zero_point": grid.zero_point, "low": grid.low, "high": grid.high}
        result = integer.matmul(first, second, **points, multiplier=multiplier, shift=shift, **place)
    result = result.squeeze(-1) if b.values.dim() == 1 else result
    result = result.squeeze(-1 if b.values.dim() == 1 else -2) if a.values.dim() == 1 else result
    return result if grid is None else _operand(result, output_encodings, a.values.dtype)


def _weighted(
    op: str, x: QuantizedOperand, weight: QuantizedOperand, bias: Any, output_encodings: Any, axis: int, geometry: dict
) -> QuantizedOperand | Tensor:
    """A linear layer or convolution whose channels are dimension ``axis`` of the result."""
    data, factors = _codes(x, f"{op}(x)"), _codes(weight, f"{op}(weight)")
    _require_one_scale(data, f"{op}(x)")
    if factors.zero_point:
        raise ValueError(f"{op}(weight): got zero point {factors.zero_point}, expected a symmetric grid")
    if factors.low < -128 or factors.high > 127:
        raise ValueError(f"{op}(weight): got codes from {factors.low} to {factors.high}, expected at most 8 bits")
    outputs = weight.shape[0]
    if factors.scale.size not in (1, outputs) or (factors.scale.size > 1 and factors.scale.shape[0] != outputs):
        raise ValueError(f"{op}(weight): got scales of shape {factors.scale.shape}, expected one, or one each output")
    matrix = factors.codes.to(torch.int8)
    step = float(data.scale) * factors.scale.reshape(-1)
    sums = matrix.reshape(outputs, -1).sum(1, dtype=torch.int64)
    addend = _bias(bias, step, sums) - data.zero_point * sums
    magnitudes = matrix.reshape(outputs, -1).to(torch.int64).abs().sum(1)
    largest = magnitudes * max(abs(data.low), abs(data.high)) + addend.abs()
    _require_int32(op, int(largest.max()) if outputs else 0)
    constants: dict[str, Any] = {"weight": matrix, "bias": addend, **geometry}
    codes = data.codes
    batched = op == "linear" or codes.dim() == weight.values.dim()
    if op == "convolution":
        constants["zero_point_in"] = data.zero_point
        codes = codes if batched else codes.unsqueeze(0)
    grid = _output_grid(output_encodings)
    function: Callable[..., Tensor] = getattr(integer, op)
    if grid is None:
        real = torch.as_tensor(step, dtype=torch.float64, device=codes.device).reshape(-1, *(1,) * (-1 - axis))
        result = (function(codes, **constants).to(torch.float64) * real).to(x.values.dtype)
    else:
        multiplier, shift = fixed_point(step / grid.scale)
        place = {"zero_point": grid.zero_point, "low": grid.low, "high": grid.high}
        result = function(codes, **constants, multiplier=multiplier, shift=shift, **place)
    result = result if batched else result.squeeze(0)
    return result if grid is None else _operand(result, output_encodings, x.values.dtype)


def _each(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value) * (rank if len(value) == 1 else 1)


def _codes(operand: QuantizedOperand, where: str) -> _Codes:
    objection = _grid_objection(operand)
    if objection is not None:
        raise ValueError(f"{where}: {objection}")
    format, scale = operand.format, operand.scale
    assert isinstance(format, IntFormat)
    assert scale is not None
    offset = 0 if operand.offset is None else int(operand.offset.reshape(-1)[0])
    low, high = int(format.qmin), int(format.qmax)
    return _Codes(
        codes=operand.values.detach().to(narrowest(low, high)),
        scale=scale.detach().to("cpu", torch.float64).numpy(),
        zero_point=-offset,
        low=low,
        high=high,
    )


def _grid_objection(operand: Any) -> str | None:
    """Why an operand's grid is not one that these kernels compute on, or ``None``."""
    if not isinstance(operand, QuantizedOperand) or not isinstance(operand.format, IntFormat):
        return "it takes codes on an integer grid only"
    if operand.scale is None or operand.block_size is not None or operand.zero_point_shift:
        return "it takes one scale for the tensor or for each output, no blocks and no shifted zero point"
    if operand.format.qmax - operand.format.qmin >= 1 << _MOST_BITS:
        return f"codes have more than {_MOST_BITS} bits"
    offset = operand.offset
    if offset is not None and offset.numel() > 1 and bool((offset != offset.reshape(-1)[0]).any()):
        return "its zero points differ"
    return None


def _require_one_scale(operand: _Codes, where: str) -> None:
    if operand.scale.size != 1:
        raise ValueError(f"{where}: got {operand.scale.size} scales, expected one for the tensor")


def _require_int32(where: str, reach: int) -> None:
    if reach > _INT32:
        raise OverflowError(
            f"{where}: sums may reach {reach}, expected less than 2^31; use fewer bits or a shorter sum"
        )


def _bias(bias: Any, step: npt.NDArray[np.float64], like: Tensor) -> Tensor:
    """The bias in steps of the sum, int64."""
    if bias is None:
        return torch.zeros_like(like)
    real = bias.dequantize() if isinstance(bias, QuantizedOperand) else bias
    steps = torch.as_tensor(step, dtype=torch.float64, device=like.device)
    return (real.detach().to(torch.float64) / steps).round_().to(torch.int64)


def _output_grid(grid: Any) -> _Codes | None:
    """Scale, zero point and limits of an output grid of the module; ``None`` where it has none."""
    if grid is None:
        return None
    if not isinstance(grid.format, IntFormat) or grid.scale is None or grid.scale.numel() != 1:
        raise ValueError(f"output_encodings: got {grid!r}, expected one scale on an integer grid")
    offset = 0 if grid.offset is None else int(grid.offset.reshape(()))
    scale = grid.scale.detach().to("cpu", torch.float64).reshape(()).numpy()
    return _Codes(torch.empty(0), scale, -offset, int(grid.format.qmin), int(grid.format.qmax))


def _operand(codes: Tensor, grid: Any, dtype: torch.dtype) -> QuantizedOperand:
    return QuantizedOperand(
        values=codes.to(dtype), scale=grid.scale, offset=grid.offset, format=grid.format, block_size=grid.block_size
    )


# ---------------------------------------------------------------------------------------------------------------------
# Registration
# ---------------------------------------------------------------------------------------------------------------------


def _objection(*operands: Any, output_encodings: Any = None, **arguments: Any) -> str | None:
    """Why these kernels do not run on the operands, or ``None``."""
    if arguments.get("accumulation") is not None:
        return "its sums are integers"
    for operand in operands[:2]:
        reason = _grid_objection(operand)
        if reason is not None:
            return reason
        if torch.is_grad_enabled() and operand.values.requires_grad:
            return "it has no backward; gradients go through fake quantization"
    if operands and operands[0].scale.numel() != 1:
        return "the input has more scales than one"
    if output_encodings is not None:
        grid = output_encodings
        if not isinstance(grid.format, IntFormat) or grid.scale is None or grid.scale.numel() != 1:
            return "the result is not to lie on one integer grid"
    return None


def _weight_objection(*operands: Any, **arguments: Any) -> str | None:
    reason = _objection(*operands, **arguments)
    if reason is not None or len(operands) < 2:
        return reason
    weight = operands[1]
    offset = weight.offset
    if offset is not None and bool(offset.any()):
        return "the weight's grid is not symmetric"
    if weight.format.qmin < -128 or weight.format.qmax > 127:
        return "the weight has more than 8 bits"
    if weight.scale.numel() != 1 and weight.scale.numel() != weight.scale.shape[0]:
        return "the weight's scales do not run along its outputs"
    return None


def _product_objection(*operands: Any, **arguments: Any) -> str | None:
    reason = _objection(*operands, **arguments)
    if reason is None and any(operand.scale.numel() != 1 for operand in operands[:2]):
        return "an operand has more scales than one"
    return reason


def _is_asked_for(*inputs: Any) -> bool:
    return not torch.compiler.is_compiling() and forced_backend() is Backend.INTEGER


def _register() -> None:
    weighted = dict.fromkeys(("conv1d", "conv2d", "conv3d"), convolution)
    for op, function in {"linear": linear, **weighted}.items():
        _add(op, function, _weight_objection)
    for op in ("matmul", "bmm"):
        _add(op, matmul, _product_objection)


def _add(op: str, function: Callable[..., Any], predicate: Callable[..., str | None]) -> None:
    registry.register(
        op=op,
        scheme=Scheme.AFFINE,
        backend=Backend.INTEGER,
        predicate=predicate,
        priority=_PRIORITY,
        screen=_is_asked_for,
        on_request=True,  # it rounds as hardware does, which may differ from fake quantization by one step
    )(function)


_register()
