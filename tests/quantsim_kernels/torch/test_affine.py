"""What only the fast torch kernels have: pieces. (Their numbers are tested in ../test_affine.py.)"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from quantsim_kernels import (
    affine_dequantize,
    affine_dynamic_quantize_dequantize,
    affine_quantize,
    affine_quantize_dequantize,
    force_backend,
)
from quantsim_kernels.torch import affine as fast

SHAPES: dict[str, tuple[Any, Any, Any]] = {
    "tensor": ((40, 30), (), None),
    "channel": ((40, 30), (40, 1), None),
    "last-channel": ((40, 30), (30,), None),
    "conv": ((4, 6, 5, 5), (6, 1, 1), None),
    "block": ((40, 32), (40, 4), (1, 8)),
    "block-both": ((40, 32), (4, 4), (10, 8)),
    "wide-rows": ((3, 700), (3, 1), None),
}


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantsim_kernels.torch._pieces.WHOLE_ELEMENTS", 100)
    monkeypatch.setattr("quantsim_kernels.torch._pieces.PIECE_ELEMENTS", 64)
    monkeypatch.setattr("quantsim_kernels.torch._pieces.BACKWARD_PIECE_ELEMENTS", 64)


def run(x: Tensor, scale: Tensor, offset: Tensor | None, grad: Tensor, *arguments: Any) -> list[Tensor | None]:
    leaves = [None if t is None else t.clone().requires_grad_() for t in (x, scale, offset)]
    y = affine_quantize_dequantize(*leaves, *arguments)  # type: ignore[arg-type]
    y.backward(grad)
    return [y.detach(), *(None if leaf is None else leaf.grad for leaf in leaves)]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", SHAPES)
def test_pieces_equal_the_reference(name: str, dtype: torch.dtype, transposed: bool, assert_same_bits: Any) -> None:
    shape, scale_shape, block_size = SHAPES[name]
    x = (torch.randn(shape) * 3).to(dtype)
    if transposed:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    scale = torch.rand(scale_shape) * 0.05 + 0.01
    grad = torch.randn(shape).to(dtype)
    for grid in ((-128, 127), (-8, 7)):
        for offset in (None, torch.randint(-20, 20, scale_shape).float(), torch.tensor(3.0)):
            with force_backend("reference"):
                expected = run(x, scale, offset, grad, *grid, block_size)
                codes = affine_quantize(x, scale, offset, -8, 7, block_size)
                reals = affine_dequantize(codes, scale, offset, block_size)
            actual = run(x, scale, offset, grad, *grid, block_size)
            assert actual[0] is not None
            assert expected[0] is not None
            assert_same_bits(actual[0], expected[0])
            with torch.no_grad():
                assert_same_bits(affine_quantize_dequantize(x, scale, offset, *grid, block_size), expected[0])
                mine = x.clone()
                assert affine_quantize_dequantize(mine, scale, offset, *grid, block_size, inplace=True) is mine
                assert_same_bits(mine, expected[0])
            assert_same_bits(affine_quantize(x, scale, offset, -8, 7, block_size), codes)
            assert_same_bits(affine_dequantize(codes, scale, offset, block_size), reals)
            assert torch.equal(actual[1], expected[1])  # type: ignore[arg-type]
            torch.testing.assert_close(actual[2:], expected[2:], rtol=2e-6, atol=1e-2 if grid[1] > 7 else 1e-3)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("clipped_row", [None, 0, 20, 39], ids=str)
@pytest.mark.parametrize("with_offset", [False, True])
def test_pieces_without_clipped_values(clipped_row: int | None, with_offset: bool, dtype: torch.dtype) -> None:
    x = torch.rand(40, 30)
    if clipped_row is not None:
        x[clipped_row, 5:9] = 1000
    x, grad, scale = x.to(dtype), torch.randn(40, 30).to(dtype), torch.full((40, 1), 0.02)
    offset = torch.randint(-20, 20, (40, 1)).float() if with_offset else None
    with force_backend("reference"):
        expected = run(x, scale, offset, grad, -128, 127, None)
    actual = run(x, scale, offset, grad, -128, 127, None)
    torch.testing.assert_close(actual, expected, rtol=2e-6, atol=1e-3)
    assert torch.equal(actual[1], expected[1])  # type: ignore[arg-type]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_dynamic_pieces_equal_the_reference(
    symmetric: bool, inplace: bool, dtype: torch.dtype, assert_same_bits: Any
) -> None:
    x = torch.randn(40, 3, 16).to(dtype)
    with force_backend("reference"):
        expected = affine_dynamic_quantize_dequantize(x, 0, 255, symmetric)
    assert_same_bits(affine_dynamic_quantize_dequantize(x, 0, 255, symmetric, inplace=inplace), expected)


def test_large_sums_are_accurate() -> None:
    """A range gradient summed over three million elements, against float64."""
    x, grad = torch.randn(3000, 1024), torch.randn(3000, 1024)
    scale = torch.tensor(0.02, requires_grad=True)
    offset = torch.tensor(3.0, requires_grad=True)
    affine_quantize_dequantize(x, scale, offset, -128, 127).backward(grad)
    ratio = x / scale.detach()
    rounded = ratio.round()
    clamped = (rounded - 3).clamp(-128, 127) + 3
    inside = rounded == clamped
    exact = (grad.double() * torch.where(inside, rounded - ratio, clamped).double()).sum()
    exact_offset = torch.where(inside, 0.0, grad).double().sum() * scale.detach().double()
    assert scale.grad is not None
    assert offset.grad is not None
    assert abs(scale.grad.item() - exact.item()) <= 1e-6 * abs(exact.item())
    assert abs(offset.grad.item() - exact_offset.item()) <= 1e-6 * abs(exact_offset.item())


def test_objections() -> None:
    assert fast.objection(torch.ones(2)) is None
    assert fast.objection(torch.ones(2, device="meta")) == "it serves CPU tensors only"
    assert fast.objection(torch.ones(2), zero_point_shift=0.5) == "it has no zero_point_shift"

    class Mine(Tensor):
        pass

    assert fast.objection(torch.ones(2).as_subclass(Mine)) == "it serves plain tensors only, not Mine"
