"""The definition itself: against exact rational arithmetic and against plain autograd."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quantsim_kernels.reference import affine

SHAPES = [((), None), ((6, 1), None), ((8,), None), ((6, 2), (1, 4)), ((2, 4), (3, -1))]


def chain(
    x: Tensor, scale: Tensor, offset: Tensor, qmin: int, qmax: int, block_size: Any, shift: float = 0.0
) -> Tensor:
    """Quantize-dequantize written so that autograd finds the gradients: rounding is the identity, clamp a clamp."""
    view, scale_view = affine.blocked_shapes(x.shape, scale.shape, block_size)
    s, o = scale.reshape(scale_view), offset.reshape(scale_view)
    ratio = x.reshape(view) / s - shift
    rounded = ratio + (ratio.round() - ratio).detach()
    return ((torch.clamp(rounded - o, qmin, qmax) + o + shift) * s).reshape(x.shape)


@given(
    x=st.floats(-300, 300, width=32),
    scale=st.floats(2.0**-7, 8, width=32),
    offset=st.integers(-255, 255),
    grid=st.sampled_from([(-128, 127), (0, 255), (-7, 7), (-8, 7)]),
)
def test_codes_and_values_in_exact_arithmetic(x: float, scale: float, offset: int, grid: tuple[int, int]) -> None:
    ratio = torch.tensor(x) / torch.tensor(scale)
    # Python rounds fractions half to even, too; the quotient is the one step that float32 rounds.
    code = min(max(round(Fraction(ratio.item())) - offset, grid[0]), grid[1])
    tensors = (torch.tensor(x), torch.tensor(scale), torch.tensor(float(offset)))
    assert affine.quantize(*tensors, *grid).item() == code
    value = torch.tensor(float(code + offset)) * torch.tensor(scale)
    assert affine.quantize_dequantize(*tensors, *grid).item() == value.item()
    assert affine.dequantize(torch.tensor(float(code)), tensors[1], tensors[2]).item() == value.item()


def test_division_is_not_multiplication_by_the_inverse() -> None:
    scale = torch.rand(100, 1) + 0.01
    x = (torch.arange(-128, 127) + 0.5) * scale
    expected = (x / scale).round().clamp(-128, 127) * scale
    assert torch.equal(affine.quantize_dequantize(x, scale, None, -128, 127), expected)
    inverse = (x * (1 / scale)).round().clamp(-128, 127) * scale
    assert not torch.equal(expected, inverse)


@pytest.mark.parametrize("shift", [0.0, 0.5])
@pytest.mark.parametrize(("scale_shape", "block_size"), SHAPES, ids=str)
def test_gradients_equal_autograd_of_the_chain(scale_shape: Any, block_size: Any, shift: float) -> None:
    # The slope of clipped values leaves the shift out by definition, so with a shift nothing is clipped here.
    grid = (-4096, 4095) if shift else (-8, 7)
    x = torch.randn(6, 8, dtype=torch.float64) * 2
    scale = torch.rand(scale_shape, dtype=torch.float64) * 0.2 + 0.05
    offset = torch.randint(-5, 6, scale_shape).double()
    grad = torch.randn(6, 8, dtype=torch.float64)
    results = []
    for function in (affine.quantize_dequantize, chain):
        leaves = [t.clone().requires_grad_() for t in (x, scale, offset)]
        function(*leaves, *grid, block_size, shift).backward(grad)
        results.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("scale_shape", "block_size"), SHAPES, ids=str)
def test_gradients_of_quantize_and_dequantize(scale_shape: Any, block_size: Any) -> None:
    x = torch.randn(6, 8, dtype=torch.float64) * 2
    scale = torch.rand(scale_shape, dtype=torch.float64) * 0.2 + 0.05
    offset = torch.randint(-5, 6, scale_shape).double()
    grad = torch.randn(6, 8, dtype=torch.float64)
    together, apart = [], []
    for results in (together, apart):
        leaves = [t.clone().requires_grad_() for t in (x, scale, offset)]
        if results is together:
            y = chain(*leaves, -8, 7, block_size)
        else:
            y = affine.dequantize(affine.quantize(*leaves, -8, 7, block_size), leaves[1], leaves[2], block_size)
        y.backward(grad)
        results.extend(leaf.grad for leaf in leaves)
    torch.testing.assert_close(apart, together, rtol=1e-12, atol=1e-12)


def test_range_gradients_equal_finite_slopes() -> None:
    """Where nothing rounds differently, moving an end of the range moves clipped values at the stated rate."""
    x = torch.tensor([5.0, -5.0], dtype=torch.float64)

    def clipped(low: float, high: float) -> Tensor:
        ends = [torch.tensor(end, dtype=torch.float64, requires_grad=True) for end in (low, high)]
        scale, offset = affine.scale_and_offset(*ends, -128, 127, symmetric=True)
        y = affine.quantize_dequantize(x, scale, offset, -128, 127)
        y[0].backward()
        return torch.stack([y[0].detach(), *(end.grad for end in ends)])

    here, there = clipped(-1.0, 1.0), clipped(-1.0, 1.01)
    assert (there[0] - here[0]).item() / 0.01 == pytest.approx(here[2].item(), rel=1e-3)


def test_dtypes_are_kept() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x, scale, offset = torch.randn(4, 8).to(dtype), torch.rand(4, 1), torch.zeros(4, 1)
        leaves = [t.requires_grad_() for t in (x, scale, offset)]
        y = affine.quantize_dequantize(*leaves, -128, 127)
        assert y.dtype is dtype
        y.sum().backward()
        assert [leaf.grad.dtype for leaf in leaves if leaf.grad is not None] == [dtype, torch.float32, torch.float32]
    assert affine.dequantize(torch.ones(3, dtype=torch.int8), torch.tensor(0.5), None).dtype is torch.float32


def test_half_precision_sums_do_not_overflow() -> None:
    x = torch.full((100_000,), 50.0, dtype=torch.float16)
    _, dscale, _ = affine.quantize_dequantize_backward(torch.ones_like(x), x, torch.tensor(0.1), None, -128, 127)
    assert dscale.item() == 127 * 100_000


def test_grouped_block_scale_by_hand() -> None:
    raw = torch.tensor([[0.16, 0.09, 0.004, 0.16], [0.32, 0.02, 0.01, 0.17]], requires_grad=True)
    scale, group, integers = affine.grouped_block_scale(raw, (1, 2), 4, 8)
    torch.testing.assert_close(group, torch.tensor([[0.01, 0.01], [0.02, 0.010625]]))
    assert integers.tolist() == [[16, 9, 1, 16], [16, 1, 1, 16]]
    torch.testing.assert_close(scale, group.repeat_interleave(2, dim=1) * integers)
    scale.sum().backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize(
    ("grouping", "bits", "decompressed_bits", "message"),
    [((1, 3), 4, 8, "divide"), ((1,), 4, 8, "one entry for each dimension"), ((1, 2), 8, 4, "at least bits = 8")],
    ids=["indivisible", "short", "narrow"],
)
def test_grouped_block_scale_refuses(grouping: Any, bits: int, decompressed_bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        affine.grouped_block_scale(torch.ones(2, 4), grouping, bits, decompressed_bits)
