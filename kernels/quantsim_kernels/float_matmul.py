"""Linear layers, convolutions, matrix products and attention on float and block-format operands.

Two families of kernels are registered for quantized modules. With an `Accumulation`, partial sums are kept in a format
of choice, on any device: the law is in :mod:`quantsim_kernels.reference.float_matmul`. Without one, sums are float32's,
which is what fake-quantization computes; then only Triton has kernels, which cast the operands while they load them and
so save the passes over memory that quantizing them first takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim_encodings.formats import FloatFormat
from quantsim_kernels._accumulated_product import (
    ACCUMULATED_MATMUL,
    CONVOLUTIONS,
    Compute,
    convolve,
    product,
    resolve_seed,
    with_gradient,
)
from quantsim_kernels.accumulation import Accumulation
from quantsim_kernels.operands import DeferredOperand, QuantizedOperand
from quantsim_kernels.reference import float_matmul as reference
from quantsim_kernels.reference.accumulation import step_seed
from quantsim_kernels.registry import Backend, Scheme, registry
from quantsim_kernels.torch import float_matmul as fast
from quantsim_kernels.triton import availability

__all__ = [
    "ACCUMULATING_OPS",
    "accumulated_attention",
    "accumulated_convolution",
    "accumulated_linear",
    "accumulated_matmul",
]

_TENSOR_CORE_BITS = 10
_SECOND_PRODUCT = 2**40
"""Step numbers of attention's second product start here, so that it has noise of its own."""


def _check(accumulation: Any, where: str) -> None:
    if not isinstance(accumulation, Accumulation):
        raise TypeError(f"{where}(accumulation): got {accumulation!r}, expected a quantsim_kernels.Accumulation")


def _check_shapes(exact: Callable[..., Tensor], *operands: Tensor | None) -> None:
    """Has torch's own function look at the operands' shapes, and raise its own error."""
    if torch.compiler.is_compiling():
        return
    exact(*(None if operand is None else torch.empty_like(operand, device="meta") for operand in operands))


def accumulated_matmul(
    a: Tensor, b: Tensor, accumulation: Accumulation, *, compute: Compute | None = None, part: int = 0
) -> Tensor:
    """`torch.matmul` whose partial sums are kept as ``accumulation`` says.

    Args:
        a: floating-point tensor, shape ``(..., M, K)`` or ``(K,)``.
        b: shape ``(..., K, N)`` or ``(K,)``.
        accumulation: format, rounding and chunk of the partial sums.
        compute: the kernel of the product; the registry's choice by default.
        part: number of this product among those that share a seed.

    Returns:
        What torch.matmul returns, in shape and dtype; its gradient is that of torch.matmul.

    Raises:
        TypeError: ``accumulation`` is none.
        RuntimeError: torch.matmul does not take these shapes.

    Example:
        >>> a = torch.full((1, 1000), 0.1)  # bf16 has steps of 0.25 from 32 on, so that 0.1 no longer counts
        >>> accumulated_matmul(a, torch.ones(1000, 1), Accumulation("bf16")).item()
        32.0
    """
    _check(accumulation, "accumulated_matmul")
    _check_shapes(torch.matmul, a, b)
    left = a.unsqueeze(0) if a.dim() == 1 else a
    right = b.unsqueeze(-1) if b.dim() == 1 else b
    seed = (
        step_seed(resolve_seed(accumulation, a.device), part * _SECOND_PRODUCT)
        if part
        else resolve_seed(accumulation, a.device)
    )
    value = product(left, right, None, seed, accumulation, compute)
    value = value.squeeze(-1) if b.dim() == 1 else value
    value = value.squeeze(-1 if b.dim() == 1 else -2) if a.dim() == 1 else value
    return with_gradient(value, partial(torch.matmul, a, b), a, b)


def accumulated_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    accumulation: Accumulation,
    *,
    compute: Compute | None = None,
) -> Tensor:
    """`torch.nn.functional.linear` whose partial sums are kept as ``accumulation`` says; the bias is added last.

    Args:
        x: floating-point tensor, shape ``(..., in_features)``.
        weight: shape ``(out_features, in_features)``.
        bias: shape ``(out_features,)`` or ``None``.
        accumulation: format, rounding and chunk of the partial sums.
        compute: see `accumulated_matmul`.

    Example:
        >>> accumulation = Accumulation("fp16", chunk=2)
        >>> accumulated_linear(torch.ones(1, 3), torch.full((1, 3), 2048.0), torch.ones(1), accumulation)
        tensor([[6144.]])
    """
    _check(accumulation, "accumulated_linear")
    _check_shapes(F.linear, x, weight, bias)
    left = x.unsqueeze(0) if x.dim() == 1 else x
    value = product(left, weight.t(), bias, resolve_seed(accumulation, x.device), accumulation, compute)
    value = value.squeeze(0) if x.dim() == 1 else value
    return with_gradient(value, partial(F.linear, x, weight, bias), x, weight, bias)


def accumulated_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    accumulation: Accumulation,
    *,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    compute: Compute | None = None,
) -> Tensor:
    """`torch.nn.functional.conv1d`, 2d or 3d, by the weight's dimensions, with partial sums as ``accumulation`` says.

    K runs over the input channels of a group, then over the kernel's positions. The zeros around the edges are
    products like all others.

    Args:
        x: shape ``(N, C, *spatial)`` or ``(C, *spatial)``.
        weight: shape ``(C_out, C / groups, *kernel)``.
        bias: shape ``(C_out,)`` or ``None``, added last.
        accumulation: format, rounding and chunk of the partial sums.
        stride: as in torch, like all that follow.
        padding: number of zeros, ``"same"`` or ``"valid"``.
        dilation: distance of the kernel's positions.
        groups: groups of channels.
        compute: see `accumulated_matmul`.

    Example:
        >>> x, weight = torch.ones(1, 4, 3), torch.full((1, 4, 3), 1024.0)
        >>> accumulated_convolution(x, weight, None, Accumulation("fp16")).item()
        12288.0
    """
    _check(accumulation, "accumulated_convolution")
    dimensions = weight.dim() - 2
    if dimensions not in CONVOLUTIONS:
        raise ValueError(
            f"accumulated_convolution(weight): got shape {tuple(weight.shape)}, expected 3, 4 or 5 dimensions"
        )
    settings: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    exact = partial(CONVOLUTIONS[dimensions], **settings)
    _check_shapes(exact, x, weight, bias)
    batched = x.dim() == dimensions + 2
    images = x.detach() if batched else x.detach().unsqueeze(0)
    sides = padding if isinstance(padding, str) else _tuple(padding, dimensions)
    steps, distances = _tuple(stride, dimensions), _tuple(dilation, dimensions)
    seed = resolve_seed(accumulation, x.device)
    value = convolve(images, weight, bias, seed, accumulation, compute, steps, sides, distances, groups)
    value = value if batched else value.squeeze(0)
    return with_gradient(value, partial(exact, x, weight, bias), x, weight, bias)


def _tuple(value: int | Sequence[int], length: int) -> tuple[int, ...]:
    return (value,) * length if isinstance(value, int) else tuple(value) * (length if len(value) == 1 else 1)


def accumulated_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    accumulation: Accumulation,
    scale: float | None = None,
    enable_gqa: bool = False,
    compute: Compute | None = None,
) -> Tensor:
    """`torch.nn.functional.scaled_dot_product_attention` with the partial sums of both products kept as said.

    ``softmax(scale * (query @ key.T) + mask) @ value``; scores are scaled after they are summed. Rows in which all is
    masked are zero.

    Args:
        query: shape ``(..., L, E)``.
        key: shape ``(..., S, E)``.
        value: shape ``(..., S, V)``.
        attn_mask: added to the scores, or boolean, True where a key counts; broadcasts to ``(..., L, S)``.
        dropout_p: probability that a weight is dropped.
        is_causal: only keys up to the query's own position count.
        accumulation: format, rounding and chunk of the partial sums.
        scale: ``1 / sqrt(E)`` by default.
        enable_gqa: several heads of queries share one of keys and values.
        compute: see `accumulated_matmul`.

    Example:
        >>> x = torch.zeros(1, 2, 4)
        >>> accumulated_attention(x, x, torch.ones(1, 2, 3), accumulation=Accumulation("fp16")).tolist()
        [[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]
    """
    if attn_mask is not None and is_causal:
        raise ValueError("accumulated_attention: got attn_mask and is_causal=True, expected only one of them")
    if enable_gqa:
        heads = query.shape[-3]
        key = key.repeat_interleave(heads // key.shape[-3], -3)
        value = value.repeat_interleave(heads // value.shape[-3], -3)
    scores = accumulated_matmul(query, key.transpose(-2, -1), accumulation, compute=compute)
    scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        boolean = attn_mask.dtype is torch.bool
        scores = scores.masked_fill(attn_mask.logical_not(), -math.inf) if boolean else scores + attn_mask
    weights = torch.softmax(scores, dim=-1)
    if attn_mask is not None:
        weights = weights.masked_fill((scores == -math.inf).all(dim=-1, keepdim=True), 0.0)
    if dropout_p > 0.0:
        weights = F.dropout(weights, dropout_p)
    return accumulated_matmul(weights, value, accumulation, compute=compute, part=1)


# ---------------------------------------------------------------- kernels of modules


def _numbers(operand: Any) -> Any:
    return operand.dequantize() if isinstance(operand, QuantizedOperand) else operand


def _linear(x: Any, weight: Any, bias: Any = None, *, accumulation: Accumulation, compute: Compute) -> Tensor:
    return accumulated_linear(x, weight, bias, accumulation, compute=compute)


def _convolution(
    x: Any, weight: Any, bias: Any = None, *, accumulation: Accumulation, compute: Compute, **settings: Any
) -> Tensor:
    return accumulated_convolution(x, weight, bias, accumulation, compute=compute, **settings)


def _matmul(a: Any, b: Any, *, accumulation: Accumulation, compute: Compute) -> Tensor:
    return accumulated_matmul(a, b, accumulation, compute=compute)


ACCUMULATING_OPS: dict[str, Callable[..., Tensor]] = {
    "linear": _linear,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "conv3d": _convolution,
    "matmul": _matmul,
    "bmm": _matmul,
    "scaled_dot_product_attention": accumulated_attention,
}
"""Ops whose partial sums may be kept in a format, and what computes them: operands, attributes, ``accumulation``,
``compute`` (``None``: the registry's choice)."""


def _accumulating_kernel(op: str, compute: Compute) -> Callable[..., Tensor]:
    function = ACCUMULATING_OPS[op]

    def kernel(*operands: Any, output_encodings: Any = None, accumulation: Accumulation, **attributes: Any) -> Tensor:
        numbers = map(_numbers, operands)
        return function(*numbers, accumulation=accumulation, compute=compute, **attributes)

    kernel.__doc__ = f"{op} with partial sums in a format of choice (set_accumulation)."
    return kernel


def _objection(*operands: Any, accumulation: Accumulation | None = None, **arguments: Any) -> str | None:
    if accumulation is None:
        return "no accumulation is set, and fake quantization computes the same numbers"
    return None


def _only_on_request(*inputs: Any) -> bool:
    """Kernels with an accumulation run where it was set, which needs no screening."""
    return False


def _fused_linear(x: Any, weight: Any, bias: Any = None, *, output_encodings: Any = None) -> Tensor:
    """Triton: operands cast while they are loaded, products on the tensor cores, float32 sums."""
    from quantsim_kernels.triton.float_matmul import linear

    return linear(x, weight, bias)


def _fused_matmul(a: Any, b: Any, *, output_encodings: Any = None) -> Tensor:
    """Triton: operands cast while they are loaded, products on the tensor cores, float32 sums."""
    from quantsim_kernels.triton.float_matmul import matmul

    return matmul(a, b)


def _fused_objection(*operands: Any, accumulation: Accumulation | None = None, **arguments: Any) -> str | None:
    """Why a kernel that casts while it loads cannot run on these operands, or ``None``."""
    if accumulation is not None:
        return "it accumulates in float32 only"
    casts = [operand.cast for operand in operands if isinstance(operand, DeferredOperand) and operand.cast is not None]
    if not casts:
        return "no operand is cast by a plain deterministic quantizer, so there is nothing to fuse"
    if any(isinstance(cast.format, FloatFormat) and cast.format.mantissa_bits > _TENSOR_CORE_BITS for cast in casts):
        return f"tensor cores hold {_TENSOR_CORE_BITS} fraction bits"
    tensors = [operand.source if isinstance(operand, DeferredOperand) else operand for operand in operands]
    tensors += [cast.scale for cast in casts]
    if torch.is_grad_enabled() and any(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in tensors):
        return "it has no backward; gradients go through fake quantization"
    return availability.float_matmul_objection(*operands)


def _on_gpu(*inputs: Any) -> bool:
    first = inputs[0] if inputs else None
    if not isinstance(first, Tensor):
        return not inputs
    return not torch.compiler.is_compiling() and (first.is_cuda or availability.is_interpreted())


def _register() -> None:
    for backend, compute, priority in ((Backend.REFERENCE, reference, 0), (Backend.TORCH, fast, 10)):
        function = compute.accumulated_matmul
        registry.register(op=ACCUMULATED_MATMUL, scheme=Scheme.FLOAT, backend=backend, priority=priority)(function)
        for op in ACCUMULATING_OPS:
            for scheme in (Scheme.FLOAT, Scheme.MX):
                registry.register(
                    op=op,
                    scheme=scheme,
                    backend=backend,
                    predicate=_objection,
                    priority=priority,
                    screen=_only_on_request,
                )(_accumulating_kernel(op, function))
    for op, fused in (("linear", _fused_linear), ("matmul", _fused_matmul), ("bmm", _fused_matmul)):
        for scheme in (Scheme.FLOAT, Scheme.MX):
            registry.register(
                op=op,
                scheme=scheme,
                backend=Backend.TRITON,
                predicate=_fused_objection,
                priority=20,
                screen=_on_gpu,
            )(fused)


_register()
