from __future__ import annotations

import numpy as np
import pytest
import torch

from quantsim.dualpath.lowered_values import StaysFloatError, is_on_grid, same_grid
from quantsim.dualpath.quantizer_grids import codes_on_grid, grid_of, to_codes
from quantsim.quantization import affine
from quantsim.quantization.softmax import UnnormalizedSoftmaxQuantizeDequantize


def test_codes_are_those_of_the_quantizer() -> None:
    quantizer = affine.QuantizeDequantize((), bitwidth=8, symmetric=False)
    quantizer.set_range(-1.3, 2.1)
    x = torch.randn(1000)
    grid = grid_of(quantizer, (1000,))
    real = quantizer(x).detach()
    codes = codes_on_grid(real, grid)
    assert isinstance(grid.scale, float)
    direct = to_codes(x, grid.scale, grid.zero_point, grid.low, grid.high, torch.uint8)
    assert np.array_equal(direct.numpy(), codes)
    assert np.allclose((codes - grid.zero_point) * grid.scale, real.numpy(), atol=1e-6)


def test_scales_of_channels_lie_along_their_axis() -> None:
    quantizer = affine.QuantizeDequantize((3, 1), bitwidth=4, symmetric=True)
    weight = torch.randn(3, 5)
    with quantizer.compute_encodings():
        quantizer(weight)
    grid = grid_of(quantizer, (3, 5))
    assert grid.axis == 0
    assert (grid.low, grid.high) == (-8, 7)
    codes = codes_on_grid(quantizer(weight).detach(), grid)
    assert np.allclose(codes * np.asarray(grid.scale)[:, None], quantizer(weight).detach().numpy(), atol=1e-6)


def test_what_has_no_integer_grid_says_why() -> None:
    blocks = affine.QuantizeDequantize((2, 2), bitwidth=4, symmetric=True, block_size=(1, 4))
    with blocks.compute_encodings():
        blocks(torch.randn(2, 8))
    wide = affine.QuantizeDequantize((), bitwidth=24, symmetric=True)
    wide.set_range(-1.0, 1.0)
    for quantizer, reason in (
        (blocks, "blocks"),
        (wide, "24 bits"),
        (affine.DynamicQuantizeDequantize(8), "no fixed integer grid"),
        (UnnormalizedSoftmaxQuantizeDequantize(8), "no fixed integer grid"),
    ):
        with pytest.raises(StaysFloatError, match=reason):
            grid_of(quantizer, (2, 8))


def test_a_clipped_grid_lies_on_the_whole_one() -> None:
    quantizer = affine.QuantizeDequantize((), bitwidth=8, symmetric=True)
    quantizer.set_range(-1.0, 1.0)
    grid = grid_of(quantizer, ())
    clipped = type(grid)(grid.scale, grid.zero_point, 0, grid.high)
    assert is_on_grid(clipped, grid)
    assert not is_on_grid(grid, clipped)
    assert not same_grid(grid, clipped)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_half_precision_numbers_get_the_codes_of_their_float32_values(dtype: torch.dtype, symmetric: bool) -> None:
    quantizer = affine.QuantizeDequantize((), bitwidth=16, symmetric=symmetric)
    quantizer.set_range(-3.0, 3.1)
    grid = grid_of(quantizer, ())
    x = torch.linspace(-3.5, 3.5, 4001).to(dtype)
    assert isinstance(grid.scale, float)
    codes = to_codes(x, grid.scale, grid.zero_point, grid.low, grid.high, torch.int32)
    assert np.array_equal(codes.numpy(), codes_on_grid(quantizer(x.float()), grid))
    assert codes_on_grid(quantizer(x.float()).to(dtype), grid).dtype == np.int64
