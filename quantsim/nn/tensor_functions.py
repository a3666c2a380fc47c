"""Functions behind module forms for which torch has none of exactly that meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "add",
    "batch_norm",
    "depth_to_space",
    "divide",
    "expand",
    "gather_nd",
    "hadamard",
    "multiply",
    "rotary_embedding",
    "scatter_nd",
    "stack",
    "strided_slice",
    "subtract",
    "take_along",
]

# torch.add and its like want a tensor first; a module form stands for the operator, which takes numbers on either side.


def add(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """``input + alpha * other``."""
    return torch.add(input, other, alpha=alpha) if isinstance(input, Tensor) else input + alpha * other


def subtract(input: Any, other: Any, *, alpha: float = 1) -> Any:
    """``input - alpha * other``."""
    return torch.sub(input, other, alpha=alpha) if isinstance(input, Tensor) else input - alpha * other


def multiply(input: Any, other: Any) -> Any:
    """``input * other``."""
    return input * other


def divide(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """``input / other``, rounded down or toward zero if ``rounding_mode`` says so."""
    if isinstance(input, Tensor):
        return torch.div(input, other, rounding_mode=rounding_mode)
    return torch.div(torch.as_tensor(input, dtype=other.dtype), other, rounding_mode=rounding_mode)


def batch_norm(input: Tensor, running_mean: Tensor, running_var: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Torch's batch_norm; the statistics, quantized or not, are constants."""
    return F.batch_norm(input, running_mean.detach(), running_var.detach(), *args, **kwargs)


def expand(input: Tensor, *sizes: Any) -> Tensor:
    """``input.expand(*sizes)``."""
    return input.expand(*sizes)


def stack(*tensors: Tensor, dim: int = 0) -> Tensor:
    """Joins tensors along a new dimension."""
    return torch.stack(tensors, dim=dim)


def strided_slice(input: Tensor, ranges: Sequence[tuple[int, int, int]]) -> Tensor:
    """Slices the leading dimensions by (start, end, step)."""
    return input[tuple(slice(*bounds) for bounds in ranges)]


def depth_to_space(input: Tensor, block_size: int) -> Tensor:
    """Moves channels into blocks of pixels, depth first (ONNX DepthToSpace in DCR mode).

    Example:
        >>> depth_to_space(torch.arange(4.0).reshape(1, 4, 1, 1), 2)
        tensor([[[[0., 1.],
                  [2., 3.]]]])
    """
    batch, channels, height, width = input.shape
    depth = channels // block_size**2
    blocks = input.reshape(batch, block_size, block_size, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(batch, depth, height * block_size, width * block_size)


def take_along(input: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
    """Selects slices of ``input`` along ``axis``; the axis is replaced by the shape of ``indices`` (ONNX Gather)."""
    axis = axis % input.dim()
    flat = torch.index_select(input, axis, indices.flatten().long() % input.shape[axis])
    return flat.reshape(*input.shape[:axis], *indices.shape, *input.shape[axis + 1 :])


def gather_nd(input: Tensor, indices: Tensor) -> Tensor:
    """Selects slices by index tuples in the last dimension of ``indices`` (ONNX GatherND, no batch dimensions)."""
    return input[tuple(indices.long().unbind(-1))]


def scatter_nd(input: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Returns ``input`` with the slices at the index tuples replaced by ``updates`` (ONNX ScatterND)."""
    return input.index_put(tuple(indices.long().unbind(-1)), updates)


def hadamard(x: Tensor) -> Tensor:
    """Multiplies the last dimension, of a power of two elements, by the Hadamard matrix of +1 and -1 (Sylvester's).

    Example:
        >>> hadamard(torch.tensor([1.0, 2.0]))
        tensor([ 3., -1.])
    """
    size = x.shape[-1]
    result = x.reshape(-1, size)
    width = 1
    while width < size:
        pairs = result.reshape(-1, size // (2 * width), 2, width)
        upper, lower = pairs[:, :, 0], pairs[:, :, 1]
        result = torch.stack((upper + lower, upper - lower), dim=2).reshape(-1, size)
        width *= 2
    return result.reshape(x.shape)


def rotary_embedding(
    x: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool, rotary_dim: int, head_size: int
) -> Tensor:
    """Rotates feature pairs ``(a, b)`` to ``(a cos - b sin, a sin + b cos)``.

    Args:
        x: Shape (batch, heads, sequence, features) or (batch, sequence, heads * head_size).
        cos: Shape (batch, sequence, rotary_dim / 2), or (sequence, rotary_dim / 2) for all of a batch.
        sin: Same shape.
        interleaved: Whether pairs are neighbours (else the halves of the rotated features).
        rotary_dim: Leading features that are rotated; 0 for all.
        head_size: Features of a head, for inputs of three dimensions.
    """
    heads = x if x.dim() == 4 else x.unflatten(-1, (-1, head_size)).transpose(1, 2)
    rotary = rotary_dim or heads.shape[-1]
    cos, sin = (angle.unsqueeze(-3) if angle.dim() == 3 else angle for angle in (cos, sin))
    rotated, rest = heads[..., :rotary], heads[..., rotary:]
    if interleaved:
        first, second = rotated[..., 0::2], rotated[..., 1::2]
    else:
        first, second = rotated.chunk(2, dim=-1)
    halves = (first * cos - second * sin, first * sin + second * cos)
    rotated = torch.stack(halves, dim=-1).flatten(-2) if interleaved else torch.cat(halves, dim=-1)
    result = torch.cat((rotated, rest), dim=-1)
    return result if x.dim() == 4 else result.transpose(1, 2).flatten(-2)
