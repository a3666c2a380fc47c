"""Cutting tensors and their scales into matching pieces loses and mixes up nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from quantsim_kernels.torch._pieces import aligned_views, pieces

CASES: list[tuple[Any, Any, int]] = [
    ((40, 30), (), 1),
    ((40, 30), (40, 1), 2),
    ((40, 30), (30,), 2),
    ((4, 6, 5, 5), (6, 1, 1), 3),
    ((6, 1, 4, 8), (6, 1, 4, 1), 2),
    ((6, 4, 3, 8), (6, 1, 3, 1), 4),
    ((3, 700), (3, 1), 2),
    ((2, 3, 300), (3, 1), 3),
    ((1, 1), (1, 1), 0),
]


@pytest.mark.parametrize(("shape", "scale_shape", "dimensions"), CASES, ids=str)
@pytest.mark.parametrize("elements", [7, 64, 10**6])
@pytest.mark.parametrize("transposed", [False, True])
def test_every_element_meets_its_own_scale(
    shape: Any, scale_shape: Any, dimensions: int, elements: int, transposed: bool
) -> None:
    x = torch.randn(shape)
    if transposed:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    scale = torch.rand(scale_shape)
    out = torch.full_like(x, float("nan"))
    aligned = aligned_views((x, out), (scale, None), shape)
    assert aligned is not None
    if not transposed:
        assert aligned[0][0].dim() == dimensions
    largest = 0
    for (source, target), (factor, nothing) in pieces(*aligned, elements):
        assert nothing is None
        assert factor is not None
        torch.mul(source, factor, out=target)
        largest = max(largest, source.numel())
    assert torch.equal(out, x * scale)
    assert largest <= max(2 * elements, 1)


@pytest.mark.parametrize("make", ["gaps", "expanded"])
def test_memory_with_gaps_or_overlaps_is_not_cut(make: str) -> None:
    base = torch.randn(8, 12)
    x = base[:, ::2] if make == "gaps" else base[:1].expand(8, 12)
    assert aligned_views((x,), (), x.shape) is None
