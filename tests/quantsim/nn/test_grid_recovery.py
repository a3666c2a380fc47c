from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantsim.nn import QuantizedLinear
from quantsim.nn.grid_recovery import recover_grid
from quantsim.quantization import affine


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    bits=st.sampled_from([2, 3, 4, 6, 8, 10]),
    shape=st.sampled_from(["tensor", "channel", "block"]),
    scale_exponent=st.integers(-20, 20),
)
def test_a_quantized_weight_is_recovered_exactly(seed: int, bits: int, shape: str, scale_exponent: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, columns = 6, 64
    quantizer_shape = {"tensor": (), "channel": (rows, 1), "block": (rows, 2)}[shape]
    block_size = (1, 32) if shape == "block" else None
    scale = (torch.rand(quantizer_shape, generator=generator) + 0.5) * 2.0**scale_exponent
    # Not the whole range of codes, so that min-max would find another grid.
    limit = max(1, 2 ** (bits - 1) - 2)
    codes = torch.randint(-limit, limit + 1, (rows, columns), generator=generator)
    codes[:, ::32] = 1  # the largest common divisor of the codes is 1
    if shape == "block":
        weight = (codes.reshape(rows, 2, 32) * scale[..., None]).reshape(rows, columns)
    else:
        weight = codes * scale
    quantizer = affine.QuantizeDequantize(quantizer_shape, bits, True, block_size=block_size)
    assert recover_grid(quantizer, weight)
    torch.testing.assert_close(quantizer.get_scale(), scale, rtol=3e-7, atol=0)
    torch.testing.assert_close(quantizer(weight).detach(), weight, rtol=3e-7, atol=0)


@pytest.mark.parametrize("bits", [4, 8, 12])
@pytest.mark.parametrize("shape", [(), (16, 1)])
def test_real_weights_are_on_no_grid(bits: int, shape: tuple[int, ...]) -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(bits))
    quantizer = affine.QuantizeDequantize(shape, bits, True)
    assert not recover_grid(quantizer, weight)
    assert not quantizer.is_initialized()


def test_a_range_stays_if_nothing_is_recovered() -> None:
    quantizer = affine.QuantizeDequantize((), 8, True)
    quantizer.set_range(-1.0, 1.0)
    assert not recover_grid(quantizer, torch.randn(4, 4))
    assert float(quantizer.max) == 1.0


def test_too_many_levels_for_the_quantizer() -> None:
    weight = torch.arange(-100.0, 100.0).reshape(10, 20)
    assert recover_grid(affine.QuantizeDequantize((), 8, True), weight)
    assert not recover_grid(affine.QuantizeDequantize((), 7, True), weight)


@pytest.mark.parametrize("bits", [16, 32])
def test_a_coarse_grid_is_recovered_by_a_fine_quantizer(bits: int) -> None:
    weight = torch.randint(-127, 128, (8, 64), generator=torch.Generator().manual_seed(0)) * 0.0123
    quantizer = affine.QuantizeDequantize((), bits, True)
    assert recover_grid(quantizer, weight)
    assert float(quantizer.get_scale().detach()) == pytest.approx(0.0123)


def test_rows_of_zeros_and_strict_grids() -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0], [0.7, -0.1, 0.3]])
    quantizer = affine.QuantizeDequantize((2, 1), -7, 7, True)
    assert recover_grid(quantizer, weight)
    torch.testing.assert_close(quantizer(weight).detach(), weight)
    assert not recover_grid(quantizer, torch.zeros(2, 3))


@pytest.mark.parametrize(
    "quantizer",
    [
        affine.QuantizeDequantize((), 8, False),
        affine.QuantizeDequantize((), 0, 255, True),
        affine.GroupedBlockQuantizeDequantize((2, 1), 4, True, 8, block_size=(1, 2)),
        affine.DynamicQuantizeDequantize(8, True),
    ],
    ids=lambda quantizer: type(quantizer).__name__,
)
def test_other_quantizers_are_left_to_their_analyzer(quantizer: torch.nn.Module) -> None:
    assert not recover_grid(quantizer, torch.tensor([[0.7, -0.1], [0.1, 0.3]]))


@pytest.mark.parametrize("weight", [torch.zeros(0, 3), torch.tensor([[1.0, torch.nan, 2.0]]), torch.ones(5, 7)])
def test_weights_that_do_not_fit(weight: torch.Tensor) -> None:
    assert not recover_grid(affine.QuantizeDequantize((2, 1), 8, True), weight)


def test_module_uses_it() -> None:
    linear = QuantizedLinear(4, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[3.0, -2, 1, 0], [1, 1, 2, 3]]) * 0.013)
    linear.param_quantizers["weight"] = affine.QuantizeDequantize((), 8, True)
    linear.compute_param_encodings()
    assert float(linear.param_quantizers["weight"].get_scale().detach()) == pytest.approx(0.013)
