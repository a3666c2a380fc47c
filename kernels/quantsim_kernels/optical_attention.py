"""Attention whose two products run on a simulated photonic engine."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from quantsim_encodings.formats import OpticalNoise
from quantsim_kernels.optical import DEFAULT_LUT, OpticalGradient, check_operand, checked_settings, optical_matmul
from quantsim_kernels.random_seeds import SEED_STEP, next_seed, seed_tensor
from quantsim_kernels.reference.noise import NOISE_BITS, element_noise
from quantsim_kernels.registry import Backend, Scheme, registry

__all__ = ["optical_attention"]

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
    attn_range: str = "unit",
    levels: int = 256,
    lut: float | None = DEFAULT_LUT,
    noise: OpticalNoise | str | bool = OpticalNoise.DITHER,
    seed: int | Tensor | None = None,
    photons: float | None = None,
    ste: OpticalGradient | str = OpticalGradient.IDENTITY,
) -> tuple[Tensor, Tensor, Tensor]:
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
        dropout_p: probability with which an attention weight is dropped; drawn from ``seed``, not by torch.
        is_causal: a query sees no later keys. The last query is aligned with the last key, as a cache needs. May be
            combined with ``attn_mask``.
        scale: of the scores; ``None``: ``1 / sqrt(E)``.
        enable_gqa: key and value may have fewer heads, each of which serves as many queries' heads in a row.
        attn_range: ``"unit"``: attention weights lie on levels from 0 to 1, as published, so that at 256 levels each
            one below 1/510 becomes 0; ``"row"``: from 0 to the largest of the row.
        levels: see :func:`optical_linear`, as for what follows.
        lut: ...
        noise: ...
        seed: ...
        photons: ...
        ste: ...

    Returns:
        The result, shape ``(..., H, L, D)``, and the ranges of both products before they are clipped. A query that may
        see no key has attention weights of 0.

    Raises:
        TypeError, ValueError: as :func:`optical_matmul`, or ``attn_range`` or ``dropout_p`` is not valid.

    Example:
        >>> q, unit, wide = torch.eye(4)[None], torch.tensor([-1.0, 1.0]), torch.tensor([-4.0, 4.0])
        >>> y, _, _ = optical_attention(q, q, q, unit, unit, wide, unit, unit, is_causal=True, noise="none")
        >>> y.shape, y[0, 0, 0] > 0.99, bool((y[0, 0, 1:] == y[0, 0, 1]).all())
        (torch.Size([1, 4, 4]), tensor(True), True)
    """
    check_operand("optical_attention(query)", query, 2)
    if attn_range not in ("unit", "row"):
        raise ValueError(f"optical_attention(attn_range): got {attn_range!r}, expected 'unit' or 'row'")
    if not 0.0 <= dropout_p <= 1.0:
        raise ValueError(f"optical_attention(dropout_p): got {dropout_p!r}, expected a number from 0 to 1")
    settings: dict[str, Any] = {"levels": levels, "lut": lut, "noise": noise, "photons": photons, "ste": ste}
    parsed, _ = checked_settings(levels, lut, noise, photons, ste)
    start = None
    if parsed is not OpticalNoise.NONE or dropout_p > 0.0:
        start = next_seed(query.device) if seed is None else seed_tensor(seed, query.device)
    if enable_gqa:
        key, value = _with_heads(key, query, "key"), _with_heads(value, query, "value")
    scores, qk_extremes = optical_matmul(
        query, key.transpose(-2, -1), query_range, key_range, qk_range, seed=start, **settings
    )
    scores = scores.to(torch.float32) * (1.0 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scores, alive = _masked(scores, attn_mask, is_causal)
    weights = torch.softmax(scores, dim=-1)
    if alive is not None:
        weights = torch.where(alive, weights, 0.0)
    second = None if start is None else start + SEED_STEP
    if dropout_p > 0.0:
        assert second is not None
        kept = element_noise(weights.shape, second + SEED_STEP) >= round(dropout_p * 2**NOISE_BITS)
        weights = weights * kept * (1.0 / (1.0 - dropout_p) if dropout_p < 1.0 else 0.0)
    y, av_extremes = optical_matmul(
        weights, value, _weights_range(weights, attn_range), value_range, av_range, seed=second, **settings
    )
    return y.to(query.dtype), qk_extremes, av_extremes


def _with_heads(tensor: Tensor, query: Tensor, name: str) -> Tensor:
    """Each head repeated for all the queries' heads that it serves."""
    heads, wanted = tensor.shape[-3], query.shape[-3]
    if heads == 0 or wanted % heads:
        raise ValueError(f"optical_attention({name}): got {heads} heads, expected a divisor of the query's {wanted}")
    return tensor if heads == wanted else tensor.repeat_interleave(wanted // heads, dim=-3)


def _masked(scores: Tensor, mask: Tensor | None, is_causal: bool) -> tuple[Tensor, Tensor | None]:
    """Scores with what may not be seen at minus infinity, and which rows see anything (``None``: all)."""
    visible = None
    if is_causal:
        rows, columns = scores.shape[-2:]
        visible = torch.ones(rows, columns, dtype=torch.bool, device=scores.device).tril(columns - rows)
    if mask is not None and mask.dtype is torch.bool:
        visible = mask if visible is None else visible & mask
    elif mask is not None:
        scores = scores + mask.to(torch.float32)
    if visible is not None:
        scores = scores.masked_fill(~visible, -math.inf)
    if mask is None and (visible is None or scores.shape[-2] <= scores.shape[-1]):
        return scores, None
    alive = (scores > -math.inf).any(-1, keepdim=True)
    # Softmax of such a row is NaN, and so would be its gradient; the row is set to 0 afterwards.
    return torch.where(alive, scores, 0.0), alive


def _weights_range(weights: Tensor, attn_range: str) -> Tensor:
    if attn_range == "unit":
        return torch.arange(2, dtype=torch.float32, device=weights.device)
    largest = weights.detach().amax(dim=-1, keepdim=True)
    return torch.stack([torch.zeros_like(largest), largest])


registry.register(
    op=ATTENTION,
    scheme=Scheme.OPTICAL,
    backend=Backend.REFERENCE,
    description="Two optical products and an exact softmax.",
)(optical_attention)
