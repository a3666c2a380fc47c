"""What the accumulated products share: seeds, the choice of a backend, operators for compilers, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim_kernels.accumulation import Accumulation
from quantsim_kernels.random_seeds import next_seed, seed_tensor
from quantsim_kernels.reference import float_matmul as reference
from quantsim_kernels.registry import Scheme, registry

__all__ = ["ACCUMULATED_MATMUL", "CONVOLUTIONS", "Compute", "convolve", "product", "resolve_seed", "with_gradient"]

ACCUMULATED_MATMUL = "accumulated_matmul"

_PATCH_ELEMENTS = 2**20

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}

Compute = Callable[..., Tensor]


class _StraightThrough(torch.autograd.Function):
    """The first argument's value with the second one's gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, exact: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0]


def with_gradient(value: Tensor, exact: Callable[[], Tensor], *operands: Tensor | None) -> Tensor:
    """``value`` with the gradient of what ``exact`` computes, where one is needed."""
    if torch.is_grad_enabled() and any(operand is not None and operand.requires_grad for operand in operands):
        return _StraightThrough.apply(value, exact())  # type: ignore[no-any-return]
    return value


def resolve_seed(accumulation: Accumulation, device: torch.device) -> Tensor | None:
    if not accumulation.is_stochastic:
        return None
    return next_seed(device) if accumulation.seed is None else seed_tensor(accumulation.seed, device)


def product(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    accumulation: Accumulation,
    compute: Compute | None,
) -> Tensor:
    """The product of matrices ``(..., M, K)`` and ``(..., K, N)`` without a gradient; ``bias`` broadcasts to it."""
    a, b, bias = a.detach(), b.detach(), None if bias is None else bias.detach()
    if torch.compiler.is_compiling():
        return torch.ops.quantsim_kernels.accumulated_matmul(a, b, bias, seed, accumulation.text)
    if a.is_meta:
        return _product_shape(a, b)
    if compute is None:
        compute = registry.require(ACCUMULATED_MATMUL, Scheme.FLOAT, a, b, bias, **accumulation.arguments).function
    with torch.no_grad():
        return compute(a, b, bias, **accumulation.arguments, seed=seed)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    accumulation: Accumulation,
    compute: Compute | None,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """The convolution of a batch of images without a gradient."""
    x, weight, bias = x.detach(), weight.detach(), None if bias is None else bias.detach()
    if torch.compiler.is_compiling():
        same = padding == "same"
        sides = [0] * len(stride) if isinstance(padding, str) else list(padding)
        return torch.ops.quantsim_kernels.accumulated_convolution(
            x, weight, bias, seed, list(stride), sides, same, list(dilation), groups, accumulation.text
        )
    kernel_size = tuple(weight.shape[2:])
    kernel = weight.reshape(1, groups, weight.shape[0] // groups, -1)
    addend = None if bias is None else bias.reshape(1, groups, -1, 1)

    def of_piece(images: Tensor) -> Tensor:
        patches, shape = reference.convolution_patches(images, kernel_size, stride, padding, dilation, groups)
        result = product(kernel, patches, addend, seed, accumulation, compute)
        return result.reshape(len(images), weight.shape[0], *shape)

    if seed is not None or len(x) < 2:
        return of_piece(x)  # noise is numbered over the whole result
    # Patches take many times the memory of images.
    count = max(1, _PATCH_ELEMENTS // max(1, x[0].numel() * math.prod(kernel_size)))
    return torch.cat([of_piece(images) for images in x.split(count)])


# A compiler sees one opaque operator instead of a graph with several nodes for each chunk.
_LIBRARY = torch.library.Library("quantsim_kernels", "FRAGMENT")


def _define(schema: str, function: Callable[..., Tensor], shape: Callable[..., Tensor]) -> None:
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"quantsim_kernels::{name}", shape, lib=_LIBRARY)


def _product_operator(a: Tensor, b: Tensor, bias: Tensor | None, seed: Tensor | None, settings: str) -> Tensor:
    return product(a, b, bias, seed, Accumulation.from_text(settings), None)


def _product_shape(a: Tensor, b: Tensor, *arguments: Any) -> Tensor:
    batch = torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return a.new_empty((*batch, a.shape[-2], b.shape[-1]), dtype=torch.promote_types(a.dtype, b.dtype))


def _convolution_operator(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    stride: list[int],
    padding: list[int],
    same: bool,
    dilation: list[int],
    groups: int,
    settings: str,
) -> Tensor:
    sides = "same" if same else padding
    return convolve(x, weight, bias, seed, Accumulation.from_text(settings), None, stride, sides, dilation, groups)


def _convolution_shape(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seed: Tensor | None,
    stride: list[int],
    padding: list[int],
    same: bool,
    dilation: list[int],
    groups: int,
    settings: str,
) -> Tensor:
    convolution = CONVOLUTIONS[weight.dim() - 2]
    like = convolution(x, weight, None, stride, "same" if same else padding, dilation, groups)
    return x.new_empty(like.shape, dtype=like.dtype)


_define(
    "accumulated_matmul(Tensor a, Tensor b, Tensor? bias, Tensor? seed, str settings) -> Tensor",
    _product_operator,
    _product_shape,
)
_define(
    "accumulated_convolution(Tensor x, Tensor weight, Tensor? bias, Tensor? seed, int[] stride, int[] padding, "
    "bool same, int[] dilation, int groups, str settings) -> Tensor",
    _convolution_operator,
    _convolution_shape,
)
