"""Attention whose two products run on a simulated photonic engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim_encodings.formats import OpticalNoise
from quantsim_kernels.optical import DEFAULT_LUT, OpticalGradient, check_operand, checked_settings, optical_matmul
from quantsim_kernels.random_seeds import SEED_STEP, next_seed, seed_tensor
from quantsim_kernels.reference.noise import NOISE_BITS, element_noise
from quantsim_kernels.registry import Backend, Scheme, registry

__all__ = ["attention_steps", "attention_weights", "optical_attention"]

Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Multiplies two stacks of matrices; the third argument is the range of the first, ``None`` where it is per tensor."""

ATTENTION = "optical_attention"


def optical_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_range: Tensor,
    key_range: Tensor,
    qk_range: Tensor | None,
    value_range: Tensor,
    av_range: Tensor | None,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    attn_range: Tensor | str = "unit",
    levels: int = 256,
    lut: float | None = DEFAULT_LUT,
    noise: OpticalNoise | str | bool = OpticalNoise.DITHER,
    seed: int | Tensor | None = None,
    photons: float | None = None,
    ste: OpticalGradient | str = OpticalGradient.IDENTITY,
    av_seed: int | Tensor | None = None,
    torch_dropout: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Attention whose two products run on the photonic engine; softmax, scale and mask are exact.

    ``s = Q_noise(Q(q) Q(k; lut)^T)``, ``p = dropout(softmax(s scale + mask))``, ``y = Q_noise(Q(p) Q(v; lut))``.

    Args:
        query: shape ``(..., H, L, E)``.
        key: shape ``(..., H, S, E)``.
        value: shape ``(..., H, S, D)``.
        query_range: (lo, hi) of the queries.
        key_range: (lo, hi) of the keys.
        qk_range: (lo, hi) of their product before it is scaled; ``None``: it is not quantized.
        value_range: (lo, hi) of the values.
        av_range: (lo, hi) of the result; ``None``: it is not quantized.
        attn_mask: boolean (True takes part) or added to the scores; broadcasts to ``(..., H, L, S)``.
        dropout_p: probability with which an attention weight is dropped; drawn from ``seed``, see ``torch_dropout``.
        is_causal: a query sees no later keys. The last query is aligned with the last key, as a cache needs. May be
            combined with ``attn_mask``.
        scale: of the scores; ``None``: ``1 / sqrt(E)``.
        enable_gqa: key and value may have fewer heads, each of which serves as many queries' heads in a row.
        attn_range: ``"unit"``: attention weights lie on levels from 0 to 1, as published, so that at 256 levels each
            one below 1/510 becomes 0; ``"row"``: from 0 to the largest of the row; or their (lo, hi).
        levels: see :func:`optical_linear`, as for what follows.
        lut: ...
        noise: ...
        seed: ...
        photons: ...
        ste: ...
        av_seed: seed of the second product's noise; ``None``: follows from ``seed``.
        torch_dropout: draw dropout from torch's generator, as torch's own attention does.

    Returns:
        The result, shape ``(..., H, L, D)``, the ranges of both products before they are clipped, and the attention
        weights (after dropout, before they are quantized), float32. A query that may see no key has weights of 0.

    Raises:
        TypeError, ValueError: as :func:`optical_matmul`, or ``attn_range`` or ``dropout_p`` is not valid.

    Example:
        >>> q, unit, wide = torch.eye(4)[None], torch.tensor([-1.0, 1.0]), torch.tensor([-4.0, 4.0])
        >>> y, *_ = optical_attention(q, q, q, unit, unit, wide, unit, unit, is_causal=True, noise="none")
        >>> y.shape, y[0, 0, 0] > 0.99, bool((y[0, 0, 1:] == y[0, 0, 1]).all())
        (torch.Size([1, 4, 4]), tensor(True), True)
    """
    check_operand("optical_attention(query)", query, 2)
    given_range = isinstance(attn_range, Tensor)
    if not given_range and attn_range not in ("unit", "row"):
        raise ValueError(f"optical_attention(attn_range): got {attn_range!r}, expected 'unit', 'row' or a range")
    if not 0.0 <= dropout_p <= 1.0:
        raise ValueError(f"optical_attention(dropout_p): got {dropout_p!r}, expected a number from 0 to 1")
    settings: dict[str, Any] = {"levels": levels, "lut": lut, "noise": noise, "photons": photons, "ste": ste}
    parsed, _ = checked_settings(levels, lut, noise, photons, ste)
    start = second = None
    if parsed is not OpticalNoise.NONE or (dropout_p > 0.0 and not torch_dropout):
        start = next_seed(query.device) if seed is None else seed_tensor(seed, query.device)
        second = start + SEED_STEP if av_seed is None else seed_tensor(av_seed, query.device)
    extremes: list[Tensor] = []

    def product(range: Tensor, stored_range: Tensor, out: Tensor | None, seed: Tensor | None) -> Product:
        def run(a: Tensor, b: Tensor, own_range: Tensor | None) -> Tensor:
            result, ends = optical_matmul(
                a, b, range if own_range is None else own_range, stored_range, out, seed=seed, **settings
            )
            extremes.append(ends)
            return result

        return run

    def drop(weights: Tensor) -> Tensor:
        if torch_dropout:
            return F.dropout(weights, dropout_p)
        assert second is not None
        kept = element_noise(weights.shape, second + SEED_STEP) >= round(dropout_p * 2**NOISE_BITS)
        return weights * kept * (1.0 / (1.0 - dropout_p) if dropout_p < 1.0 else 0.0)

    unit = attn_range if given_range else torch.arange(2, dtype=torch.float32, device=query.device)
    y, weights = attention_steps(
        query,
        key,
        value,
        product(query_range, key_range, qk_range, start),
        product(unit, value_range, av_range, second),
        attn_mask=attn_mask,
        dropout=drop if dropout_p > 0.0 else None,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=enable_gqa,
        row_range=not given_range and attn_range == "row",
    )
    return y, extremes[0], extremes[1], weights


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
) -> tuple[Tensor, Tensor]:
    """Attention around two products, whatever computes them: shared heads, scale, mask, softmax, dropout.

    Args:
        query: see :func:`optical_attention`, as for all that is not said here.
        key: ...
        value: ...
        scores_of: multiplies queries with keys; what it returns may be overwritten.
        output_of: multiplies attention weights with values.
        attn_mask: ...
        dropout: drops attention weights; ``None``: nothing does.
        is_causal: ...
        scale: ...
        enable_gqa: ...
        row_range: whether ``output_of`` gets a range for each row of the weights, from 0 to its largest.

    Returns:
        The result in the dtype of ``query``, and the attention weights, float32.

    Raises:
        ValueError: heads or mask do not fit.

    Example:
        >>> q = torch.randn(2, 4, 5, 8)
        >>> plain = lambda a, b, range: a @ b
        >>> y, _ = attention_steps(q, q, q, plain, plain, is_causal=True)
        >>> torch.allclose(y, F.scaled_dot_product_attention(q, q, q, is_causal=True), atol=1e-5)
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
    weights = attention_weights(scores, attn_mask, is_causal, factor, owned=True)
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
    scores: Tensor, attn_mask: Tensor | None, is_causal: bool, scale: float, *, owned: bool = False
) -> Tensor:
    """Scores, scaled and masked, as weights of which each row sums to 1.

    Args:
        scores: products of queries and keys, shape ``(..., L, S)``.
        attn_mask: boolean (True takes part) or added to the scaled scores; broadcasts to them.
        is_causal: keys after a query's position are left out as well. Queries are the last ``L`` of ``S`` positions, as
            they are when keys come from a cache.
        scale: factor of the scores.
        owned: whether ``scores`` may be overwritten.

    Returns:
        Weights, float32. A row that may see no key is 0, with a gradient of 0.

    Raises:
        ValueError: the mask does not broadcast to the scores.

    Example:
        >>> attention_weights(torch.zeros(2, 3), None, True, 1.0)
        tensor([[0.5000, 0.5000, 0.0000],
                [0.3333, 0.3333, 0.3333]])
    """
    if attn_mask is not None:
        _check_mask(attn_mask, scores)
    full = scores.to(torch.float32)
    # No gradient needs the scores themselves.
    scaled = full.mul_(scale) if owned or full is not scores else full * scale
    added, visible, alive = _mask_parts(attn_mask, is_causal, scores)
    if added is not None:
        scaled = scaled.add_(added)
    if visible is not None:
        scaled = scaled.masked_fill_(~visible, -math.inf)
    weights = torch.softmax(scaled, dim=-1)
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
        added = mask.to(torch.float32)
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


registry.register(
    op=ATTENTION,
    scheme=Scheme.OPTICAL,
    backend=Backend.REFERENCE,
    description="Two optical products and an exact softmax.",
)(optical_attention)
