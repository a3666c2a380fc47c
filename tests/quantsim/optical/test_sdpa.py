"""Optical attention on tensors, against an independent NumPy model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim.errors import ConfigurationError, NotCalibratedError, ShapeError
from quantsim.optical.sdpa import attention_probabilities, optical_transformer_SDPA


def on_levels(x: np.ndarray, lo: float, hi: float, levels: int, lut: float | None = None) -> np.ndarray:
    """Float64 model of the levels and of the floor on magnitudes."""
    y = np.rint((np.clip(x, lo, hi) - lo) / (hi - lo + 1e-8) * (levels - 1)) / (levels - 1) * (hi - lo) + lo
    if lut is not None:
        y = np.where((y > 0) & (y < lut * hi), lut * hi, y)
        y = np.where((y < 0) & (y > -lut * abs(lo)), -lut * abs(lo), y)
    return y


def on_own_levels(x: np.ndarray, levels: int, lut: float | None = None) -> np.ndarray:
    return on_levels(x, x.min(), x.max(), levels, lut)


def expected_attention(
    query: Tensor, key: Tensor, value: Tensor, keep: np.ndarray | None, levels: int, row: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The result in float64, and the accumulator of the second product."""
    q, k, v = (x.detach().numpy().astype(np.float64) for x in (query, key, value))
    k, v = (x.repeat(q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    product = on_own_levels(q, levels) @ on_own_levels(k, levels, 0.02004).swapaxes(-1, -2)
    scores = on_own_levels(product, levels) / math.sqrt(q.shape[-1])
    if keep is not None:
        scores = np.where(keep, scores, -np.inf)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    p = powers / powers.sum(-1, keepdims=True)
    largest = p.max(-1, keepdims=True) if row else 1.0
    accumulator = (on_levels(p / largest, 0.0, 1.0, levels) * largest) @ on_own_levels(v, levels, 0.02004)
    return on_own_levels(accumulator, levels), accumulator


def unset() -> Tensor:
    return torch.full((6, 2), math.nan)


def attend(query: Tensor, key: Tensor, value: Tensor, ranges: Tensor, attn: Any = "unit", **more: Any) -> Tensor:
    given = (*ranges[:3], attn, *ranges[4:])
    return optical_transformer_SDPA(query, key, value, *given, **{"noise": "none", **more})


def tensors(heads: int = 4, shared: int = 4, rows: int = 7, columns: int = 7, size: int = 10) -> list[Tensor]:
    torch.manual_seed(5)
    return [torch.randn(2, heads, rows, size), *torch.randn(2, 2, shared, columns, size)]


@pytest.mark.parametrize("attn", ["unit", "row"])
@pytest.mark.parametrize("shared", [4, 2, 1])
@pytest.mark.parametrize("causal", [False, True])
def test_equals_the_independent_model(attn: str, shared: int, causal: bool) -> None:
    query, key, value = tensors(shared=shared, rows=5, columns=9)
    result = attend(query, key, value, unset(), attn, update=True, is_causal=causal, enable_gqa=True).numpy()
    keep = np.tril(np.ones((5, 9), dtype=bool), 4) if causal else None
    expected, accumulator = expected_attention(query, key, value, keep, 256, attn == "row")
    difference = np.abs(result - expected)
    # A score on the edge of two levels may fall on either, and moves its row a little.
    assert (difference > 1e-5).mean() < 0.05
    assert difference.max() < 3 * np.ptp(accumulator) / 255


def test_bypass_is_plain_attention() -> None:
    query, key, value = tensors(shared=2)
    mask = torch.rand(2, 1, 7, 7) > 0.3
    mask[..., 0] = True
    settings: list[dict[str, Any]] = [{}, {"attn_mask": mask}, {"is_causal": True}, {"scale": 0.5}]
    for more in settings:
        result = attend(query, key, value, unset(), bypass=True, enable_gqa=True, **more)
        torch.testing.assert_close(
            result, F.scaled_dot_product_attention(query, key, value, enable_gqa=True, **more), atol=1e-5, rtol=1e-5
        )


def test_many_levels_approach_plain_attention_under_masks_and_causality_together() -> None:
    """A mask beside causality, and fewer queries than keys, which are the last ones."""
    query, key, value = tensors(rows=3, columns=7)
    padding = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    padding[1, ..., :2] = False
    keep = padding & torch.ones(3, 7, dtype=torch.bool).tril(4)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=keep)
    added = torch.where(padding, 0.0, torch.finfo(torch.float32).min)
    for mask in (padding, added):
        result = attend(query, key, value, unset(), attn_mask=mask, is_causal=True, update=True, levels=2**16, lut=None)
        torch.testing.assert_close(result, expected, atol=1e-3, rtol=1e-3)


def test_ranges_move_only_when_asked_and_before_they_are_used() -> None:
    query, key, value = tensors()
    ranges = unset()
    attend(query, key, value, ranges, update=True)
    assert torch.equal(ranges[0], torch.stack(torch.aminmax(query)))
    assert ranges[3].isnan().all(), "the probabilities have a range of their own"
    before = ranges.clone()
    attend(10 * query, key, value, ranges)
    assert torch.equal(ranges.nan_to_num(), before.nan_to_num())
    for _ in range(60):
        attend(10 * query, key, value, ranges, update=True)
    torch.testing.assert_close(ranges[0], 10 * before[0], rtol=0.01, atol=0.0)
    torch.testing.assert_close(ranges[2], 10 * before[2], rtol=0.02, atol=0.0)  # from the unclipped accumulator


def test_range_of_the_scores_is_taken_before_the_scale_and_the_mask() -> None:
    query, key, value = tensors()
    first, second = unset(), unset()
    attend(query, key, value, first, update=True, scale=0.01)
    attend(query, key, value, second, update=True, scale=1.0, is_causal=True)
    assert torch.equal(first[2], second[2])


def test_even_attention_over_many_keys_needs_the_range_of_the_row() -> None:
    query, key = torch.zeros(1, 1, 1, 4), torch.ones(1, 1, 600, 4)
    value = torch.linspace(1.0, 2.0, 600).reshape(1, 1, 600, 1).expand(1, 1, 600, 4)
    ranges = torch.tensor([[-1.0, 1.0], [-1.0, 1.0], [-4.0, 4.0], [0.0, 1.0], [-2.0, 2.0], [-2.0, 2.0]])
    ranges[:3, 0] = 0.0
    ranges[4:, 0] = 0.0
    assert attend(query, key, value, ranges, "unit").abs().max() == 0.0
    torch.testing.assert_close(
        attend(query, key, value, ranges, "row"), torch.full((1, 1, 1, 4), 1.5), atol=0.02, rtol=0
    )


def test_noise_follows_the_seed_and_leaves_torchs_generator() -> None:
    query, key, value = tensors()
    ranges = unset()
    attend(query, key, value, ranges, update=True)
    state = torch.get_rng_state()
    runs = [attend(query, key, value, ranges, noise="dither", seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(runs[0], runs[1])
    difference = (runs[0] - runs[2]).flatten()
    assert difference.unique().numel() > 5, "independent for each element, not one offset"


def test_gradients_are_those_of_plain_attention_where_levels_are_many() -> None:
    query, key, value = given = [x.requires_grad_() for x in tensors(shared=2)]
    result = attend(query, key, value, unset(), update=True, levels=2**16, lut=None, is_causal=True, enable_gqa=True)
    plain = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    weights = torch.randn_like(plain)
    for mine, theirs in zip(
        torch.autograd.grad((result * weights).sum(), given),
        torch.autograd.grad((plain * weights).sum(), given),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, atol=5e-3, rtol=5e-3)


def test_rows_without_a_key_are_zero_with_finite_gradients() -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    keep = torch.tensor([[True, False, True], [False, False, False]])
    p = attention_probabilities(scores, keep, False, 1.0)
    p.square().sum().backward()
    assert p[1].tolist() == [0.0, 0.0, 0.0] and float(p[0].detach().sum()) == pytest.approx(1.0)
    assert scores.grad is not None and bool(scores.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype_and_rows_without_a_key_are_zero(dtype: torch.dtype) -> None:
    query, key, value = (x.to(dtype) for x in tensors())
    keep = torch.ones(7, 7, dtype=torch.bool)
    keep[2] = False
    ranges = unset()
    result = attend(query, key, value, ranges, "row", update=True, attn_mask=keep)
    plain = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), attn_mask=keep)
    assert result.dtype is dtype and bool(result.isfinite().all())
    step = float(ranges[5].diff()) / 255
    assert result[:, :, 2].abs().max() <= step, "zero, or the level beside it"
    torch.testing.assert_close(result.float(), plain, atol=0.1, rtol=0.0)


def test_errors_say_what_is_wrong() -> None:
    query, key, value = tensors(shared=3)
    with pytest.raises(ShapeError, match="4 heads of query, 3 of key"):
        attend(query, key, value, unset(), update=True, enable_gqa=True)
    query, key, value = tensors()
    with pytest.raises(NotCalibratedError, match="query_range"):
        attend(query, key, value, unset())
    with pytest.raises(ShapeError, match="attn_mask"):
        attend(query, key, value, unset(), update=True, attn_mask=torch.ones(2, 7, dtype=torch.bool))
    with pytest.raises(ConfigurationError, match="'column'"):
        attend(query, key, value, unset(), "column", update=True)
    with pytest.raises(ConfigurationError, match="'static'"):
        attend(query, key, value, unset(), update=True, noise="static")
    with pytest.raises(ConfigurationError, match="query_range"):
        attend(query, key, value, torch.zeros(6, 3), update=True)


def test_shot_noise_is_the_same_whether_the_range_moves_or_stands() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, 5, 8, generator=generator) for _ in range(3))
    ranges = (
        [torch.tensor([-8.0, 8.0]) for _ in range(3)] + [torch.tensor([0.0, 1.0])] + [torch.tensor([-8.0, 8.0])] * 2
    )
    results = [
        optical_transformer_SDPA(
            query,
            key,
            value,
            query_range=ranges[0].clone(),
            key_range=ranges[1].clone(),
            qk_range=torch.tensor([-40.0, 40.0]),
            attn_range=ranges[3].clone(),
            value_range=ranges[4].clone(),
            av_range=ranges[5].clone(),
            seed=7,
            update=update,
            smooth_factor=1.0,
            noise="shot",
            photons=50.0,
            lut=None,
        )
        for update in (False, True)
    ]
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-4)
