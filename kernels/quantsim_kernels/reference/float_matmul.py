"""Matrix products whose partial sums are kept in a floating-point format; convolutions as such products.

The law, for each element of the result, with K split into chunks of ``chunk`` consecutive products (the last may be
shorter)::

    acc = 0
    for each chunk t:
        s   = sum of the chunk's products            # products exact, the sum in float64
        s   = cast_inner(s)                          # only where an inner format is given
        acc = cast(acc + s)                          # the exact sum, rounded once
    acc = cast(acc + bias)                           # only where there is a bias

The noise of a stochastic rounding is that of the element's row-major number in the result under the seed of the step:
rounding number ``2t`` for ``acc``, ``2t + 1`` for ``s``, and ``2T`` for the bias after ``T`` chunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim_encodings.formats import FloatFormat, RoundingMode
from quantsim_kernels.reference import float_cast as cast
from quantsim_kernels.reference.accumulation import chunk_sum, rounded_sum, step_seed

__all__ = ["accumulated_matmul", "convolution_patches"]


def accumulated_matmul(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    format: FloatFormat,
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN,
    chunk: int | None = 1,
    inner: FloatFormat | None = None,
    saturate: bool = False,
    inner_saturate: bool = False,
    seed: Tensor | None = None,
) -> Tensor:
    """``a @ b + bias``, partial sums rounded to ``format`` after each chunk of K. No gradient of its own.

    Args:
        a: floating-point tensor, shape ``(..., M, K)``; up to float32 all products are exact.
        b: shape ``(..., K, N)``; leading dimensions broadcast.
        bias: broadcasts to the result, or ``None``.
        format: format of the accumulator.
        rounding: rounding law of every cast.
        chunk: products that are summed before the accumulator is rounded; ``None``: all of K.
        inner: format that a chunk's sum is rounded to before it is added; ``None``: none.
        saturate: whether the accumulator saturates.
        inner_saturate: whether a chunk's sum does.
        seed: 0-d int64 tensor for stochastic laws, else ``None``.

    Returns:
        Shape ``(..., M, N)``, in the dtype that torch promotes the operands to.

    Example:
        >>> from quantsim_encodings.formats import float_format
        >>> ones = torch.ones(1, 4096)
        >>> accumulated_matmul(ones, ones.T, format=float_format("fp16"), chunk=1).item()
        2048.0
        >>> accumulated_matmul(ones, ones.T, format=float_format("fp16"), chunk=4).item()
        4096.0
    """
    dtype = torch.promote_types(a.dtype, b.dtype)
    a, b = a.detach().to(torch.float64), b.detach().to(torch.float64)
    length = a.shape[-1]
    size = length if chunk is None else chunk
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    accumulator = a.new_zeros(*batch, a.shape[-2], b.shape[-1])
    step = 0
    for start in range(0, length, max(size, 1)):
        addend = chunk_sum(a[..., start : start + size], b[..., start : start + size, :])
        if inner is not None:
            noise = step_seed(seed, step + 1)
            addend = cast.float_cast(addend, inner, rounding=rounding, saturate=inner_saturate, seed=noise)
        accumulator = rounded_sum(accumulator, addend, format, rounding, saturate, step_seed(seed, step))
        step += 2
    if bias is not None:
        addend = bias.detach().to(torch.float64).expand_as(accumulator)
        accumulator = rounded_sum(accumulator, addend, format, rounding, saturate, step_seed(seed, step))
    return accumulator.to(dtype)


def convolution_patches(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> tuple[Tensor, tuple[int, ...]]:
    """What a convolution multiplies its weights with, zeros around the edges included.

    K runs over the input channels of a group, then over the kernel's positions, both in the order of the weight: the
    convolution is ``weight.reshape(groups, -1, K) @ patches``.

    Args:
        x: shape ``(N, C, *spatial)``.
        kernel_size: one entry for each spatial dimension, like the next three.
        stride: steps of the kernel.
        padding: zeros on both sides, or ``"same"`` or ``"valid"``.
        dilation: distances of the kernel's positions.
        groups: groups of channels.

    Returns:
        Patches of shape ``(N, groups, K, positions)``, and the spatial shape of the result.

    Example:
        >>> x = torch.arange(6.0).reshape(1, 1, 6)
        >>> patches, shape = convolution_patches(x, (2,), (3,), (0,), (2,), 1)
        >>> patches.tolist(), shape
        ([[[[0.0, 3.0], [2.0, 5.0]]]], (2,))
    """
    dimensions = len(kernel_size)
    reach = [(size - 1) * step for size, step in zip(kernel_size, dilation, strict=True)]
    if isinstance(padding, str):
        # As torch does: an odd number of zeros has the one more at the end.
        sides = [(0, 0)] * dimensions if padding == "valid" else [(total // 2, total - total // 2) for total in reach]
    else:
        sides = [(size, size) for size in padding]
    x = F.pad(x, [size for pair in reversed(sides) for size in pair])
    for axis in range(dimensions):
        x = x.unfold(2 + axis, reach[axis] + 1, stride[axis])[..., :: dilation[axis]]
    x = x.unflatten(1, (groups, -1))
    shape = tuple(x.shape[3 : 3 + dimensions])
    x = x.permute(0, 1, 2, *range(3 + dimensions, 3 + 2 * dimensions), *range(3, 3 + dimensions))
    length, positions = x.shape[2] * math.prod(kernel_size), math.prod(shape)
    return x.reshape(x.shape[0], groups, length, positions), shape
