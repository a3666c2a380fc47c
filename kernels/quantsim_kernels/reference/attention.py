"""Attention step by step around two products, whatever computes those: shared heads, scale, mask, softmax, dropout."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Product", "attention_steps", "attention_weights"]

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Multiplies two stacks of matrices; the third argument is the range of the first, ``None`` where it is per tensor."""


def attention_steps(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scores_of: Product,
    output_of: Product,
    *,
    attn_mask: Tensor | None = None,
    dropout: Callable[[Tensor], Tensor] | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    row_range: bool = False,
    softmax: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention around two products, whatever computes them: shared heads, scale, mask, softmax, dropout.

    Args:
        query: shape ``(..., H, L, E)``.
        key: shape ``(..., H, S, E)``.
        value: shape ``(..., H, S, D)``.
        scores_of: multiplies queries with keys; what it returns may be overwritten, unless ``softmax`` is given.
        output_of: multiplies attention weights with values.
        attn_mask: boolean (True takes part) or added to the scores; broadcasts to ``(..., H, L, S)``.
        dropout: drops attention weights; ``None``: nothing does.
        is_causal: a query sees no later keys. The last query is aligned with the last key, as a cache needs.
        scale: of the scores; ``None``: ``1 / sqrt(E)``.
        enable_gqa: key and value may have fewer heads, each of which serves as many queries' heads in a row.
        row_range: whether ``output_of`` gets a range for each row of the weights, from 0 to its largest.
        softmax: makes weights from scaled and masked scores along the last axis; ``None``: torch's.

    Returns:
        The result in the dtype of ``query``, and the attention weights, float32 or wider.

    Raises:
        ValueError: heads or mask do not fit.

    Example:
        >>> q = torch.randn(2, 4, 5, 8)
        >>> plain = lambda a, b, range: a @ b
        >>> y, _ = attention_steps(q, q, q, plain, plain, is_causal=True)
        >>> torch.allclose(
        ...     y, torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True), atol=1e-5
        ... )
        True
    """
    shared = _shared_heads(query, key, value, enable_gqa)
    if shared:
        # One head of keys meets all of its queries' heads by broadcasting: none is copied.
        query, key, value = query.unflatten(-3, (shared, -1)), key.unsqueeze(-3), value.unsqueeze(-3)
    scores = scores_of(query, key.transpose(-2, -1), None)
    if shared:
        scores = scores.flatten(-4, -3)
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    weights = attention_weights(scores, attn_mask, is_causal, factor, owned=softmax is None, softmax=softmax)
    if dropout is not None:
        weights = dropout(weights)
    own_range = None
    sent = weights.unflatten(-3, (shared, -1)) if shared else weights
    if row_range:
        largest = sent.detach().amax(dim=-1, keepdim=True)
        own_range = torch.stack([torch.zeros_like(largest), largest])
    y = output_of(sent, value, own_range)
    return (y.flatten(-4, -3) if shared else y).to(query.dtype), weights


def _shared_heads(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> int:
    """How many heads of keys serve several heads of queries each; 0 where none does."""
    if query.dim() < 3 or key.dim() < 3 or value.dim() < 3:
        return 0
    heads, keys, values = query.shape[-3], key.shape[-3], value.shape[-3]
    if heads == keys == values:
        return 0
    if not enable_gqa or keys == 0 or heads % keys or values != keys:
        raise ValueError(
            f"got {heads} heads of query, {keys} of key and {values} of value, expected equal numbers, or with "
            "enable_gqa a multiple for query"
        )
    return keys


def attention_weights(
    scores: Tensor,
    attn_mask: Tensor | None,
    is_causal: bool,
    scale: float,
    *,
    owned: bool = False,
    softmax: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Scores, scaled and masked, as weights of which each row sums to 1.

    Args:
        scores: products of queries and keys, shape ``(..., L, S)``.
        attn_mask: boolean (True takes part) or added to the scaled scores; broadcasts to them.
        is_causal: keys after a query's position are left out as well. Queries are the last ``L`` of ``S`` positions, as
            they are when keys come from a cache.
        scale: factor of the scores.
        owned: whether ``scores`` may be overwritten.
        softmax: makes weights from scaled and masked scores along the last axis; ``None``: torch's.

    Returns:
        Weights, float32 or wider. A row that may see no key is 0, with a gradient of 0.

    Raises:
        ValueError: the mask does not broadcast to the scores.

    Example:
        >>> attention_weights(torch.zeros(2, 3), None, True, 1.0)
        tensor([[0.5000, 0.5000, 0.0000],
                [0.3333, 0.3333, 0.3333]])
    """
    if attn_mask is not None:
        _check_mask(attn_mask, scores)
    full = scores.to(torch.promote_types(scores.dtype, torch.float32))
    # No gradient needs the scores themselves.
    scaled = full.mul_(scale) if owned or full is not scores else full * scale
    added, visible, alive = _mask_parts(attn_mask, is_causal, scores)
    if added is not None:
        scaled = scaled.add_(added)
    if visible is not None:
        scaled = scaled.masked_fill_(~visible, -math.inf)
    weights = torch.softmax(scaled, dim=-1) if softmax is None else softmax(scaled)
    return weights if alive is None else weights * alive


def _check_mask(mask: Tensor, scores: Tensor) -> None:
    try:
        fits = torch.broadcast_shapes(mask.shape, scores.shape) == scores.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"attn_mask: got shape {tuple(mask.shape)}, expected one that broadcasts to the scores' "
            f"{tuple(scores.shape)}"
        )


def _mask_parts(
    mask: Tensor | None, is_causal: bool, scores: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What is added, which keys are seen, and which rows see any (``None``: nothing, all, all).

    Softmax of a row that sees nothing is NaN, and so would be its gradient: such rows are left unmasked, to be set to 0
    afterwards.
    """
    rows, columns = scores.shape[-2:]
    visible = added = alive = None
    if is_causal:
        visible = torch.ones(rows, columns, dtype=torch.bool, device=scores.device).tril(columns - rows)
    if mask is not None and mask.dtype is torch.bool:
        visible = mask if visible is None else visible & mask
    elif mask is not None:
        added = mask.to(torch.promote_types(scores.dtype, torch.float32))
        counted = added > -math.inf
        alive = (counted if visible is None else counted & visible).any(-1, keepdim=True)
    if alive is None and visible is not None and (mask is not None or rows > columns):
        alive = visible.any(-1, keepdim=True)
    if alive is None or _certainly(alive):
        return added, visible, None
    return (
        None if added is None else torch.where(alive, added, 0.0),
        None if visible is None else visible | ~alive,
        alive,
    )


def _certainly(condition: Tensor) -> bool:
    """Whether all is true, where that is known without waiting for a device."""
    plain = type(condition) is Tensor and condition.device.type == "cpu" and not torch.compiler.is_compiling()
    return plain and bool(condition.all())
