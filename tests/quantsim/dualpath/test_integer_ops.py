"""Exact sums: extremes and random codes against NumPy's int64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from quantsim.dualpath import ConvOPS, IntMatMul, MatMul
from quantsim.errors import ConfigurationError, ShapeError

FILLS = ["random", "lowest", "highest"]


def codes(shape: tuple[int, ...], dtype: torch.dtype, fill: str, seed: int) -> torch.Tensor:
    limits = torch.iinfo(dtype)
    if fill == "random":
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(limits.min, limits.max + 1, shape, generator=generator).to(dtype)
    return torch.full(shape, limits.min if fill == "lowest" else limits.max, dtype=dtype)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
@pytest.mark.parametrize("length", [1, 1000, 4096])
def test_products_with_weights(length: int, dtype: torch.dtype, fill: str) -> None:
    x, weight = codes((3, 5, length), dtype, fill, 0), codes((7, length), torch.int8, fill, 1)
    sums = MatMul()(x, weight)
    assert sums.dtype == torch.int32
    assert np.array_equal(sums.numpy(), x.numpy().astype(np.int64) @ weight.numpy().astype(np.int64).T)


@pytest.mark.parametrize("fill", FILLS)
def test_products_of_activations_take_off_zero_points(fill: str) -> None:
    a, b = codes((2, 3, 4, 300), torch.uint8, fill, 2), codes((2, 3, 300, 6), torch.int8, fill, 3)
    product = IntMatMul()
    product.zero_points = (128, -5)
    expected = (a.numpy().astype(np.int64) - 128) @ (b.numpy().astype(np.int64) + 5)
    assert np.array_equal(product(a, b).numpy(), expected)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 1, 1), (1, [(1, 0), (2, 3)], 2)])
def test_convolutions_pad_with_the_zero_point(stride: int, padding, dilation: int, groups: int, fill: str) -> None:
    x, weight = codes((2, 4, 9, 8), torch.uint8, fill, 4), codes((8, 4 // groups, 3, 3), torch.int8, fill, 5)
    sides = [(padding, padding)] * 2 if isinstance(padding, int) else padding
    padded = np.pad(x.numpy(), [(0, 0), (0, 0), *sides], constant_values=77)
    expected = F.conv2d(torch.tensor(padded, dtype=torch.float64), weight.double(), None, stride, 0, dilation, groups)
    sums = ConvOPS(stride, padding, dilation, groups, zero_point=77)(x, weight)
    assert sums.dtype == torch.int32
    assert torch.equal(sums.double(), expected)


def test_reals_are_multiplied_as_torch_does() -> None:
    x, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3)
    assert torch.equal(ConvOPS(padding=1)(x, weight), F.conv2d(F.pad(x, (1, 1, 1, 1)), weight))
    assert torch.equal(MatMul()(x, torch.ones(5, 6)), F.linear(x, torch.ones(5, 6)))
    assert torch.equal(IntMatMul()(x, x.transpose(-2, -1)), x @ x.transpose(-2, -1))


def test_mixed_operands_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="one operand is real"):
        MatMul()(torch.ones(1, 2), torch.ones(1, 2, dtype=torch.int8))


def test_sums_that_could_leave_32_bits_are_refused_before_they_do() -> None:
    length = 2**31 // (255 * 128) + 1
    with pytest.raises(ConfigurationError, match=r"(?s)overflow.*\(1\).*\(2\).*\(3\)"):
        MatMul()(torch.zeros(1, length, dtype=torch.uint8), torch.zeros(1, length, dtype=torch.int8))
    wide = torch.full((1, 4), 32767, dtype=torch.int16)
    assert int(IntMatMul()(wide[:, :1], wide[:, :1].T)) == 32767**2
    with pytest.raises(ConfigurationError, match="overflow"):
        IntMatMul()(wide, wide.T)


def test_integers_without_a_batch_are_refused() -> None:
    x, weight = torch.zeros(2, 6, 6, dtype=torch.uint8), torch.zeros(6, 2, 3, 3, dtype=torch.int8)
    with pytest.raises(ShapeError, match="unsqueeze"):
        ConvOPS()(x, weight)
