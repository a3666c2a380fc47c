"""Attention whose two products run on a simulated photonic engine."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim_encodings.formats import OpticalNoise
from quantsim_kernels.optical import DEFAULT_LUT, OpticalGradient, check_operand, checked_settings, optical_matmul
from quantsim_kernels.random_seeds import SEED_STEP, next_seed, seed_tensor
from quantsim_kernels.reference.attention import Product, attention_steps
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


registry.register(
    op=ATTENTION,
    scheme=Scheme.OPTICAL,
    backend=Backend.REFERENCE,
    description="Two optical products and an exact softmax.",
)(optical_attention)
