"""Matrix products in Triton on float and block-format operands, cast while they are loaded where that pays.

A tile of an operand is read again for each tile of the other operand's rows, and cast again if the product casts it.
So a product casts what it reads a few times at most (such as the weight of a layer that sees few tokens); what it reads
more often is cast once before, by the kernel of its quantizer. The numbers are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, MXFormat, NVFP4Format
from quantsim_kernels.operands import DeferredOperand, OperandCast, QuantizedOperand
from quantsim_kernels.reference.float_cast import check_format
from quantsim_kernels.triton._float_matmul_kernels import OPERAND_CONSTANTS, matmul_kernel
from quantsim_kernels.triton.availability import is_interpreted
from quantsim_kernels.triton.float_cast import PRECISION, format_constants, kernel_tensor
from quantsim_kernels.triton.mx import block_format_constants

__all__ = ["linear", "matmul"]

# How an operand's tiles are cast.
_AS_IT_IS, _CAST, _SCALED_CAST, _BLOCKS = 0, 1, 2, 3
# In what tiles are multiplied, and how many fraction bits that holds.
_FLOAT32, _TF32, _BFLOAT16 = 0, 1, 2
_TF32_BITS, _BFLOAT16_BITS = 10, 7
_BFLOAT16_TINY = 2.0**-133
_DTYPE_BITS = {torch.float32: 23, torch.float16: 10, torch.bfloat16: 7}
_TILE = 64
# An operand's element may be cast so many times; an estimate from the instructions of a cast and of a product.
_MOST_CASTS = 2
_LARGEST_BLOCK = 128
_NOT_CAST = {**dict.fromkeys(OPERAND_CONSTANTS, 0), "BLOCK": 1}


@dataclass(frozen=True, kw_only=True)
class _Factor:
    """One side of the product as the kernel takes it.

    Attributes:
        tensor: shape ``(..., rows, K)``.
        constants: how its tiles are cast.
        scale: float32 scales, one or one for each row; ``None`` without.
        bits: fraction bits that hold what a tile holds when it is multiplied.
        tiny: smallest positive number that must survive.
    """

    tensor: Tensor
    bits: int
    tiny: float = 0.0
    constants: dict[str, int] = field(default_factory=lambda: dict(_NOT_CAST))
    scale: Tensor | None = None


def _plain(tensor: Tensor, bits: int | None = None) -> _Factor:
    return _Factor(tensor=tensor, bits=_DTYPE_BITS[tensor.dtype] if bits is None else bits)


def _row_scale(cast: OperandCast, tensor: Tensor, axis: int) -> Tensor | None:
    """The scales of the rows of ``tensor``, 0-d or 1-d; ``None`` where they vary along K or are not that simple."""
    scale = cast.scale
    assert scale is not None
    if scale.numel() == 1:
        return scale.reshape(())
    if tensor.dim() != 2 or scale.dim() != 2 or cast.block_size is not None:
        return None
    rows = 1 if axis % 2 == 0 else 0
    return scale.reshape(-1) if scale.shape[1 - rows] == 1 and scale.shape[rows] == tensor.shape[rows] else None


def _fused(source: Tensor, cast: OperandCast, axis: int) -> _Factor | None:
    """``source`` with its cast left to the product, or ``None`` where the product's kernel cannot do it."""
    format = cast.format
    if cast.rounding.is_stochastic or isinstance(format, NVFP4Format) or not _is_held(cast, source.dtype):
        return None
    if isinstance(format, MXFormat):
        size = format.block_size
        if (cast.axis - axis) % source.dim() or size & (size - 1) or size > _LARGEST_BLOCK:
            return None
        own = {"CAST": _BLOCKS, "BLOCK": size}
        constants = {**_NOT_CAST, **block_format_constants(format, cast.rounding), **own}
        if not constants.pop("SIGNED"):
            return None
        return _Factor(tensor=source, bits=_element_bits(format), constants=constants)
    check_format(format, source.dtype, cast.saturate)
    if not (format.signed and format.has_zero):
        return None
    scale = None
    if cast.scale is not None:
        scale = _row_scale(cast, source, axis)
        if scale is None:
            return None
        scale = scale.detach().to(device=source.device, dtype=torch.float32).contiguous()
    constants = {
        **_NOT_CAST,
        **format_constants(format, cast.rounding, cast.saturate or scale is not None, False),
        "CAST": _CAST if scale is None else _SCALED_CAST,
    }
    del constants["SIGNED"], constants["ZERO"]
    return _Factor(tensor=source, bits=format.mantissa_bits, tiny=format.tiny, constants=constants, scale=scale)


def _is_held(cast: OperandCast, dtype: torch.dtype) -> bool:
    """Whether the cast numbers are numbers of ``dtype``, so that a tensor of them would not have rounded them again."""
    format = cast.format
    if dtype is torch.float32:
        return True
    if cast.scale is not None:
        return False
    if isinstance(format, MXFormat):
        return dtype is torch.bfloat16 and _element_bits(format) <= _BFLOAT16_BITS
    if not isinstance(format, FloatFormat) or format.mantissa_bits > _DTYPE_BITS[dtype]:
        return False
    smallest = torch.finfo(dtype).smallest_normal * 2.0 ** -_DTYPE_BITS[dtype]
    return format.max <= torch.finfo(dtype).max and format.tiny >= smallest


def _element_bits(format: MXFormat) -> int:
    element = format.element
    return element.mantissa_bits if isinstance(element, FloatFormat) else element.bits - 1


def _factor(operand: Any, axis: int, casts: int) -> _Factor:
    """An operand whose K is ``axis``; ``casts`` says how often the product would cast each of its elements."""
    if isinstance(operand, DeferredOperand) and operand.cast is not None:
        fused = _fused(operand.source.detach(), operand.cast, axis) if casts <= _MOST_CASTS else None
        if fused is not None:
            return fused
        values, cast = operand.values.detach(), operand.cast
        if isinstance(cast.format, FloatFormat) and cast.scale is None:
            return _Factor(
                tensor=values,
                bits=min(cast.format.mantissa_bits, _DTYPE_BITS[values.dtype]),
                tiny=cast.format.tiny,
            )
        if isinstance(cast.format, MXFormat):
            return _plain(values, min(_element_bits(cast.format), _DTYPE_BITS[values.dtype]))
        return _plain(values)
    values = operand.dequantize() if isinstance(operand, QuantizedOperand) else operand
    return _plain(values.detach())


def _shape(operand: Any) -> tuple[int, ...]:
    return tuple(operand.shape)


def _dtype(operand: Any) -> torch.dtype:
    if isinstance(operand, DeferredOperand):
        return operand.source.dtype
    return operand.values.dtype if isinstance(operand, QuantizedOperand) else operand.dtype


def _dot(a: _Factor, b: _Factor) -> int:
    """The narrowest arithmetic that holds both operands exactly."""
    bits = max(a.bits, b.bits)
    narrow = bits <= _BFLOAT16_BITS and all(factor.tiny == 0.0 or factor.tiny >= _BFLOAT16_TINY for factor in (a, b))
    # The interpreter multiplies bfloat16 as if it were integers.
    if narrow and not is_interpreted():
        return _BFLOAT16
    return _TF32 if bits <= _TF32_BITS else _FLOAT32


def _launch(a: _Factor, b: _Factor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``a @ b.T + bias`` for tensors of (batch, rows, K); a batch of one counts for all."""
    left, right = a.tensor, b.tensor
    batch, rows, depth = max(left.shape[0], right.shape[0]), left.shape[1], left.shape[2]
    columns = right.shape[1]
    c = torch.empty((batch, rows, columns), dtype=dtype, device=left.device)
    if not c.numel():
        return c
    if bias is not None:
        bias = bias.detach().contiguous()
    # The interpreter's cost is one per program.
    tile = _TILE if not is_interpreted() else 128
    tiles = [max(16, min(tile, triton.next_power_of_2(size))) for size in (rows, columns, depth)]
    tiles[2] = max(tiles[2], a.constants["BLOCK"], b.constants["BLOCK"])
    launch: Any = matmul_kernel[(batch * triton.cdiv(rows, tiles[0]) * triton.cdiv(columns, tiles[1]),)]
    # Triton launches on the current device, which need not be the tensor's.
    with torch.cuda.device_of(left):
        launch(
            kernel_tensor(left),
            kernel_tensor(right),
            c if a.scale is None else a.scale,
            c if b.scale is None else b.scale,
            kernel_tensor(c if bias is None else bias),
            kernel_tensor(c),
            rows,
            columns,
            depth,
            *_steps(left),
            *_steps(right),
            0 if a.scale is None or a.scale.dim() == 0 else 1,
            0 if b.scale is None or b.scale.dim() == 0 else 1,
            **{f"A_{name}": value for name, value in {**a.constants, "PRECISION": PRECISION[left.dtype]}.items()},
            **{f"B_{name}": value for name, value in {**b.constants, "PRECISION": PRECISION[right.dtype]}.items()},
            HAS_BIAS=bias is not None,
            OUTPUT_PRECISION=PRECISION[dtype],
            BIAS_PRECISION=0 if bias is None else PRECISION[bias.dtype],
            DOT=_dot(a, b),
            ROWS=tiles[0],
            COLUMNS=tiles[1],
            DEPTH=tiles[2],
            enable_fp_fusion=False,
        )
    return c


def _steps(tensor: Tensor) -> tuple[int, int, int]:
    batch, row, along = tensor.stride()
    return 0 if tensor.shape[0] == 1 else batch, row, along


def _with_tensor(factor: _Factor, tensor: Tensor) -> _Factor:
    return _Factor(tensor=tensor, bits=factor.bits, tiny=factor.tiny, constants=factor.constants, scale=factor.scale)


def linear(
    x: QuantizedOperand | Tensor,
    weight: QuantizedOperand | Tensor,
    bias: QuantizedOperand | Tensor | None = None,
    *,
    output_encodings: Any = None,
) -> Tensor:
    """``x @ weight.T + bias`` with float32 sums, operands cast to their formats on the way. No gradient.

    Args:
        x: shape ``(..., in_features)``; a :class:`quantsim_kernels.operands.DeferredOperand` may be cast by the product
            itself, all other operands are taken by their real numbers.
        weight: shape ``(out_features, in_features)``.
        bias: shape ``(out_features,)`` or ``None``.
        output_encodings: the grid that the caller puts the result on; not done here.

    Returns:
        Real numbers, shape ``(..., out_features)``, in the dtype that torch promotes ``x`` and ``weight`` to.

    Raises:
        ValueError: the shapes do not fit.
    """
    shape, weight_shape = _shape(x), _shape(weight)
    if not shape or len(weight_shape) != 2 or shape[-1] != weight_shape[1]:
        raise ValueError(
            f"linear: got x of shape {shape} and weight of shape {weight_shape}, expected (..., K) and (N, K)"
        )
    if bias is not None and _shape(bias) != weight_shape[:1]:
        raise ValueError(f"linear(bias): got shape {_shape(bias)}, expected ({weight_shape[0]},)")
    rows, columns = math.prod(shape[:-1]), weight_shape[0]
    dtype = torch.promote_types(_dtype(x), _dtype(weight))
    a = _factor(x, -1, triton.cdiv(columns, _TILE))
    b = _factor(weight, -1, triton.cdiv(rows, _TILE))
    addend = bias.dequantize() if isinstance(bias, QuantizedOperand) else bias
    left = a.tensor.reshape(1, rows, shape[-1])
    product = _launch(_with_tensor(a, left), _with_tensor(b, b.tensor.unsqueeze(0)), addend, dtype)
    return product.reshape(*shape[:-1], columns)


def matmul(a: QuantizedOperand | Tensor, b: QuantizedOperand | Tensor, *, output_encodings: Any = None) -> Tensor:
    """``a @ b`` as :func:`torch.matmul` with float32 sums, operands cast to their formats on the way. No gradient.

    Args:
        a: shape ``(..., M, K)`` or ``(K,)``; see :func:`linear`.
        b: shape ``(..., K, N)`` or ``(K,)``; leading dimensions broadcast.
        output_encodings: the grid that the caller puts the result on; not done here.

    Returns:
        Real numbers, shape ``(..., M, N)``, in the dtype that torch promotes the operands to.

    Raises:
        ValueError: the shapes do not fit.
    """
    a_shape, b_shape = _shape(a), _shape(b)
    if not a_shape or not b_shape or a_shape[-1] != b_shape[-2 if len(b_shape) > 1 else -1]:
        raise ValueError(f"matmul: got shapes {a_shape} and {b_shape}, expected (..., M, K) and (..., K, N)")
    b_axis = -2 if len(b_shape) > 1 else -1
    rows = a_shape[-2] if len(a_shape) > 1 else 1
    columns = b_shape[-1] if len(b_shape) > 1 else 1
    dtype = torch.promote_types(_dtype(a), _dtype(b))
    batch = torch.broadcast_shapes(a_shape[:-2], b_shape[:-2])
    flat = len(b_shape) == 2 and len(a_shape) > 2
    left = _factor(a, -1, triton.cdiv(columns, _TILE))
    right = _factor(b, b_axis, triton.cdiv(math.prod(batch) * rows if flat else rows, _TILE))
    x = left.tensor if len(a_shape) > 1 else left.tensor.unsqueeze(0)
    y = right.tensor.mT if len(b_shape) > 1 else right.tensor.unsqueeze(0)
    if flat:  # one matrix for all: the rows of the whole batch are its rows
        x, y = x.reshape(1, -1, x.shape[-1]), y.unsqueeze(0)
    else:
        x, y = _batched(x, batch), _batched(y, batch)
    product = _launch(_with_tensor(left, x), _with_tensor(right, y), None, dtype)
    shape = list(batch)
    shape += [rows] if len(a_shape) > 1 else []
    shape += [columns] if len(b_shape) > 1 else []
    return product.reshape(shape)


def _batched(tensor: Tensor, batch: torch.Size) -> Tensor:
    """``(batch, rows, K)``: one matrix stays one, others are repeated where the batch is larger than theirs."""
    if tensor.dim() == 2:
        return tensor.unsqueeze(0)
    return tensor.expand(*batch, *tensor.shape[-2:]).reshape(-1, *tensor.shape[-2:])
