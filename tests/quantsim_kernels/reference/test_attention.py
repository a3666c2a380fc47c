"""The steps of attention around given products, against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim_kernels.reference.attention import attention_steps, attention_weights


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plain(a: Tensor, b: Tensor, row_range: Tensor | None) -> Tensor:
    return a @ b


@pytest.mark.parametrize("shared", [4, 2, 1])
@pytest.mark.parametrize("mask", [None, "bool", "added", "of each head"])
@pytest.mark.parametrize("causal", [False, True])
def test_steps_equal_torchs_attention(shared: int, mask: str | None, causal: bool) -> None:
    q, k, v = (draw(2, heads, size, 8, seed=heads + size).requires_grad_() for heads, size in
               ((4, 5), (shared, 7), (shared, 7)))  # fmt: skip
    keep = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    keep[1, ..., :2] = False
    if mask == "of each head":
        keep = draw(2, 4, 5, 7, seed=3) > -1.0
        keep[..., 0] = True
    given = {None: None, "added": torch.zeros(keep.shape).masked_fill(~keep, -math.inf)}.get(mask, keep)
    y, weights = attention_steps(q, k, v, plain, plain, attn_mask=given, is_causal=causal, enable_gqa=True)
    visible = keep if mask is not None else torch.ones(1, dtype=torch.bool)
    if causal:
        visible = visible & torch.ones(5, 7, dtype=torch.bool).tril(2)
    expected = F.scaled_dot_product_attention(q, k, v, visible.expand(2, 4, 5, 7), enable_gqa=True)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 5))
    probe = draw(2, 4, 5, 8, seed=9)
    for mine, theirs in zip(
        torch.autograd.grad((y * probe).sum(), (q, k, v)),
        torch.autograd.grad((expected * probe).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("added", [False, True])
def test_a_row_that_sees_nothing_is_zero_beside_causality(added: bool) -> None:
    scores = draw(1, 2, 4, 4).requires_grad_()
    keep = torch.ones(4, 4, dtype=torch.bool)
    keep[0, 0] = keep[2] = False  # together with causality, row 0 sees nothing either
    given = torch.zeros(4, 4).masked_fill(~keep, -math.inf) if added else keep
    weights = attention_weights(scores, given, True, 1.0)
    assert weights[0, :, [0, 2]].abs().max() == 0.0
    torch.testing.assert_close(weights[0, :, [1, 3]].sum(-1), torch.ones(2, 2))
    (gradient,) = torch.autograd.grad(weights.square().sum(), scores)
    assert gradient.isfinite().all() and gradient[0, :, 2].abs().max() == 0.0


def test_padding_by_the_smallest_number_never_shows_later_keys() -> None:
    """A row whose keys are all padded stays causal."""
    lowest = torch.finfo(torch.float32).min
    weights = attention_weights(torch.zeros(3, 3), torch.full((3, 3), lowest), True, 1.0)
    assert torch.equal(weights.triu(1), torch.zeros(3, 3)) and bool(weights.isfinite().all())


def test_scores_are_overwritten_only_if_owned() -> None:
    scores = draw(4, 4)
    before = scores.clone()
    weights = attention_weights(scores, None, False, 0.5)
    assert torch.equal(scores, before)
    assert torch.equal(attention_weights(scores, None, False, 0.5, owned=True), weights)


def test_rows_have_their_own_ranges_through_shared_heads() -> None:
    q, k = draw(1, 4, 3, 8), draw(1, 2, 5, 8, seed=1)
    seen: list[Tensor] = []

    def output_of(a: Tensor, b: Tensor, row_range: Tensor | None) -> Tensor:
        assert row_range is not None
        seen.append(row_range)
        return a @ b

    _, weights = attention_steps(q, k, k, plain, output_of, enable_gqa=True, row_range=True)
    assert torch.equal(seen[0][1].flatten(), weights.amax(-1).flatten())
    assert seen[0][0].abs().max() == 0.0


@pytest.mark.parametrize(("keys", "values", "gqa"), [(3, 3, True), (2, 2, False), (2, 1, True), (0, 0, True)])
def test_heads_that_do_not_fit_are_named(keys: int, values: int, gqa: bool) -> None:
    with pytest.raises(ValueError, match=f"4 heads of query, {keys} of key and {values} of value"):
        attention_steps(draw(1, 4, 3, 8), draw(1, keys, 3, 8), draw(1, values, 3, 8), plain, plain, enable_gqa=gqa)


def test_a_mask_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="attn_mask"):
        attention_weights(torch.zeros(2, 3), torch.ones(2, 4, dtype=torch.bool), False, 1.0)
    with pytest.raises(ValueError, match="attn_mask"):
        attention_weights(torch.zeros(2, 3), torch.ones(5, 2, 3), False, 1.0)


def test_a_given_softmax_gets_the_masked_scores_and_leaves_them_alone() -> None:
    q, kept = draw(1, 2, 4, 8), []

    def scores_of(a: Tensor, b: Tensor, row_range: Tensor | None) -> Tensor:
        kept.append(a @ b)
        return kept[-1]

    y, _ = attention_steps(q, q, q, scores_of, plain, is_causal=True, softmax=lambda scores: torch.softmax(scores, -1))
    assert torch.equal(kept[0], q @ q.mT)
    torch.testing.assert_close(y, F.scaled_dot_product_attention(q, q, q, is_causal=True))


def test_wide_numbers_stay_wide() -> None:
    q = draw(1, 2, 4, 8).double()
    y, weights = attention_steps(q, q, q, plain, plain)
    assert weights.dtype is torch.float64
    torch.testing.assert_close(y, F.scaled_dot_product_attention(q, q, q), rtol=1e-12, atol=1e-12)
